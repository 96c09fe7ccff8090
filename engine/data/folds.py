"""Which fold each sample is validated in.

scikit-learn splits; here it is fed in the order of the ids, because its shuffling depends on the order of the rows
and a fold must not change when files are listed in another order. A sample's fold is thus pure in (ids, labels,
groups, seed). Adding samples may move others: the splitter balances all of them together.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from engine.data.classes import class_names, label_indices
from engine.data.manifest import Manifest
from engine.errors import DataError, RecipeError
from engine.recipe.sections import FoldsSection

NEVER = -1  # the fold of samples that are trained on in every fold


def assign_folds(manifest: Manifest, section: FoldsSection, seed: int) -> NDArray[np.int64]:
    """fold_N: the fold in which each sample is validated, 0 to `section.count` - 1; -1 for none of them.

    The user's own folds (`data.fold_column`) when the manifest has them; else stratified by label, groups kept whole.
    `seed` counts when the section has none of its own. The splitters are scikit-learn's StratifiedKFold and
    StratifiedGroupKFold. Raises RecipeError when there are more folds than samples of a class (or groups), or than the
    user's own; DataError when a class would be missing from the training part of a fold.
    """
    names = class_names(manifest)
    index_N = label_indices(manifest, names)
    if (manifest.folds_N >= 0).any():
        fold_N = _fixed(manifest, section.count)
    else:
        fold_N = _split(manifest, index_N, names, section.count, seed if section.seed is None else section.seed)
    for fold in range(section.count):
        missing = np.flatnonzero(np.bincount(index_N[fold_N != fold], minlength=len(names)) == 0)
        if len(missing):
            raise DataError(
                f"class {names[missing[0]]!r} lies in fold {fold} as a whole, so it could not be learned when that "
                "fold is validated: its samples are one group, or were given one fold. Divide them, or leave it out"
            )
    return fold_N


def _fixed(manifest: Manifest, count: int) -> NDArray[np.int64]:
    fold_N = manifest.folds_N
    there = sorted(set(fold_N.tolist()) - {NEVER})
    if there != list(range(count)):
        if there != list(range(len(there))):
            remedy = "Number them from 0"
        elif len(there) > 1:
            remedy = f"Set data.folds.count to {len(there)}"
        else:  # a hold-out, written as 0 and -1
            remedy = "For a hold-out, give the samples to train on fold 1, and set data.folds.count = 2 and run = [0]"
        raise RecipeError(
            f"data.folds.count: {count} folds are asked for, but data.fold_column has the folds "
            f"{', '.join(map(str, there))}. {remedy}"
        )
    return fold_N


def _split(
    manifest: Manifest, index_N: NDArray[np.int64], names: list[str], count: int, seed: int
) -> NDArray[np.int64]:
    samples_C = np.bincount(index_N, minlength=len(names))
    smallest = int(samples_C.argmin())
    if samples_C[smallest] < count:
        most = int(samples_C[smallest])
        remedy = f"Set it to {most} at most" if most >= 2 else "Add images of that class, or leave it out"
        raise RecipeError(
            f"data.folds.count: {count} folds are asked for, but class {names[smallest]!r} has only {most} "
            f"{'samples' if most > 1 else 'sample'}. {remedy}"
        )
    order_N = np.argsort(np.array(manifest.ids, dtype=object))
    sorted_index_N = index_N[order_N]
    fold_N = np.full(len(manifest), NEVER, dtype=np.int64)
    if any(manifest.groups):
        group_N = _group_numbers(manifest)[order_N]
        groups = len(np.unique(group_N))
        if groups < count:
            raise RecipeError(
                f"data.folds.count: {count} folds are asked for, but data.group_column has only {groups} groups. "
                f"Set it to {groups} at most"
            )
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        parts = splitter.split(order_N, sorted_index_N, group_N)
    else:
        parts = StratifiedKFold(count, shuffle=True, random_state=seed).split(order_N, sorted_index_N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it warns of has been checked, in the user's words
        for fold, (_, validation) in enumerate(parts):
            fold_N[order_N[validation]] = fold
    return fold_N


def _group_numbers(manifest: Manifest) -> NDArray[np.int64]:
    """A number per group, in the order of the names; a sample without a group is a group of its own."""
    # The first letter keeps a sample's id from ever meaning a group of that name.
    own = [f"g{group}" if group else f"i{id_}" for group, id_ in zip(manifest.groups, manifest.ids, strict=True)]
    return np.unique(np.array(own, dtype=object), return_inverse=True)[1].astype(np.int64)
