"""What is trained on, of all there is: the manifest cleaned as the recipe says, and a line about all that was done.

The user's files stay as they are and where they are: a cleaned manifest is made anew each time, from the same rules in
the same order. What is left out by name is gone before (see `leave_out`). Names first (relabelling, aliases), because
duplicates are only in conflict when their classes differ; then files that cannot be decoded; then duplicates, exact
ones by their hash and near ones as groups that a split keeps whole; at last augmented copies, which follow their
originals in everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.data.ids import find_samples
from engine.data.ingest import Progress
from engine.data.manifest import Manifest
from engine.data.names import ClassNames, with_classes
from engine.data.near import kept_clusters
from engine.data.pixels import PixelFacts, look
from engine.data.tables import read_pairs
from engine.errors import DataError, RecipeError
from engine.quarantine import Quarantine
from engine.recipe.sections import DataSection, DecodeSection
from engine.recipe.sections.decode import DEFAULT_DECODE
from engine.text import count, some

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Cleaned:
    """`manifest`: the samples to learn from, their labels the classes, their groups what a split must keep whole.

    `notices`: what was done, in words. `left_out`: the files that cannot be used.
    """

    manifest: Manifest
    notices: tuple[str, ...]
    left_out: Quarantine


def clean(
    manifest: Manifest,
    section: DataSection,
    progress: Progress | None = None,
    decode: DecodeSection = DEFAULT_DECODE,
) -> Cleaned:
    """Clean the manifest of `section.train`; `progress(done, total)` counts the images looked at. What can be decoded
    is what `decode` would take.

    Raises DataError or RecipeError, naming the key, for lists that cannot be read or do not fit the data.
    """
    notices = [*manifest.notices]
    left_out = manifest.quarantine
    manifest, said = apply_lists(manifest.usable(), section)
    notices += said
    seen = None
    if section.check == "decode":
        seen = look(manifest, section.train, section.cache, progress, decode)
        for id_, path, fault in zip(manifest.ids, manifest.paths, seen.faults, strict=True):
            if fault is not None:
                left_out.add(id_, fault, path)
        doubtful = [id_ for id_, doubt in zip(manifest.ids, seen.doubts, strict=True) if doubt]
        if doubtful:
            notices.append(f"{count(doubtful, 'image')} damaged but readable, and trained on: {_some(doubtful)}")
        sound = np.array([fault is None for fault in seen.faults], dtype=bool)
        manifest, seen = manifest.take(np.flatnonzero(sound)), PixelFacts(seen.table.filter(sound))
    originals, copies = np.flatnonzero(~manifest.copies_N), np.flatnonzero(manifest.copies_N)
    kept, stands_for = _duplicates(manifest, originals, section, notices)
    groups = _groups(manifest, kept, seen, section, notices)
    follow = _copies(manifest, kept, copies, stands_for, section, notices)
    cleaned = manifest.replace("group", groups)
    if len(follow):
        cleaned = _following(cleaned, follow, stands_for)
    cleaned = cleaned.take(np.sort(np.concatenate([kept, follow])))
    if not len(cleaned):
        raise DataError(f"{section.train}: nothing is left to train on: {'; '.join(notices) or 'no image is usable'}")
    return Cleaned(cleaned, tuple(notices), left_out)


def apply_lists(manifest: Manifest, section: DataSection) -> tuple[Manifest, list[str]]:
    """The samples with classes for labels, by the recipe's lists, and what was done. Raises as `clean` does."""
    notices: list[str] = []
    return _renamed(_relabelled(manifest, section, notices), section, notices), notices


