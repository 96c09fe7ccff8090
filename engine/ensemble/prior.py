"""Prior shift: the same images of each class, but other shares of the classes than in training.

A model that learnt where a class was common expects it everywhere. Its probabilities are moved to other shares by
Bayes' rule: each class's by the ratio of its shares, then rows are made to sum to 1. The shares are given, or estimated
from the unlabelled answers themselves.

Both suppose that the answers are calibrated for the shares they come from (calibrate first), and that nothing but the
shares has changed. Where photos became darker, too, the estimate takes that for other shares: it is no default.

Source: Saerens, Latinne, Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural
Computation 14, 2002.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.predictions import Predictions
from engine.text import some

PASSES, TOLERANCE, SMOOTHING = 200, 1e-6, 1.0

_SMALLEST = float(np.finfo(np.float32).tiny)  # stands in for a probability of 0
_ROWS = 4096  # at a time

P = TypeVar("P", bound=Predictions)
Array = NDArray[np.float64]


def shift(predictions: P, from_C: ArrayLike, to_C: ArrayLike) -> P:
    """The answers as they would be with class shares `to_C` instead of `from_C` (any scale, ordered as the classes);
    float64. Features stay; logits, which are no longer these probabilities', do not.

    A class of share 0 is never answered, even where it had the whole probability: the others then stand by their
    shares. Raises ValueError when shares are not C numbers of at least 0, or a class is expected that `from_C` lacks.
    """
    count = len(predictions.classes)
    from_C, to_C = _shares(from_C, count), _shares(to_C, count)
    if unlearnt := [predictions.classes[column] for column in np.flatnonzero((to_C > 0) & (from_C == 0))]:
        raise ValueError(
            f"a share is expected of {some(unlearnt)}, of which there was nothing to learn from; make it 0"
        )
    moved_NC = _moved(predictions.probabilities_NC, _ratio(from_C, to_C))
    return dataclasses.replace(predictions, probabilities_NC=moved_NC, logits_NC=None)


def estimate(
    answers: Predictions | Iterable[NDArray[np.floating]],
    from_C: ArrayLike,
    smoothing: float = SMOOTHING,
    passes: int = PASSES,
    tolerance: float = TOLERANCE,
) -> Array:
    """The class shares, (C,), under which the answers are likeliest (expectation maximisation); they sum to 1.

    answers: predictions, or arrays of probabilities (N, C) that can be gone through several times, such as the parts of
    a prediction too big for memory: of each only sums over its rows are kept. from_C: the shares that the answers were
    calibrated for (any scale); a class of share 0 stays at 0. smoothing: so many images more, of shares `from_C`, which
    keep a class that no answer speaks of above 0. It goes over the answers until the shares move by less than
    `tolerance` (half the sum of changes) in one pass, at most `passes` times.

    Raises ValueError when there are no answers, they can be gone through only once, or the shares do not fit them.
    """
    if isinstance(answers, Predictions):
        answers = [answers.probabilities_NC]
    if isinstance(answers, Iterator):
        raise ValueError("these answers can be gone through only once; give a list, or what begins anew each time")
    to_C = from_C = _shares(from_C, np.size(from_C))
    for _ in range(passes):
        before_C, ratio_C = to_C, _ratio(from_C, to_C)
        total_C, images = smoothing * from_C, 0
        for p_NC in answers:
            if p_NC.ndim != 2 or p_NC.shape[1] != len(from_C):
                raise ValueError(f"answers of shape {p_NC.shape} do not fit {len(from_C)} class shares")
            for start in range(0, len(p_NC), _ROWS):
                total_C = total_C + _moved(p_NC[start : start + _ROWS], ratio_C).sum(0)
            images += len(p_NC)
        if not images:
            raise ValueError("there are no answers to estimate class shares from")
        to_C = total_C / total_C.sum()
        if np.abs(to_C - before_C).sum() / 2 < tolerance:
            break
    return to_C


def _moved(p_NC: NDArray[np.floating], ratio_C: Array) -> Array:
    moved_NC = np.maximum(np.ascontiguousarray(p_NC, dtype=np.float64), _SMALLEST) * ratio_C
    return moved_NC / moved_NC.sum(1, keepdims=True)


def _ratio(from_C: Array, to_C: Array) -> Array:
    return np.divide(to_C, from_C, out=np.zeros_like(to_C), where=from_C > 0)


def _shares(shares_C: ArrayLike, count: int) -> Array:
    found_C = np.asarray(shares_C, dtype=np.float64)
    if found_C.shape != (count,) or not (np.isfinite(found_C) & (found_C >= 0)).all() or not found_C.sum() > 0:
        raise ValueError(f"class shares: expected {count} numbers of at least 0, not all 0, got {found_C}")
    return found_C / found_C.sum()
