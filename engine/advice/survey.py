"""Looking at data that nobody has described yet, and deciding what its description has to say.

Every decision is a key of the recipe's data section, tried on the data before it is handed on: the folds that are
suggested are folds that the samples were split into.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.advice.columns import Columns, columns_of
from engine.advice.groups import GroupColumn, group_columns
from engine.advice.labels import as_pattern, mean_none
from engine.data.checks import Checked, check
from engine.data.classes import class_names
from engine.data.clean import Cleaned, clean
from engine.data.describe import class_counts
from engine.data.folds import assign_folds
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.pixels import look
from engine.data.tables import TABLE_SUFFIXES
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection, FoldsSection

MOST_FOLDS = 5
RARE = 3  # images of a class, of fewer of which no fold could be made

_TRAIN_NAMES = ("train", "training")
_VALID_NAMES = ("val", "valid", "validation", "dev")
_TEST_NAMES = ("test", "testing")
_SUBMISSIONS = ("sample_submission.csv", "sampleSubmission.csv", "submission_sample.csv")

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

    classes: images by class, of what is trained on. dropped: images by label that means none. rare: images by class
    that is too small to be held out. beside: keys and the files found for them that nobody asked for.
    """

    section: DataSection
    checked: Checked
    cleaned: Cleaned
    classes: dict[str, int]
    dropped: dict[str, int] = field(default_factory=dict)
    rare: dict[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    group: GroupColumn | None = None
    maybe_groups: tuple[GroupColumn, ...] = ()
    beside: tuple[tuple[str, str], ...] = ()


def survey(source: str, given: Given = Given(), watch: Watch = lambda _: None) -> Survey:
    """Look at a folder of images or a table. Raises DataError for what cannot be trained on, saying what to mend."""
    train, beside = _parts(source)
    is_table = train.lower().endswith(TABLE_SUFFIXES) and os.path.isfile(train)  # noqa: PTH113
    columns = columns_of(train, given.images, given.label) if is_table else None
    section = _section(train, columns, given)
    manifest = ingest(train, section, watch("Indexing"))
    dropped = _dropped(manifest)
    section = section.model_copy(update=_known(drop_classes=tuple(map(as_pattern, dropped))))
    test = None if not section.test else (ingest(section.test, section, watch("Indexing")), section.test)
    checked = check(manifest, train, section, test, watch("Looking"))
    group, maybe = _groups(manifest, section, columns, given)
    if column := given.group or (group.name if group else ""):
        section = section.model_copy(update={"group_column": column})
        manifest = ingest(train, section)
    cleaned = clean(manifest, section)
    classes = class_counts(cleaned.manifest)
    class_names(cleaned.manifest)  # refuses fewer than two
    rare = {name: count for name, count in classes.items() if count < RARE and _known(rare_classes=True)}
    section = section.model_copy(update=_known(rare_classes="train") if rare else {})
    section = section.model_copy(update={"folds": _folds(cleaned.manifest, section, rare)})
    return Survey(
        section=section,
        checked=checked,
        cleaned=cleaned,
        classes=classes,
        dropped=dropped,
        rare=rare,
        missing=(),
        group=group,
        maybe_groups=tuple(maybe),
        beside=tuple((key, path) for key, path in beside if not getattr(section, key)),
    )


def _known(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key in DataSection.model_fields}


def _section(train: str, columns: Columns | None, given: Given) -> DataSection:
    said: dict[str, Any] = {"train": train, "test": given.test, "sample_submission": given.submission}
    if columns is not None:
        said |= {"images": columns.images, "path_column": columns.path, "label_column": columns.label}
        said |= _known(missing="leave_out")
    return DataSection(**said)


def _parts(source: str) -> tuple[str, list[tuple[str, str]]]:
    """The training images of a source, which may be a folder that holds them beside a validation and a test part; and
    what lies beside them, by the key it may be meant for."""
    train = source
    inside = _listed(source) if os.path.isdir(source) else []  # noqa: PTH112
    parts = {name.casefold(): name for name in inside}
    if set(parts) & set(_TRAIN_NAMES) and set(parts) <= {*_TRAIN_NAMES, *_VALID_NAMES, *_TEST_NAMES}:
        train = os.path.join(source, next(parts[name] for name in _TRAIN_NAMES if name in parts))  # noqa: PTH118
    here = os.path.dirname(train.rstrip("/")) or os.curdir  # noqa: PTH120
    there = {name.casefold(): os.path.normpath(os.path.join(here, name)) for name in _listed(here, files=True)}  # noqa: PTH118
    found = []
    for key, names in (
        ("test", ("test.csv", *_TEST_NAMES, *_VALID_NAMES)),
        ("sample_submission", tuple(name.casefold() for name in _SUBMISSIONS)),
    ):
        path = next((there[name] for name in names if name in there), None)
        if path is not None and os.path.abspath(path) != os.path.abspath(train):  # noqa: PTH100
            found.append((key, path))
    return train, found


def _listed(folder: str, files: bool = False) -> list[str]:
    """What lies in a folder, hidden things apart; folders only, unless files are asked for as well."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and (files or e.is_dir()))
    except OSError:
        return []


def _dropped(manifest: Manifest) -> dict[str, int]:
    """Images by label that means none; none of them where fewer than two classes would be left."""
    counts = class_counts(manifest.usable())
    none = mean_none(counts) if _known(drop_classes=True) else []
    return {name: counts[name] for name in none} if len(counts) - len(none) >= 2 else {}


def _groups(
    manifest: Manifest, section: DataSection, columns: Columns | None, given: Given
) -> tuple[GroupColumn | None, list[GroupColumn]]:
    if columns is None or not columns.others or given.group:
        return None, []
    usable = manifest.usable()
    seen = look(usable, section.train, section.cache)  # kept since the check
    sound = np.flatnonzero([fault is None for fault in seen.faults])
    part = usable.take(sound)
    believed, maybe = group_columns(columns.others, part.ids, part.labels, seen.hash_NB[sound])
    return (believed[0], [*believed[1:], *maybe]) if believed else (None, maybe)


def _folds(manifest: Manifest, section: DataSection, rare: Mapping[str, int]) -> FoldsSection:
    """As many folds as can be made, up to five."""
    counts = Counter(manifest.labels)
    most = min([MOST_FOLDS, *(count for name, count in counts.items() if name not in rare)])
    for count in range(max(most, 2), 1, -1):
        folds = section.folds.model_copy(update={"count": count})
        try:
            assign_folds(manifest, folds, seed=0)
        except (RecipeError, DataError):
            continue
        return folds
    return section.folds.model_copy(update={"count": 1})
