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

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from engine.data.classes import class_names, label_indices
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import DataSection, FoldsSection
from engine.text import count

NEVER = -1  # the fold of samples that are trained on in every fold

Folds = NDArray[np.int64]


@dataclass(frozen=True)
class Divided:
    """`manifest`: the samples that are learnt from. `fold_N`: the fold in which each is validated; -1 for none of them.

    `run`: the folds to train. `notices`: in words, what became of rare classes and of folds that are not there.
    """

    manifest: Manifest
    fold_N: Folds
    run: tuple[int, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class _Rare:
    """Classes that cannot be divided: `few` have fewer samples than there are folds, `tied` would lie in one fold."""

    few: frozenset[str]
    tied: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.few | self.tied


def divide(manifest: Manifest, section: DataSection, seed: int) -> Divided:
    """Divide the samples into folds, 0 to `section.folds.count` - 1.

    The user's own folds (`data.fold_column`, or folders of splits) when the manifest has them; else stratified by
    label, groups kept whole. With a count of 1 nobody is validated. Augmented copies have the fold of their original,
    with which they are held back. `seed` counts when the section has none of its own. Classes that cannot be divided
    are treated as `data.rare_classes` says.

    Raises RecipeError when there are more folds than samples of a class (or groups), or than the user's own; DataError
    when a class would be missing from the training part of a fold. Both name all such classes.
    """
    folds, notices = section.folds, []
    own = _own_folds(manifest)
    if not folds.run and folds.count > 1 and own == {0}:
        folds = folds.model_copy(update={"run": (0,)})
        notices.append("the data says itself what is held out: fold 0, the only one that is trained")
    while True:
        fold_N, rare = _assigned(manifest, folds, seed)
        if not rare.names or section.rare_classes != "drop":
            break  # else fewer samples, which are divided otherwise
        notices.append(f"left out, too rare to be divided (data.rare_classes): {_sizes(manifest, rare.names)}")
        manifest = manifest.take([row for row, label in enumerate(manifest.labels) if label not in rare.names])
        if len(set(manifest.labels) - {""}) < 2:
            raise DataError(f'data.rare_classes = "drop" leaves fewer than two classes: {"; ".join(notices)}')
    if rare.names and section.rare_classes == "error":
        raise _rare_error(manifest, folds, rare)
    if rare.names:
        beside = 0 if own else int((fold_N == NEVER).sum()) - sum(label in rare.names for label in manifest.labels)
        others = f", with {count(beside, 'image')} of other classes in their groups" if beside else ""
        notices.append(f"trained on in every fold and validated in none{others}: {_sizes(manifest, rare.names)}")
    return Divided(manifest, fold_N, folds.run or tuple(range(folds.count)), tuple(notices))


def _own_folds(manifest: Manifest) -> set[int]:
    return set(manifest.folds_N[~manifest.copies_N].tolist()) - {NEVER}


def _assigned(manifest: Manifest, section: FoldsSection, seed: int) -> tuple[Folds, _Rare]:
    """fold_N, and the classes that are in no fold, nor is what shares a group with them: it would stand on both sides.

    Each class that cannot be divided may leave others without enough to divide, so this goes on until all can be.
    """
    names = class_names(manifest)
    index_N = label_indices(manifest, names)
    if section.count == 1:
        return np.full(len(manifest), NEVER, dtype=np.int64), _Rare(frozenset(), frozenset())
    rows = np.flatnonzero(~manifest.copies_N)
    originals, own_index_N = manifest.take(rows), index_N[rows]
    given_N = _fixed(originals, section) if _own_folds(manifest) else None
    few = _scarce(own_index_N, len(names), section.count) if given_N is None else set()
    tied: set[int] = set()
    while True:
        kept = np.flatnonzero(~_bound_to(originals, own_index_N, few | tied))
        own_N = np.full(len(originals), NEVER, dtype=np.int64)
        more = set()
        if given_N is not None:
            own_N[kept] = given_N[kept]
        else:
            more = _scarce(own_index_N[kept], len(names), section.count) - few - tied
            if len(kept) and not more:
                own_N[kept] = _split(originals.take(kept), own_index_N[kept], section, seed)
        fold_N = _with_copies(manifest, rows, own_N)
        more = more or _in_one_fold(fold_N, index_N, len(names), section) - few - tied
        if not more:
            return fold_N, _Rare(frozenset(names[c] for c in few), frozenset(names[c] for c in tied))
        tied |= more


def _scarce(index_N: Folds, classes: int, folds: int) -> set[int]:
    return set(np.flatnonzero(np.bincount(index_N, minlength=classes) < folds).tolist())


def _bound_to(samples: Manifest, index_N: Folds, classes: Collection[int]) -> NDArray[np.bool_]:
    """Which samples are of these classes, or in one group with one that is."""
    of_them_N = np.isin(index_N, list(classes))
    groups = {samples.groups[row] for row in np.flatnonzero(of_them_N)} - {""}
    return of_them_N | np.array([group in groups for group in samples.groups], dtype=bool)


def _with_copies(manifest: Manifest, rows: Folds, own_N: Folds) -> Folds:
    """fold_N of all samples, where own_N are those of the originals, in `rows`."""
    fold_N = np.full(len(manifest), NEVER, dtype=np.int64)
    fold_N[rows] = own_N
    if len(rows) == len(manifest):
        return fold_N
    fold_of = dict(zip(manifest.take(rows).ids, own_N.tolist(), strict=True))
    sources = manifest.table["made_from"].to_pylist()
    return np.array([fold_of.get(s, f) for s, f in zip(sources, fold_N.tolist(), strict=True)], dtype=np.int64)


def _in_one_fold(fold_N: Folds, index_N: Folds, classes: int, section: FoldsSection) -> set[int]:
    """The classes that the training part of a fold that is run would lack."""
    return {
        lacking
        for fold in section.run or range(section.count)
        for lacking in np.flatnonzero(np.bincount(index_N[fold_N != fold], minlength=classes) == 0).tolist()
    }


def _rare_error(manifest: Manifest, section: FoldsSection, rare: _Rare) -> RecipeError | DataError:
    ways = [
        'leave them out (data.rare_classes = "drop")',
        'train on them without validating (data.rare_classes = "train")',
        "join them with others (data.aliases)",
    ]
    said = []
    if rare.few:
        classes = count(rare.few, "class has", "classes have")
        said.append(f"{section.count} folds are asked for, but {classes} fewer samples: {_sizes(manifest, rare.few)}")
        ways.append("add images")
        least = min(sum(label == name for label in manifest.labels) for name in rare.few)
        if least >= 2:
            ways.append(f"set it to {least} at most")
    if rare.tied:
        classes = count(rare.tied, "class", "classes")
        said.append(
            f"{classes} would lie in one fold as a whole and could not be learned when it is validated: "
            f"{_sizes(manifest, rare.tied)}; the samples are one group (or near-duplicates of each other), or were "
            "given one fold"
        )
        ways += ["divide the groups", "set data.folds.near_duplicates to apart"]
    text = f"{'. '.join(said)}. Either {', '.join(ways[:-1])}, or {ways[-1]}"
    return RecipeError(f"data.folds.count: {text}") if rare.few else DataError(text)


def _sizes(manifest: Manifest, names: Collection[str]) -> str:
    """Classes with their numbers of samples, all of them."""
    counts = Counter(manifest.labels)
    return ", ".join(f"{name!r} ({counts[name]})" for name in sorted(names))


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
        remedy = "Set data.folds.run to [0], or leave it out"
    raise RecipeError(
        f"data.folds.count: {section.count} folds are asked for, but data.fold_column has the folds "
        f"{', '.join(map(str, there))}. {remedy}"
    )


def _split(manifest: Manifest, index_N: Folds, section: FoldsSection, seed: int) -> Folds:
    count, seed = section.count, seed if section.seed is None else section.seed
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
