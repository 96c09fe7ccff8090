"""How labels of a data set go wrong: to any class, to one that looks alike, or always to the same other one.

Which of these it is decides what a suspect looks like. Where labels are slips of the hand, a photo whose label its
model finds impossible is the likeliest to be wrong; where people take one class for another, the wrong label is the
very one that the model finds possible, too, and an impossible one is a photo of a rare kind. Rankings by the
probability of the label are right in the first case, rankings by the margin in the second, and nobody says which it is.
The labels do: the shares of the three models that make them likeliest are found by expectation maximisation.

The three are those of the literature on noisy labels: symmetric and pair flips (Han et al. 2018, "Co-teaching"), and a
confusion in proportion to the classes' likeness (Patrini et al. 2017, "Making Deep Neural Networks Robust to Label
Noise").
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

MODELS = ("any class", "a class that looks alike", "the class that looks most alike")
_STEPS = 200  # of expectation maximisation, which is done in fewer
_FIRST = 0.1  # share of wrong labels to begin with
_LEAST = 1e-9  # probability

Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """transition_CC: of photos of class t (row) with a wrong label, which share has the label c; rows sum to 1, the
    diagonal is 0. rate: the share of wrong labels. shares: of it, by `MODELS`."""

    transition_CC: Matrix
    rate: float
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, p_NC: Matrix, label_N: NDArray[np.int64]) -> Noise:
        """From out-of-fold probabilities, rows of sum 1, and given labels, columns of these."""
        if p_NC.shape[1] < 2:  # nothing that a label could be instead
            return cls(np.zeros((1, 1)), 1 / len(label_N), (0.0,) * len(MODELS))
        models = _models(p_NC, label_N)
        likely_MN = np.stack([_own(p_NC, label_N), *(_told(p_NC, label_N, one) for one in models)])
        share_M = np.array([1 - _FIRST, *[_FIRST / len(models)] * len(models)])
        for _ in range(_STEPS):
            of_MN = share_M[:, None] * likely_MN
            share_M = (of_MN / np.maximum(of_MN.sum(0), _LEAST)).mean(1)
        rate = float(share_M[1:].sum())
        weights = share_M[1:] / rate if rate > 0 else np.full(len(models), 1 / len(models))
        transition_CC = sum(weight * one for weight, one in zip(weights, models, strict=True))
        return cls(np.asarray(transition_CC), max(rate, 1 / len(label_N)), tuple(weights.tolist()))

    def told(self, p_NC: Matrix, label_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """How likely it is that a photo of another class got this label by mistake, up to the rate: (N,)."""
        return _told(p_NC, label_N, self.transition_CC)


def _models(p_NC: Matrix, label_N: NDArray[np.int64]) -> list[Matrix]:
    classes = p_NC.shape[1]
    anything_CC = 1.0 - np.eye(classes)
    alike_CC = np.ones((classes, classes))
    for one in range(classes):
        if (mine_N := label_N == one).any():
            alike_CC[one] = p_NC[mine_N].mean(0)
    alike_CC = np.where(np.eye(classes) > 0, 0.0, np.maximum(alike_CC, _LEAST))
    most_CC = np.zeros((classes, classes))
    most_CC[np.arange(classes), alike_CC.argmax(1)] = 1.0
    return [one / one.sum(1, keepdims=True) for one in (anything_CC, alike_CC, most_CC)]


def _own(p_NC: Matrix, label_N: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.maximum(p_NC[np.arange(len(label_N)), label_N], _LEAST)


def _told(p_NC: Matrix, label_N: NDArray[np.int64], transition_CC: Matrix) -> NDArray[np.float64]:
    """Sum over the other classes t of p(t) and of how often t gets this label."""
    found_N = np.einsum("nc,nc->n", p_NC, transition_CC.T[label_N])  # the diagonal is 0
    return np.maximum(found_N, _LEAST)
