"""Honest answers of something that is fitted: for every sample what was fitted without it, and without whatever belongs
together with it. What is kept of an ensemble is judged by these, and never by the samples that it was fitted on."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.predictions import NO_FOLD, LabelledPredictions, joined

PARTS = 5
_ENOUGH = 3  # folds, from which on they are the parts

Apply = Callable[[Sequence[LabelledPredictions]], LabelledPredictions]
"""(K candidates) -> one answer."""
Fit = Callable[[Sequence[LabelledPredictions]], Apply]
"""Fitted on the K candidates' answers about the same samples."""


def parts_of(predictions: LabelledPredictions, seed: int = 0) -> NDArray[np.int64]:
    """Which part (0, 1, ...) each sample belongs to, (N,): the run's folds where there are three or more, else five
    parts with the classes' shares in each as far as can be. Samples of one group are in one part.

    Raises ValueError when there are fewer than two samples, or two groups, to divide.
    """
    folds = np.unique(predictions.fold_N)
    if len(folds) >= _ENOUGH and NO_FOLD not in folds:
        return np.searchsorted(folds, predictions.fold_N)
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    alone = np.array([group or f"\0{row}" for row, group in enumerate(predictions.groups or [""] * len(predictions))])
    group_N = np.unique(alone, return_inverse=True)[1]
    count = min(PARTS, int(group_N.max(initial=-1)) + 1)
    if count < 2:
        raise ValueError(f"{len(predictions)} samples of {count} group(s) cannot be divided into parts")
    labels_N = predictions.labels_N
    rare = np.bincount(labels_N[labels_N >= 0], minlength=1).max(initial=0) < count
    splitter = GroupKFold(count) if rare else StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    part_N = np.zeros(len(predictions), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer samples than parts: as even as can be is enough
        for part, (_, held) in enumerate(splitter.split(group_N, labels_N, group_N)):
            part_N[held] = part
    return part_N


def honest(candidates: Sequence[LabelledPredictions], fit: Fit) -> LabelledPredictions:
    """For every sample the answer of what `fit` makes of all parts but its own; ordered as the first candidate.

    The candidates (K of them) answer about the same samples, in any order. Raises ValueError when they do not, and as
    `parts_of`.
    """
    first = candidates[0]
    ordered = [first, *(one.in_order(first.ids, first.classes) for one in candidates[1:])]
    part_N = parts_of(first)
    pieces = []
    for part in np.unique(part_N):
        fitted = fit([one.take(np.flatnonzero(part_N != part)) for one in ordered])
        pieces.append(fitted([one.take(np.flatnonzero(part_N == part)) for one in ordered]))
    plain = [dataclasses.replace(piece, logits_NC=None, features_NE=None) for piece in pieces]
    return joined(plain).in_order(first.ids, first.classes)
