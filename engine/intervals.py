"""How sure a score is: bootstrap intervals, and whether one answer is better than another.

Whole groups are drawn, with replacement, where predictions have groups: ten photos of one sender are not ten witnesses.
Two answers are compared on the same draws, sample by sample, so that what makes a photo hard for both does not blur
their difference.

Nothing is computed anew for a draw but sums: a draw is a weight a sample, and every metric knows its form under weights
(`engine.metrics.Metric.weigh`). Draws are made a block at a time, so memory stays flat.

Percentiles of few draws are too close together, by how much is known for a mean of n values; they are taken as far
out as Student's t is beyond the normal distribution. Source: Hesterberg, "What Teachers Should Know About the
Bootstrap", 2015 (expanded percentiles); Efron, 1979.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.metrics import METRICS, Weighted, metric_of
from engine.predictions import LabelledPredictions
from engine.text import some

DRAWS, LEVEL = 1000, 0.95
Verdict = Literal["better", "worse", "not told apart"]
_BLOCK = 2**21  # weights at a time: 16 MB


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score and between what the truth may lie; `low` and `high` are None where one group is all there is.

    The calibration error is raised by noise, and by the noise of drawing once more. Its interval is therefore the basic
    one, which takes from the value what drawing added to it: of a calibrated answer it may lie below the value.
    """

    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two answers about the same samples. difference: second - first, with its interval (None: one group).
    verdict: about the second; "better" or "worse" only where the interval excludes zero."""

    metric: str
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict


def intervals(
    labelled: LabelledPredictions,
    names: Sequence[str] = tuple(METRICS),
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Each named metric over the samples whose true class is known, with its bootstrap interval of the given level.

    Whole groups are drawn where there are groups. Raises ValueError for an unknown metric, or when no label is known.
    """
    known = _known(labelled)
    asked = [(name, metric_of(name)) for name in names]
    p_NC, y_N, group_N = known.probabilities_NC, known.labels_N, _groups(known.groups, len(known))
    drawn = _drawn([metric.weigh(p_NC, y_N) for _, metric in asked], group_N, draws, seed)
    found = {}
    for (name, metric), values_D in zip(asked, drawn, strict=True):
        value, (low, high) = metric.function(p_NC, y_N), _limits(values_D, group_N, level)
        if metric.raised_by_noise and low is not None and high is not None:
            low, high = max(0.0, 2 * value - high), max(0.0, 2 * value - low)
        found[name] = Interval(value, low, high)
    return found


def compare(
    first: LabelledPredictions,
    second: LabelledPredictions,
    metric: str = "log_loss",
    level: float = LEVEL,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Whether `second` is better than `first` about the same samples: a bootstrap paired by id, of whole groups.

    Groups are those of `first`, else of `second`. Raises ValueError when the two are not about the same samples and
    classes, differ in a label, or no label is known.
    """
    second = second.in_order(first.ids, first.classes)
    if first.labels != second.labels:
        unlike = [id_ for id_, a, b in zip(first.ids, first.labels, second.labels, strict=True) if a != b]
        raise ValueError(f"these predictions have different labels for {some(unlike)}; compare those of the same truth")
    known, other = _known(first), second.known
    rule, y_N = metric_of(metric), known.labels_N
    group_N = _groups(known.groups or other.groups, len(known))
    pair = (known.probabilities_NC, other.probabilities_NC)
    of_first, of_second = (rule.function(p_NC, y_N) for p_NC in pair)
    first_D, second_D = _drawn([rule.weigh(p_NC, y_N) for p_NC in pair], group_N, draws, seed)
    low, high = _limits(second_D - first_D, group_N, level)
    verdict = _verdict(low, high, rule.higher_is_better, len(np.unique(group_N)), level)
    return Difference(metric, of_first, of_second, of_second - of_first, low, high, verdict)


def drawn_weights(
    groups: Sequence[str], samples: int, draws: int = DRAWS, seed: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each sample is in each draw, block by block, (draws in the block, samples), for what is no number but a
    curve. `groups` as `LabelledPredictions.groups`."""
    yield from _weights(_groups(groups, samples), draws, seed)


def interval_of(
    value: float, weighted: Weighted, groups: Sequence[str], samples: int, level: float = LEVEL
) -> Interval:
    """The interval of a score that is at hand in its form under weights alone, as `intervals` makes it."""
    group_N = _groups(groups, samples)
    (values_D,) = _drawn([weighted], group_N, DRAWS, 0)
    return Interval(value, *_limits(values_D, group_N, level))


def _verdict(low: float | None, high: float | None, higher_is_better: bool, groups: int, level: float) -> Verdict:
    """A few groups that all point one way prove nothing: of n, chance alone does so once in 2^(n - 1)."""
    if low is None or high is None or low <= 0 <= high or 2.0 ** (1 - groups) > 1 - level:
        return "not told apart"
    return "better" if (low > 0) == higher_is_better else "worse"


def _known(labelled: LabelledPredictions) -> LabelledPredictions:
    known = labelled.known
    if not len(known):
        raise ValueError(f"none of {len(labelled)} predictions has a label among {some(labelled.classes)}")
    return known


def _groups(groups: Sequence[str], samples: int) -> NDArray[np.int64]:
    """Which group each sample is in, (N,), counted from 0; a sample without a name for its group is its own."""
    names = [f"g{group}" if group else f"s{row}" for row, group in enumerate(groups or [""] * samples)]
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], dtype=np.int64)


def _drawn(metrics: Sequence[Weighted], group_N: NDArray[np.int64], draws: int, seed: int) -> list[NDArray[np.float64]]:
    """Each metric's value in each draw, (D,)."""
    values = [[metric(weights_DN) for metric in metrics] for weights_DN in _weights(group_N, draws, seed)]
    return [np.concatenate(blocks) for blocks in zip(*values, strict=True)]


def _weights(group_N: NDArray[np.int64], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each sample is drawn, block by block: (draws in the block, N). A draw depends on its number alone, so
    neither more draws nor another size of block change it."""
    rng = np.random.default_rng(seed)
    groups = int(group_N.max()) + 1
    at_once = max(1, _BLOCK // len(group_N))
    for start in range(0, draws, at_once):
        times_DG = np.empty((min(at_once, draws - start), groups))
        for times_G in times_DG:
            times_G[:] = np.bincount(rng.integers(0, groups, groups), minlength=groups)
        yield times_DG if groups == len(group_N) else times_DG[:, group_N]


def _limits(
    values_D: NDArray[np.float64], group_N: NDArray[np.int64], level: float
) -> tuple[float | None, float | None]:
    groups = int(group_N.max()) + 1
    if groups < 2:
        return None, None
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(math.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 - level) / 2)))
    low, high = np.quantile(values_D, [tail, 1 - tail])
    return float(low), float(high)
