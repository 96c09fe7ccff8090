"""Which of the samples that are listed are wanted at all, told before anybody looks for their files.

A photo on the noise list may be gone from the disk, and a label that means "none" may stand beside a file that never
was. So what the recipe leaves out is left out by names alone; what is left must be there and have a label. Labels stay
as found: relabelling is looked up here only to know what will become of them.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.data.ids import find_samples
from engine.data.manifest import Manifest
from engine.data.names import ClassNames
from engine.data.sources.doubtful import doubts
from engine.data.sources.litter import is_litter_label, looks_spoiled, may_mean_nothing, means_nothing
from engine.data.tables import RowNames, read_list, read_pairs
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection
from engine.text import count, nearest, nfc, some


@dataclass(frozen=True)
class Kept:
    """`rows`: of the samples that stay, in order; `notices`: why others do not."""

    rows: list[int]
    notices: list[str]


def without_excluded(ids: Sequence[str], paths: Sequence[str], section: DataSection) -> Kept:
    """The samples that `data.exclude` and `data.exclude_file` do not name. Raises DataError for a list that cannot be
    read, or a name that may be several images."""
    listed = read_list(section.exclude_file, "exclude_file") if section.exclude_file else []
    manifest = Manifest.build({"id": ids, "path": paths}) if listed or section.exclude else None
    gone: set[int] = set()
    notices = []
    for key, names in (("exclude", list(section.exclude)), ("exclude_file", listed)):
        found = find_samples(manifest, names, f"data.{key}") if manifest and names else []
        rows = {row for row in found if row is not None} - gone
        strange = [name for name, row in zip(names, found, strict=True) if row is None]
        if rows:
            notices.append(f"{count(rows, 'image')} left out by data.{key}")
        if strange:
            notices.append(f"data.{key}: {len(strange)} of {len(names)} names are no image's: {some(strange, 3, str)}")
        gone |= rows
    return Kept([row for row in range(len(ids)) if row not in gone], notices)


def labels_to_be(ids: Sequence[str], paths: Sequence[str], labels: Sequence[str], section: DataSection) -> list[str]:
    """The labels as `data.relabel` will have them. Raises as `without_excluded` does."""
    changed = list(labels)
    if section.relabel:
        pairs, _ = read_pairs(section.relabel, "relabel")
        found = find_samples(Manifest.build({"id": ids, "path": paths}), [name for name, _ in pairs], section.relabel)
        for row, (_, label) in zip(found, pairs, strict=True):
            if row is not None:
                changed[row] = label
    return changed


def without_dropped(rows: Sequence[int], labels: Sequence[str], section: DataSection) -> Kept:
    """Of `rows`, those whose label (see `labels_to_be`) `data.drop_classes` does not match. Patterns are matched
    against the label and the class that it stands for; capitals count.

    Raises RecipeError for a pattern that matches none of `labels`, which are those of all samples. Where there are no
    labels at all, as with images to predict, nothing is left out.
    """
    known = set(labels)
    if not section.drop_classes or known == {""}:
        return Kept(list(rows), [])
    names = ClassNames.of(section)
    matched: set[str] = set()
    for pattern in map(nfc, section.drop_classes):
        those = {label for label in known if any(_matches(name, pattern) for name in (label, names.class_of(label)))}
        if not those and pattern:
            near = ", ".join(map(repr, nearest(pattern, sorted(known - {""}))))
            raise RecipeError(f"data.drop_classes: no class is called {pattern!r}; capitals count. Nearest: {near}")
        matched |= those
    kept = [row for row in rows if labels[row] not in matched]
    gone = Counter(labels[row] for row in rows if labels[row] in matched)
    if not gone:
        return Kept(kept, [])
    shown = ", ".join(f"{label!r} ({number})" for label, number in sorted(gone.items()))
    return Kept(kept, [f"{count(gone.total(), 'image')} left out by data.drop_classes: {shown}"])


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


def labels_of_nothing(labels: Iterable[str], section: DataSection) -> list[str]:
    """The labels that mean there is none, and are no class of the recipe's, sorted."""
    return sorted({label for label in labels if means_nothing(label) or is_litter_label(label)} - _classes(section))


def without_nothing(labels: Sequence[str], section: DataSection) -> list[str]:
    """The labels, "" in place of those that mean there is none."""
    nothing = {*labels_of_nothing(set(labels), section)}
    return ["" if label in nothing else label for label in labels]


def check_labels(
    rows: Sequence[int], labels: Sequence[str], section: DataSection, source: str, where: RowNames
) -> list[str]:
    """Words about the labels of `rows`, to learn from, that may be none, or not what was meant.

    Raises DataError for those that mean none, with the keys that leave them out or make them classes.
    """
    counts = Counter(labels[row] for row in rows)
    if nothing := labels_of_nothing(counts, section):
        those = [row for row in rows if labels[row] in nothing]
        raise DataError(
            f"{source}: {len(those):,} of {count(rows, 'label')} mean that there is none, {some(nothing)}: "
            f"{where.name(those)}. Leave them out with data.drop_classes = {_quoted(nothing)}, label them, or, where "
            f"it is a class, name it as one with data.label_names = {_quoted([[nothing[0], nothing[0]]])}"
        )
    notices = []
    if doubtful := [label for label in sorted(counts) if may_mean_nothing(label) and label not in _classes(section)]:
        shown = ", ".join(f"{label!r} ({counts[label]})" for label in doubtful)
        notices.append(
            f"{source}: trained as classes, though they may mean that there is none: {shown}. If they do: "
            f"data.drop_classes = {_quoted(doubtful)}"
        )
    names = ClassNames.of(section)
    classes = {names.class_of(label) for label in counts}
    return notices + [f"{source}: {words}" for words in (*looks_spoiled(sorted(counts)), *doubts(classes))]


def _classes(section: DataSection) -> set[str]:
    """What the recipe says is a label or a class."""
    names = ClassNames.of(section)
    members = {nfc(name) for _, *patterns in section.class_groups for name in patterns}
    return {*names.name_of, *names.name_of.values(), *(name for group in names.aliases for name in group), *members}


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
