"""Whether an answer that says 70% is right in 7 of 10 cases.

Bins hold equal mass, not equal ranges of confidence: a sure model has nearly all its answers in the last of 15 equal
ranges, where too much and too little confidence cancel, and a handful in the others, whose gaps are noise. Samples of
equal confidence are never parted, so the order of rows does not matter.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from engine.metrics.means import Labels, Probabilities
from engine.predictions import Predictions

BINS = 15


class CalibrationError:
    """Expected calibration error: |accuracy - confidence| over 15 bins of equal mass, weighted by their mass.

    Sources: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; bins of equal mass as in Nguyen and
    O'Connor, "Posterior calibration and exploratory analysis for natural language processing models", EMNLP 2015.
    """

    def __init__(self, p_NC: Probabilities, y_N: Labels) -> None:
        confidence_N = p_NC.max(1).astype(np.float64)
        self._order_N = np.argsort(confidence_N, kind="stable")
        ordered_N = confidence_N[self._order_N]
        self._starts_U = np.flatnonzero(np.r_[True, ordered_N[1:] != ordered_N[:-1]])  # of equal confidences
        self._confidence_N = ordered_N
        self._hit_N = (p_NC.argmax(1) == y_N)[self._order_N].astype(np.float64)

    def __call__(self, weights_DN: NDArray[np.float64]) -> NDArray[np.float64]:
        """For each of D ways to weigh the samples, (D,)."""
        return self._error(weights_DN[:, self._order_N], self._hit_N)

    def by_chance(self, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """What the error comes to, (draws,), when every answer is right as often as its confidence says."""
        ones_1N = np.ones((1, len(self._hit_N)))
        drawn = (rng.random(len(self._hit_N)) < self._confidence_N for _ in range(draws))
        return np.array([self._error(ones_1N, hit_N.astype(np.float64))[0] for hit_N in drawn])

    def _error(self, w_DN: NDArray[np.float64], hit_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of weights and hits by rising confidence."""
        mass_DU = np.add.reduceat(w_DN, self._starts_U, axis=1)
        gap_DU = np.add.reduceat(w_DN * (hit_N - self._confidence_N), self._starts_U, axis=1)
        total_D1 = mass_DU.sum(1, keepdims=True)
        middle_DU = np.cumsum(mass_DU, axis=1) - mass_DU / 2
        bin_DU = np.minimum((middle_DU * (BINS / total_D1)).astype(np.int64), BINS - 1)
        draws = len(w_DN)
        flat = (bin_DU + BINS * np.arange(draws)[:, None]).reshape(-1)
        gap_DB = np.bincount(flat, gap_DU.reshape(-1), BINS * draws).reshape(draws, BINS)
        return np.asarray(np.abs(gap_DB).sum(1) / total_D1[:, 0])


def chance_ece(predictions: Predictions, draws: int = 200, seed: int = 0) -> float:
    """The expected calibration error that a perfectly calibrated answer of these confidences shows on so many samples,
    on average over simulated truths: an error of this size is no evidence of a fault."""
    nothing_N = np.zeros(len(predictions), dtype=np.int64)
    error = CalibrationError(predictions.probabilities_NC, nothing_N)
    return float(error.by_chance(draws, np.random.default_rng(seed)).mean())


@dataclasses.dataclass(frozen=True)
class BrierParts:
    """brier = reliability - resolution + uncertainty + within.

    reliability: squared distance of what is said from what is seen, 0 when calibrated; lower is better. resolution: how
    far what is seen differs between answers; higher is better. uncertainty: of the labels themselves, whatever is
    answered. within: what answers that were put into one bin differ among themselves, which bins cannot see; 0 where
    each bin has one value.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within: float


def brier_parts(p_NC: Probabilities, y_N: Labels, bins: int = BINS) -> BrierParts:
    """The Brier score taken apart, class by class (one against the rest) and added up.

    Murphy's partition of several classes has a bin for each distinct vector of probabilities, of which every sample has
    its own; by class, bins of equal mass hold what can be counted, and the parts still add up to the score. Sources:
    Murphy, "A new vector partition of the probability score", 1973; Stephenson et al., "Two extra components in the
    Brier score decomposition", 2008 (their sum is `within`).
    """
    samples, classes = p_NC.shape
    parts = np.zeros(3)
    brier = 0.0
    for place in range(classes):
        p_N, seen_N = p_NC[:, place].astype(np.float64), (y_N == place).astype(np.float64)
        order_N = np.argsort(p_N, kind="stable")
        starts_U = np.flatnonzero(np.r_[True, np.diff(p_N[order_N]) != 0])
        size_U = np.diff(np.r_[starts_U, samples])
        bin_U = np.minimum((np.cumsum(size_U) - size_U / 2) * bins // samples, bins - 1).astype(np.int64)
        bin_N = np.repeat(bin_U, size_U)
        size_B = np.bincount(bin_N, minlength=bins)
        some_B = size_B > 0
        said_B, seen_B = (np.bincount(bin_N, v[order_N], bins)[some_B] / size_B[some_B] for v in (p_N, seen_N))
        share_B, shown = size_B[some_B] / samples, seen_N.mean()
        parts += share_B @ (said_B - seen_B) ** 2, share_B @ (seen_B - shown) ** 2, shown * (1 - shown)
        brier += float(np.mean((p_N - seen_N) ** 2))
    reliability, resolution, uncertainty = parts.tolist()
    return BrierParts(reliability, resolution, uncertainty, brier - reliability + resolution - uncertainty)
