"""Which fold each sample is validated in.

scikit-learn splits samples that are all on their own; here it is fed in the order of the ids, because its shuffling
depends on the order of the rows and a fold must not change when files are listed in another order. A sample's fold is
thus pure in (ids, labels, groups, seed). Adding samples may move others: the splitter balances all of them together.

Groups are placed here. Most samples with near-duplicates kept together are still on their own, and scikit-learn's
StratifiedGroupKFold, for which each of them is one more group, takes hundreds of times as long for a split no better
balanced (`benchmarks/results/data_cpu.json`). Whole groups first, the largest first, each into
the fold that lacks its classes most; then the single samples fill up every class evenly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from engine.data.classes import class_names, label_indices
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection, FoldsSection

NEVER = -1  # the fold of samples that are trained on in every fold

Folds = NDArray[np.int64]


def assign_folds(manifest: Manifest, section: FoldsSection, seed: int) -> Folds:
    """fold_N: the fold in which each sample is validated, 0 to `section.count` - 1; -1 for none of them.

    The user's own folds (`data.fold_column`) when the manifest has them; else stratified by label, groups kept whole.
    With `section.count` 1 nobody is validated. Augmented copies have the fold of their original, with which they are
    held back. `seed` counts when the section has none of its own.

    Raises RecipeError when there are more folds than samples of a class (or groups), or than the user's own; DataError
    when a class would be missing from the training part of a fold.
    """
    names = class_names(manifest)
    index_N = label_indices(manifest, names)
    if section.count == 1:
        return np.full(len(manifest), NEVER, dtype=np.int64)
    originals = np.flatnonzero(~manifest.copies_N)
    if (manifest.folds_N[originals] >= 0).any():
        own = _fixed(manifest.take(originals), section)
    else:
        seed = seed if section.seed is None else section.seed
        own = _split(manifest.take(originals), index_N[originals], names, section.count, seed)
    fold_N = np.full(len(manifest), NEVER, dtype=np.int64)
    fold_N[originals] = own
    if len(originals) < len(manifest):
        fold_of = dict(zip(manifest.take(originals).ids, own.tolist(), strict=True))
        sources = manifest.table["made_from"].to_pylist()
        fold_N = np.array([fold_of.get(s, f) for s, f in zip(sources, fold_N.tolist(), strict=True)], dtype=np.int64)
    for fold in section.run or range(section.count):
        missing = np.flatnonzero(np.bincount(index_N[fold_N != fold], minlength=len(names)) == 0)
        if len(missing):
            raise DataError(
                f"class {names[missing[0]]!r} lies in fold {fold} as a whole, so it could not be learned when that "
                "fold is validated: its samples are one group (or near-duplicates of each other), or were given one "
                "fold. Divide them, leave the class out, or set data.folds.near_duplicates to apart"
            )
    return fold_N


def trained_on(manifest: Manifest, fold_N: Folds, fold: int, section: DataSection) -> NDArray[np.int64]:
    """The rows that are trained on when `fold` is validated, as `data.copies` says.

    A copy is held back with its original, and one mixed of two with either of them.
    """
    free_N = fold_N != fold
    if manifest.copies_N.any():
        fold_of = dict(zip(manifest.ids, fold_N.tolist(), strict=True))
        partners = manifest.table["mixed_with"].to_pylist()
        free_N &= np.array([fold_of.get(partner, NEVER) for partner in partners]) != fold
        if section.copies == "only":
            free_N &= manifest.copies_N
    return np.flatnonzero(free_N)


def held_out(manifest: Manifest, fold_N: Folds, fold: int) -> NDArray[np.int64]:
    """The rows that are validated in `fold`: originals alone."""
    return np.flatnonzero((fold_N == fold) & ~manifest.copies_N)


def _fixed(manifest: Manifest, section: FoldsSection) -> Folds:
    fold_N = manifest.folds_N
    there = sorted(set(fold_N.tolist()) - {NEVER})
    if set(section.run or range(section.count)) <= set(there) <= set(range(section.count)):
        return fold_N
    if there != list(range(len(there))):
        remedy = "Number them from 0"
    elif len(there) > 1:
        remedy = f"Set data.folds.count to {len(there)}"
    else:
        remedy = "For a hold-out, set data.folds.run = [0]"
    raise RecipeError(
        f"data.folds.count: {section.count} folds are asked for, but data.fold_column has the folds "
        f"{', '.join(map(str, there))}. {remedy}"
    )


def _split(manifest: Manifest, index_N: Folds, names: list[str], count: int, seed: int) -> Folds:
    samples_C = np.bincount(index_N, minlength=len(names))
    smallest = int(samples_C.argmin())
    if samples_C[smallest] < count:
        most = int(samples_C[smallest])
        remedy = f"Set it to {most} at most" if most >= 2 else "Add images of that class, or leave it out"
        raise RecipeError(
            f"data.folds.count: {count} folds are asked for, but class {names[smallest]!r} has only {most} "
            f"{'sample' if most == 1 else 'samples'}. {remedy}"
        )
    order_N = np.argsort(np.array(manifest.ids, dtype=object))
    fold_N = np.full(len(manifest), NEVER, dtype=np.int64)
    if any(manifest.groups):
        group_N = _group_numbers(manifest)[order_N]
        groups = len(np.unique(group_N))
        if groups < count:
            raise RecipeError(
                f"data.folds.count: {count} folds are asked for, but there are only {groups} groups. "
                f"Set it to {groups} at most"
            )
        fold_N[order_N] = split_groups(index_N[order_N], group_N, count, np.random.default_rng(seed))
    else:
        parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(order_N, index_N[order_N])
        for fold, (_, validation) in enumerate(parts):
            fold_N[order_N[validation]] = fold
    return fold_N


def split_groups(index_N: Folds, group_N: Folds, count: int, random: np.random.Generator) -> Folds:
    """fold_N of samples with classes index_N and groups group_N (from 0 without gaps): see the module's docstring."""
    classes = int(index_N.max()) + 1
    size_G = np.bincount(group_N)
    share_C = 1 / np.bincount(index_N, minlength=classes)
    filled_FC = np.zeros((count, classes), dtype=np.int64)
    fold_N = np.full(len(index_N), NEVER, dtype=np.int64)
    by_group = np.argsort(group_N, kind="stable")
    ends_G = np.cumsum(size_G)
    several = random.permutation(np.flatnonzero(size_G > 1))
    for group in several[np.argsort(-size_G[several], kind="stable")].tolist():
        rows = by_group[ends_G[group] - size_G[group] : ends_G[group]]
        there, counts = np.unique(index_N[rows], return_counts=True)
        fullness_F = (filled_FC[:, there] * (counts * share_C[there])).sum(1)
        fold = int(np.lexsort((filled_FC.sum(1), fullness_F))[0])
        fold_N[rows] = fold
        filled_FC[fold, there] += counts
    single = random.permutation(np.flatnonzero(size_G[group_N] == 1))
    single = single[np.argsort(index_N[single], kind="stable")]
    for rows in np.split(single, np.flatnonzero(np.diff(index_N[single])) + 1):
        if len(rows):
            here = int(index_N[rows[0]])
            taken = _fill(filled_FC[:, here], filled_FC.sum(1), len(rows))
            fold_N[rows] = taken
            filled_FC[:, here] += np.bincount(taken, minlength=count)
    return fold_N


def _fill(filled_F: Folds, total_F: Folds, samples: int) -> Folds:
    """The folds that `samples` more of a class go to, so that each has as many of it as can be; of equal ones that
    with the fewest samples in all comes first."""
    folds = len(filled_F)
    level_FS = filled_F[:, None] + np.arange(samples)
    fold_FS = np.repeat(np.arange(folds), samples)
    order = np.lexsort((total_F[fold_FS], level_FS.ravel()))
    return fold_FS[order[:samples]]


def _group_numbers(manifest: Manifest) -> NDArray[np.int64]:
    """A number per group, in the order of the names; a sample without a group is a group of its own."""
    # The first letter keeps a sample's id from ever meaning a group of that name.
    own = [f"g{group}" if group else f"i{id_}" for group, id_ in zip(manifest.groups, manifest.ids, strict=True)]
    return np.unique(np.array(own, dtype=object), return_inverse=True)[1].astype(np.int64)
