"""Looking at data that nobody has described yet, and deciding what its description has to say.

Every decision is a key of the recipe's data section, tried on the data before it is handed on: the folds that are
suggested are folds that the samples were divided into.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from engine.advice.columns import Columns, columns_of
from engine.advice.groups import GroupColumn, group_columns
from engine.advice.labels import as_pattern, mean_none
from engine.data.checks import Checked, check
from engine.data.classes import class_names
from engine.data.clean import clean
from engine.data.describe import class_counts
from engine.data.folds import NEVER, Divided, divide
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.pixels import look
from engine.data.sources.listing import list_samples
from engine.data.sources.splits import split_named
from engine.data.tables import TABLE_SUFFIXES
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection, FoldsSection
from engine.text import count, some

_BESIDE = {
    "test": ("test.csv", "test", "testing"),
    "sample_submission": ("sample_submission.csv", "samplesubmission.csv", "submission_sample.csv"),
}

Watch = Callable[[str], Progress | None]
"""Asked with what is begun ("Indexing"); answers whom to tell the numbers of files done and in all."""


@dataclass(frozen=True)
class Given:
    """What the user has said beside the source, "" for nothing."""

    test: str = ""
    submission: str = ""
    images: str = ""
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class Survey:
    """Data, looked at. `section` is the data section that is suggested; the rest says why.

    manifest: what is trained on. classes: its images by class. run: the folds there are. trained_on: images of the
    smallest. notices: what was made of the source, in words. group: the column to split by; maybe_groups: others that
    might be meant. beside: keys and the files found for them that nobody asked for.
    """

    section: DataSection
    checked: Checked
    manifest: Manifest
    classes: dict[str, int]
    trained_on: int
    run: tuple[int, ...]
    notices: tuple[str, ...]
    group: GroupColumn | None
    maybe_groups: tuple[GroupColumn, ...]
    beside: tuple[tuple[str, str], ...]


def survey(source: str, given: Given = Given(), watch: Watch = lambda _: None) -> Survey:
    """Look at a folder of images or a table. Raises DataError for what cannot be trained on, saying what to mend."""
    is_table = source.lower().endswith(TABLE_SUFFIXES) and os.path.isfile(source)  # noqa: PTH113
    columns = columns_of(source, given.images, given.label) if is_table else None
    section = _section(source, columns, given)
    manifest = ingest(source, section, watch("Indexing"))
    if columns and not pc.any(pc.equal(manifest.table["bytes"], -1)).as_py():
        section = section.model_copy(update={"missing": "error"})
    test = None if not section.test else (ingest(section.test, section, watch("Indexing")), section.test)
    checked = check(manifest, source, section, test, watch("Looking"))
    group, maybe = _groups(manifest, section, columns, given)
    if column := given.group or (group.name if group else ""):
        section = section.model_copy(update={"group_column": column})
        manifest = ingest(source, section)
    cleaned = clean(manifest, section).manifest
    class_names(cleaned)  # refuses fewer than two
    lost = sorted(set(manifest.labels) - set(cleaned.labels))
    section = section.model_copy(update={"drop_classes": (*section.drop_classes, *map(as_pattern, lost))})
    section, divided = _divided(cleaned, section)
    classes = class_counts(divided.manifest)
    return Survey(
        section=section,
        checked=checked,
        manifest=divided.manifest,
        classes=classes,
        trained_on=min(int((divided.fold_N != fold).sum()) for fold in divided.run),
        run=divided.run,
        notices=(
            *(columns.notices if columns else _validation(source)),
            *manifest.notices,
            *_words_about(lost),
            *divided.notices,
        ),
        group=group,
        maybe_groups=tuple(maybe),
        beside=tuple(_beside(source, section)),
    )


def _section(source: str, columns: Columns | None, given: Given) -> DataSection:
    """What a first look at names says."""
    labels = columns.labels if columns else _folders(source)
    none = mean_none(labels)
    said: dict[str, Any] = {"train": source, "test": given.test, "sample_submission": given.submission}
    if len(labels) - len(none) >= 2:
        said["drop_classes"] = tuple(map(as_pattern, none))
    if columns is not None:
        said |= {"images": columns.images, "path_column": columns.path, "label_column": columns.label}
        said |= {"fold_column": columns.fold, "missing": "leave_out"}
        if columns.folds:
            said["folds"] = FoldsSection(count=columns.folds)
    return DataSection().model_copy(update=said)  # a path that is there is not read as one that somebody writes


def _folders(source: str) -> set[str]:
    """The classes of a folder. Of images without one, the folders by which that is said."""
    listed = Manifest.build(list_samples(source, DataSection()).columns)
    unnamed = {id_ for id_, label in zip(listed.ids, listed.labels, strict=True) if not label and "/" in id_}
    return set(listed.labels) - {""} | {name for id_ in unnamed for name in mean_none(id_.split("/")[:-1])}


def _words_about(lost: Sequence[str]) -> list[str]:
    return [f"{count(lost, 'class', 'classes')} of which no image can be used, left out: {some(lost)}"] if lost else []


def _beside(source: str, section: DataSection) -> list[tuple[str, str]]:
    """Files and folders beside the training images, or among them, that are called like those of other keys."""
    here, own = os.path.split(source.rstrip("/"))
    folders = [here, source] if os.path.isdir(source) else [here]  # noqa: PTH112
    found = []
    for key, names in _BESIDE.items():
        paths = [
            os.path.join(folder, name)  # noqa: PTH118
            for folder in folders
            for name in _listed(folder)
            if name.casefold() in names and (folder != here or name != own)
        ]
        if paths and not getattr(section, key):
            found.append((key, paths[0]))
    return found


def _validation(source: str) -> list[str]:
    """Words about a folder beside the training images that is called as if it were for validation."""
    here, own = os.path.split(source.rstrip("/"))
    found = [name for name in _listed(here) if split_named(name) == "val"] if split_named(own) == "train" else []
    return [f"{name} lies beside it: engine init {here or '.'} holds that out in place of a fold" for name in found[:1]]


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder or os.curdir))  # noqa: PTH208
    except OSError:
        return []


def _groups(
    manifest: Manifest, section: DataSection, columns: Columns | None, given: Given
) -> tuple[GroupColumn | None, list[GroupColumn]]:
    if columns is None or not columns.others or given.group or columns.fold:
        return None, []
    usable = manifest.usable()
    seen = look(usable, section.train, section.cache)  # kept since the check
    sound = np.flatnonzero([fault is None for fault in seen.faults])
    part = usable.take(sound)
    believed, maybe = group_columns(columns.others, part.ids, part.labels, seen.hash_NB[sound])
    return (believed[0], [*believed[1:], *maybe]) if believed else (None, maybe)


def _divided(manifest: Manifest, section: DataSection) -> tuple[DataSection, Divided]:
    """The section with as many folds as can be made, up to five, and what they are.

    Classes that cannot be divided into three do not decide that: they are trained on and not validated.
    """
    own = bool(section.fold_column) or bool((manifest.folds_N >= 0).any())
    counts = [section.folds.count] if own else [5, 4, 3]
    rare_in = {folds: _never_held_out(_tried(manifest, section, folds, "train")[1]) for folds in counts}
    tries = [(folds, "error") for folds in counts]
    tries += [(folds, "train") for folds in counts if rare_in[folds] == rare_in[counts[-1]]]
    for folds, rare in [*tries, (2, "error"), (2, "train")]:
        chosen, divided = _tried(manifest, section, folds, rare)
        if divided is not None and (divided.fold_N != NEVER).any():
            return chosen, divided
    chosen, divided = _tried(manifest, section, 1, "error")
    assert divided is not None  # nothing is divided
    return chosen, divided


def _tried(manifest: Manifest, section: DataSection, number: int, rare: str) -> tuple[DataSection, Divided | None]:
    folds = section.folds.model_copy(update={"count": number})
    section = section.model_copy(update={"folds": folds, "rare_classes": rare})
    try:
        return section, divide(manifest, section, seed=0)
    except (RecipeError, DataError):
        return section, None


def _never_held_out(divided: Divided | None) -> set[str]:
    if divided is None:
        return set()
    labels = divided.manifest.labels
    held = {label for label, fold in zip(labels, divided.fold_N.tolist(), strict=True) if fold != NEVER}
    return set(labels) - held