def _relabelled(manifest: Manifest, section: DataSection, notices: list[str]) -> Manifest:
    if not section.relabel:
        return manifest
    pairs, _ = read_pairs(section.relabel, "relabel")
    if unlabelled := [name for name, label in pairs if not label]:
        raise DataError(f"{section.relabel}: no label for {_some(unlabelled)}; to leave images out use data.exclude")
    found = find_samples(manifest, [name for name, _ in pairs], section.relabel)
    if strange := [name for (name, _), row in zip(pairs, found, strict=True) if row is None]:
        notices.append(f"{section.relabel}: {len(strange)} of {len(pairs)} names are no image's: {_some(strange)}")
    label_of: dict[int, tuple[str, str]] = {}
    for (name, label), row in zip(pairs, found, strict=True):
        if row is not None and label_of.setdefault(row, (name, label))[1] != label:
            told = f"{label_of[row][0]!r} ({label_of[row][1]}) and {name!r} ({label})"
            raise DataError(f"{section.relabel}: two labels for the image {manifest.ids[row]!r}: {told}. Keep one")
    labels = manifest.labels.copy()
    before = {*labels, *ClassNames.of(section).name_of.values()}
    for row, (_, label) in label_of.items():
        labels[row] = label
    changed = sum(new != old for new, old in zip(labels, manifest.labels, strict=True))
    notices.append(f"{changed} labels changed by {section.relabel}")
    if new := sorted(set(labels) - before):
        notices.append(f"{section.relabel} makes new classes: {_some(new)}")
    return manifest.replace("label", labels)


def _renamed(manifest: Manifest, section: DataSection, notices: list[str]) -> Manifest:
    names = ClassNames.of(section)
    labels = set(manifest.labels)
    if names.name_of and (nameless := sorted(labels - {"", *names.name_of, *names.name_of.values()})):
        notices.append(
            f"{count(nameless, 'label')} without a name in the label table, kept as found: {_some(nameless)}"
        )
    cleaned = with_classes(manifest, names)
    unused = [name for group in names.aliases for name in group if not labels & {*names.found_as(name), name}]
    if unused:
        notices.append(f"data.aliases: {count(unused, 'name')} that no image has: {_some(unused)}")
    merged = len(labels) - len(set(cleaned.labels))
    if merged:
        notices.append(f"{len(labels)} labels are {len(set(cleaned.labels))} classes")
    return cleaned


def _duplicates(
    manifest: Manifest, originals: Rows, section: DataSection, notices: list[str]
) -> tuple[Rows, dict[str, str]]:
    """The originals that stay; and for those that do not because another stands for them, by id, which."""
    labels, ids = manifest.labels, manifest.ids
    alike: dict[str, list[int]] = {}
    for row, sha1 in zip(originals.tolist(), manifest.table["sha1"].take(originals).to_pylist(), strict=True):
        alike.setdefault(sha1, []).append(row)
    stands_for: dict[str, str] = {}
    gone: set[int] = set()
    conflicts: list[str] = []
    for rows in alike.values():
        by_label: dict[str, list[int]] = {}
        for row in rows:
            by_label.setdefault(labels[row], []).append(row)
        if len(by_label) > 1:
            conflicts += [f"{ids[row]} ({labels[row]})" for row in rows]
            if section.conflicts == "drop":
                gone.update(rows)
        elif section.duplicates == "collapse":
            gone.update(rows[1:])
            stands_for |= {ids[row]: ids[rows[0]] for row in rows[1:]}
    if stands_for:
        notices.append(f"{count(stands_for, 'exact duplicate')} collapsed")
    if conflicts:
        done = "left out" if section.conflicts == "drop" else "kept"
        notices.append(f"{count(conflicts, 'file')} with equal content and different labels {done}: {_some(conflicts)}")
    return np.array([row for row in originals.tolist() if row not in gone], dtype=np.int64), stands_for


