"""Metrics that are means: each sample has a value of its own, (N,) float64, and the metric is their average."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLIP = 1e-15  # a probability of 0 for the true class costs 34.5 nats, not infinity

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]


def nats(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """-log(probability of the true class); clipped to [1e-15, 1], rows then made to sum to 1."""
    clipped_NC = np.clip(p_NC.astype(np.float64), CLIP, 1)
    true_N = np.take_along_axis(clipped_NC, y_N[:, None], 1)[:, 0]
    values_N: NDArray[np.float64] = np.log(clipped_NC.sum(1)) - np.log(true_N)
    return values_N


def hits(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """1 where the most probable class is the true one (the first of equals)."""
    return np.asarray(p_NC.argmax(1) == y_N, dtype=np.float64)


def among_top(p_NC: Probabilities, y_N: Labels, k: int) -> NDArray[np.float64]:
    """1 where the true class is among the k most probable; equals of the true class count as before it."""
    true_N1 = np.take_along_axis(p_NC, y_N[:, None], 1)
    at_least_N = (p_NC >= true_N1).sum(1)  # the true class itself included
    return np.asarray(at_least_N <= k, dtype=np.float64)


def gaps(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """Distance between the two highest probabilities; 1 where there is only one class."""
    if p_NC.shape[1] == 1:
        return np.ones(len(p_NC))
    top_N2 = np.partition(p_NC.astype(np.float64), -2, axis=1)[:, -2:]
    return np.asarray(top_N2[:, 1] - top_N2[:, 0])


def entropies(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """Entropy of the answer, in nats: 0 for certainty, log(C) for no idea."""
    p_NC = p_NC.astype(np.float64)
    return np.asarray(-np.sum(p_NC * np.log(np.maximum(p_NC, CLIP)), 1))


def squares(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
    """Squared distance from the answer to certainty of the truth, summed over classes: 0 to 2.

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    p_NC = p_NC.astype(np.float64)
    true_N = np.take_along_axis(p_NC, y_N[:, None], 1)[:, 0]
    return np.asarray(np.einsum("nc,nc->n", p_NC, p_NC) - 2 * true_N + 1)
