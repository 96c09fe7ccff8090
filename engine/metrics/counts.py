"""Metrics of labels alone: what is counted is how often each class was the truth, the answer, and both.

All of them take weights, (D, N): D ways to weigh the N samples, of which one with ones is the plain metric and one with
counts a sample drawn with replacement. Whole weights give the very bits that repeated samples would.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.metrics.means import Labels


class Counts(NamedTuple):
    """Weights (D, C) of samples by class: where it is the truth, where the answer, and where both."""

    truth_DC: NDArray[np.float64]
    answer_DC: NDArray[np.float64]
    both_DC: NDArray[np.float64]


def count(answers_N: Labels, labels_N: Labels, num_classes: int, weights_DN: NDArray[np.float64]) -> Counts:
    """The weights of samples by their true class, their answer and both."""
    hit_N = answers_N == labels_N
    both_DM, hit_M = weights_DN[:, hit_N], labels_N[hit_N]

    def by_class(classes_M: Labels, w_DM: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.bincount(classes_M, w_M, num_classes) for w_M in w_DM], dtype=np.float64)

    return Counts(by_class(labels_N, weights_DN), by_class(answers_N, weights_DN), by_class(hit_M, both_DM))


def f1_of_classes(counts: Counts) -> NDArray[np.float64]:
    """F1 of each class, (D, C); NaN where a class is neither truth nor answer."""
    both_DC = counts.answer_DC + counts.truth_DC
    return np.divide(2.0 * counts.both_DC, both_DC, out=np.full_like(both_DC, np.nan), where=both_DC > 0)


def macro_f1(counts: Counts) -> NDArray[np.float64]:
    """Mean F1 over the classes that occur among labels or answers, each counting the same, (D,)."""
    return np.array([np.mean(f1_C[~np.isnan(f1_C)]) for f1_C in f1_of_classes(counts)])


def weighted_f1(counts: Counts) -> NDArray[np.float64]:
    """Mean F1 over the classes, each counting as often as it is the truth, (D,)."""
    return np.asarray(np.nansum(f1_of_classes(counts) * counts.truth_DC, 1) / counts.truth_DC.sum(1))


def balanced_accuracy(counts: Counts) -> NDArray[np.float64]:
    """Mean recall over the classes that occur among labels, (D,)."""
    occurs_DC = counts.truth_DC > 0
    recall_DC = np.divide(counts.both_DC, counts.truth_DC, out=np.zeros_like(counts.both_DC), where=occurs_DC)
    return np.asarray(recall_DC.sum(1) / occurs_DC.sum(1))


def kappa(counts: Counts) -> NDArray[np.float64]:
    """Agreement beyond chance, 1 for all, 0 for what answers drawn by their shares would reach (and where truth and
    answers are one and the same class, so that chance reaches all), (D,).

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    total_D = counts.truth_DC.sum(1)
    seen_D = counts.both_DC.sum(1) / total_D
    chance_D = (counts.truth_DC * counts.answer_DC).sum(1) / total_D**2
    return np.divide(seen_D - chance_D, 1 - chance_D, out=np.zeros_like(seen_D), where=chance_D < 1)


def confusion(labels_N: ArrayLike, answers_N: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts (C, C): row the true class, column the answer."""
    cells_N = np.asarray(labels_N) * num_classes + np.asarray(answers_N)
    return np.bincount(cells_N, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """Two classes (first < second) and how often one was taken for the other."""

    first: int
    second: int
    first_as_second: int
    second_as_first: int

    @property
    def count(self) -> int:
        return self.first_as_second + self.second_as_first


def confused_pairs(confusion_CC: Labels, top: int) -> list[ConfusedPair]:
    """The `top` class pairs confused most often in either direction, most first; never confused ones are left out."""
    both_CC = np.triu(confusion_CC + confusion_CC.T, 1)
    first, second = np.nonzero(both_CC)
    order = np.argsort(-both_CC[first, second], kind="stable")[:top]
    return [
        ConfusedPair(int(a), int(b), int(confusion_CC[a, b]), int(confusion_CC[b, a]))
        for a, b in zip(first[order], second[order], strict=True)
    ]