def _groups(
    manifest: Manifest, kept: Rows, seen: PixelFacts | None, section: DataSection, notices: list[str]
) -> list[str]:
    """The group of every sample: the user's own, joined where near-duplicates or equal files link them."""
    alike: list[Sequence[object]] = []
    sha1 = manifest.table["sha1"].take(kept).to_pylist()
    if len(set(sha1)) < len(sha1):
        alike.append(sha1)
    if seen is not None and section.folds.near_duplicates == "together":
        cluster_n = kept_clusters(seen.hash_NB[kept], section.near_bits, section.train, section.cache)
        sizes = np.bincount(cluster_n)
        if (sizes > 1).any():
            alike.append(cluster_n.tolist())
            fold_n = manifest.folds_N[kept]
            if torn := _torn(cluster_n[fold_n >= 0], fold_n[fold_n >= 0]):
                done = f"{torn} of them split by data.fold_column, so scores will be too good"
            else:
                done = "kept together in every split"
            many = count(int((sizes > 1).sum()), "group")
            notices.append(f"{sizes[sizes > 1].sum()} near-duplicates in {many}, {done}")
    if not alike:
        return manifest.groups
    own = [manifest.groups[row] for row in kept.tolist()]
    alike.append([f"g{group}" if group else row for row, group in enumerate(own)])
    part_n = _joined(alike)
    groups = manifest.groups.copy()
    first: dict[int, str] = {}
    sizes = np.bincount(part_n)
    for row, part, group in zip(kept.tolist(), part_n.tolist(), own, strict=True):
        if sizes[part] > 1:
            groups[row] = first.setdefault(part, group or manifest.ids[row])
    return groups


def _torn(cluster_n: Rows, fold_n: Rows) -> int:
    """How many clusters lie in more than one fold."""
    pairs = np.unique(np.stack([cluster_n, fold_n]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def _joined(alike: Sequence[Sequence[object]]) -> Rows:
    """The parts into which samples fall when those with an equal value in any of the lists belong together."""
    samples = len(alike[0])
    here, there = [], []
    for values in alike:
        first: dict[object, int] = {}
        here += list(range(samples))
        there += [first.setdefault(value, row) for row, value in enumerate(values)]
    graph = coo_array((np.ones(len(here), dtype=np.int8), (here, there)), shape=(samples, samples))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _copies(
    manifest: Manifest,
    kept: Rows,
    copies: Rows,
    stands_for: dict[str, str],
    section: DataSection,
    notices: list[str],
) -> Rows:
    """The augmented copies that stay: all whose originals do."""
    if section.copies == "only" and not len(copies):
        raise RecipeError(
            f'data.copies = "only": {section.train} lists no augmented copies; make them with engine data augment'
        )
    if section.copies == "without" or not len(copies):
        return np.zeros(0, dtype=np.int64)
    label_of = {manifest.ids[row]: manifest.labels[row] for row in kept.tolist()}
    follow, orphans, torn = [], [], []
    for row in copies.tolist():
        sources = _sources(manifest, row, stands_for)
        if not all(source in label_of for source in sources):
            orphans.append(manifest.ids[row])
        elif len({label_of[source] for source in sources}) > 1:
            torn.append(manifest.ids[row])
        else:
            follow.append(row)
    if orphans:
        notices.append(f"{count(orphans, 'augmented copy', 'augmented copies')} left out with their originals")
    if torn:
        notices.append(f"{count(torn, 'mixed copy', 'mixed copies')} of images that now differ in class left out")
    beside = "in place of" if section.copies == "only" else "beside"
    notices.append(f"{count(follow, 'augmented copy', 'augmented copies')} trained on {beside} their originals")
    return np.array(follow, dtype=np.int64)


def _sources(manifest: Manifest, row: int, stands_for: dict[str, str]) -> list[str]:
    named_ids = (manifest.table[column][row].as_py() for column in ("made_from", "mixed_with"))
    return [stands_for.get(id_, id_) for id_ in named_ids if id_]


def _following(manifest: Manifest, follow: Rows, stands_for: dict[str, str]) -> Manifest:
    """Copies point at the originals that stayed, and have their labels and groups."""
    row_of = {id_: row for row, id_ in enumerate(manifest.ids)}
    labels, groups = manifest.labels.copy(), manifest.groups.copy()
    columns = {name: manifest.table[name].to_pylist() for name in ("made_from", "mixed_with")}
    for row in follow.tolist():
        for name in columns:
            columns[name][row] = stands_for.get(columns[name][row], columns[name][row])
        source = row_of[columns["made_from"][row]]
        labels[row], groups[row] = labels[source], groups[source]
    for name, values in {**columns, "label": labels, "group": groups}.items():
        manifest = manifest.replace(name, values)
    return manifest


def _some(names: Sequence[str]) -> str:
    return some(names, 3, str)
