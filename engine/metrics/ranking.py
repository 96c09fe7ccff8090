"""AUC: how well a class's probability puts its samples before all others, one class against the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.metrics.means import Labels, Probabilities


def auc_of_classes(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """For each class the chance that a sample of it has a higher probability of it than one of another class, equals
    counting half, (C,); NaN where all samples or none are of the class.

    Only the samples of a class are looked up among all sorted values of its column, so it costs one sort a class.
    Source: Mann and Whitney, 1947; Hanley and McNeil, 1982.
    """
    samples, classes = p_NC.shape
    auc_C = np.full(classes, np.nan)
    columns_CN = np.ascontiguousarray(p_NC.T)
    rows_C = np.split(np.argsort(y_N, kind="stable"), np.cumsum(np.bincount(y_N, minlength=classes))[:-1])
    for place, rows in enumerate(rows_C):
        if 0 < len(rows) < samples:
            auc_C[place] = np.mean(_placements(columns_CN[place, rows], np.sort(columns_CN[place])))
    return auc_C


def auc(p_NC: Probabilities, y_N: Labels) -> float:
    """Mean AUC over the classes that some samples are of and some are not; 0.5 where there are none."""
    auc_C = auc_of_classes(p_NC, y_N)
    return float(np.mean(auc_C[~np.isnan(auc_C)])) if not np.isnan(auc_C).all() else 0.5


class WeightedAuc:
    """The macro AUC under weights, to first order: each sample counts by the share of others that it is rightly before
    or behind, as it was without weights. To rank anew for every weighting would cost a sort a class each time.

    Source: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", 1988.
    """

    def __init__(self, p_NC: Probabilities, y_N: Labels) -> None:
        samples, classes = p_NC.shape
        self._y_N, self._auc_C = y_N, auc_of_classes(p_NC, y_N)
        self._before_N = np.zeros(samples)  # of a sample of the class: the share of others that it is before
        self._behind_NC = np.zeros(
            (samples, classes), dtype=np.float32
        )  # of the others: of the class's that are before
        for place in np.flatnonzero(~np.isnan(self._auc_C)):
            column_N, own_N = p_NC[:, place], y_N == place
            own_M = np.sort(column_N[own_N])
            self._before_N[own_N] = _placements(column_N[own_N], np.sort(column_N))
            below_N = np.searchsorted(own_M, column_N, "left") + np.searchsorted(own_M, column_N, "right")
            self._behind_NC[~own_N, place] = (1 - below_N / (2 * len(own_M)))[~own_N]

    def __call__(self, weights_DN: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each of D ways to weigh the samples, (D,)."""
        classes = len(self._auc_C)
        own_DC = np.stack([np.bincount(self._y_N, w_N, classes) for w_N in weights_DN])
        before_DC = np.stack([np.bincount(self._y_N, w_N * self._before_N, classes) for w_N in weights_DN])
        behind_DC = (weights_DN.astype(np.float32) @ self._behind_NC).astype(np.float64)
        others_DC = weights_DN.sum(1, keepdims=True) - own_DC
        there_DC = (own_DC > 0) & (others_DC > 0) & ~np.isnan(self._auc_C)
        auc_DC = before_DC / np.maximum(own_DC, 1e-12) + behind_DC / np.maximum(others_DC, 1e-12) - self._auc_C
        total_D = np.where(there_DC, auc_DC, 0.0).sum(1)
        return np.where(there_DC.any(1), total_D / np.maximum(there_DC.sum(1), 1), 0.5)


def _placements(own_M: Probabilities, all_N: Probabilities) -> NDArray[np.float64]:
    """For each sample of a class the share of the others that it is before, equals counting half; all_N sorted."""
    own_sorted_M = np.sort(own_M)
    twice_M = np.searchsorted(all_N, own_M, "left") + np.searchsorted(all_N, own_M, "right")
    twice_M = twice_M - np.searchsorted(own_sorted_M, own_M, "left") - np.searchsorted(own_sorted_M, own_M, "right")
    return np.asarray(twice_M / (2.0 * (len(all_N) - len(own_M))))
