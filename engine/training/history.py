"""What the scores of past epochs say: pure functions of the list of them, so that no counter has to be saved."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.metrics import METRICS, better

TRAIN_LOSS = "train_loss"  # beside the names in METRICS


def gains(metric: str, value: float, best: float, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta`. NaN is worse than any number."""
    if metric == TRAIN_LOSS:
        metric = "log_loss"  # lower is better, too
    towards_worse = -min_delta if METRICS[metric].higher_is_better else min_delta
    return better(metric, value + towards_worse, best)


def epochs_without_gain(values: Sequence[float], metric: str, min_delta: float = 0.0) -> int:
    """Epochs since the last new best, of values epoch by epoch."""
    best, waited = math.nan, 0
    for value in values:
        if gains(metric, value, best, min_delta):
            best, waited = value, 0
        else:
            waited += 1
    return waited


def plateau_drops(values: Sequence[float], metric: str, patience: int) -> int:
    """How often the values went more than `patience` epochs without a new best; after each such stretch the waiting
    begins again (as torch's ReduceLROnPlateau with a threshold of 0)."""
    best, waited, drops = math.nan, 0, 0
    for value in values:
        if gains(metric, value, best):
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            drops, waited = drops + 1, 0
    return drops


def kept_epochs(values: Sequence[float], metric: str, last: int, best: int) -> set[int]:
    """Of the epochs so far, by number: the `last` ones and the `best` ones (of equals the earlier), together."""
    numbers = range(len(values))
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    ranked = sorted(numbers, key=lambda n: math.inf if math.isnan(values[n]) else sign * values[n])
    return set(numbers[max(0, len(values) - last) :]) | set(ranked[:best])
