"""The metrics by name: how good predicted probabilities are, log loss first, and its company.

Each metric stands once, in `METRICS`, with its function and its direction, so that choosing the best epoch, stopping
early and colouring a report cannot disagree about what better means; and with its form under weights, which is what
intervals are made of. Shapes: N samples, C classes; probabilities are float of shape (N, C), rows summing to 1 roughly;
labels are int of shape (N,), class indices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.metrics import counts, means
from engine.metrics.calibration import CalibrationError
from engine.metrics.classes import ClassScores, scores_of_classes
from engine.metrics.counts import Counts
from engine.metrics.means import Labels, Probabilities
from engine.metrics.ranking import WeightedAuc, auc
from engine.predictions import LabelledPredictions
from engine.text import nearest, some

_BLOCK = 2**16  # probabilities at a time: half a megabyte in float64

Weighted = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""A metric of known samples under weights: (D, N), D ways to weigh the samples, to the metric's D values."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric's function of (probabilities_NC, labels_N), which way is better, and the same metric prepared to be
    asked under many weights. raised_by_noise: it is a sum of distances, so that the fewer samples, the higher it is,
    also where the truth is 0."""

    function: Callable[[Probabilities, Labels], float]
    higher_is_better: bool
    weigh: Callable[[Probabilities, Labels], Weighted]
    raised_by_noise: bool = False


def _mean_of(each: Callable[[Probabilities, Labels], NDArray[np.float64]], higher_is_better: bool) -> Metric:
    """The metric that is the mean of what `each` sample has, which is asked for in blocks that stay in the cache."""

    def values(p_NC: Probabilities, y_N: Labels) -> NDArray[np.float64]:
        rows = max(1, _BLOCK // p_NC.shape[1])
        return np.concatenate([each(p_NC[at : at + rows], y_N[at : at + rows]) for at in range(0, len(y_N), rows)])

    def weigh(p_NC: Probabilities, y_N: Labels) -> Weighted:
        values_N = values(p_NC, y_N)
        return lambda weights_DN: np.asarray(weights_DN @ values_N / weights_DN.sum(1))

    return Metric(lambda p_NC, y_N: float(np.mean(values(p_NC, y_N))), higher_is_better, weigh)


def _of_counts(rule: Callable[[Counts], NDArray[np.float64]]) -> Metric:
    """The metric that a `rule` makes of how often each class is truth, answer and both; higher is better."""
    return _plainly(lambda p_NC, y_N: lambda w_DN: rule(counts.count(p_NC.argmax(1), y_N, p_NC.shape[1], w_DN)), True)


def _plainly(weigh: Callable[[Probabilities, Labels], Weighted], higher_is_better: bool) -> Metric:
    """The metric that its own weighted form is, all weights being 1."""
    return Metric(lambda p_NC, y_N: float(weigh(p_NC, y_N)(np.ones((1, len(y_N))))[0]), higher_is_better, weigh)


METRICS: dict[str, Metric] = {
    "log_loss": _mean_of(means.nats, False),
    "accuracy": _mean_of(means.hits, True),
    "top3_accuracy": _mean_of(partial(means.among_top, k=3), True),
    "top5_accuracy": _mean_of(partial(means.among_top, k=5), True),
    "macro_f1": _of_counts(counts.macro_f1),
    "weighted_f1": _of_counts(counts.weighted_f1),
    "balanced_accuracy": _of_counts(counts.balanced_accuracy),
    "kappa": _of_counts(counts.kappa),
    "auc": Metric(auc, True, WeightedAuc),
    "brier": _mean_of(means.squares, False),
    "confidence_gap": _mean_of(means.gaps, True),
    "entropy": _mean_of(means.entropies, False),
    "calibration_error": dataclasses.replace(_plainly(CalibrationError, False), raised_by_noise=True),
}
LABEL_METRICS = ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy", "kappa")  # need no probabilities


def log_loss(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Mean of -log(probability of the true class), in nats; clipped to [1e-15, 1], rows then made to sum to 1."""
    return METRICS["log_loss"].function(probabilities_NC, labels_N)


def group_accuracy(probabilities_NC: Probabilities, labels_N: Labels, groups: Sequence[str]) -> float:
    """Share of samples whose most probable group is that of the true class; a group's probability is the sum over its
    classes. `groups` names the group of each class."""
    names = sorted(set(groups))
    group_C = np.array([names.index(group) for group in groups])
    member_CG = group_C[:, None] == np.arange(len(names))
    return float(np.mean((probabilities_NC @ member_CG).argmax(1) == group_C[labels_N]))


def score(probabilities_NC: ArrayLike, labels_N: ArrayLike, names: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Each named metric of the probabilities against the labels.

    Raises ValueError for an unknown name, shapes that do not belong together, no samples, labels that are no class
    index, or probabilities that are negative or not finite.
    """
    metrics = [(name, metric_of(name)) for name in names]
    p_NC, y_N = np.asarray(probabilities_NC), np.asarray(labels_N)
    if p_NC.ndim != 2 or y_N.shape != p_NC.shape[:1] or 0 in p_NC.shape:
        raise ValueError(f"expected probabilities (N, C) and labels (N,), not empty; got {p_NC.shape} and {y_N.shape}")
    if not np.issubdtype(y_N.dtype, np.integer) or y_N.min() < 0 or y_N.max() >= p_NC.shape[1]:
        raise ValueError(
            f"labels must be class indices 0 to {p_NC.shape[1] - 1}, got {y_N.dtype} {y_N.min()} to {y_N.max()}"
        )
    wrong_N = ~(np.isfinite(p_NC) & (p_NC >= 0)).all(1)
    if wrong_N.any():
        raise ValueError(f"row {int(wrong_N.argmax())}: not finite or below 0; give probabilities, not logits")
    return {name: metric.function(p_NC, y_N) for name, metric in metrics}


@dataclasses.dataclass(frozen=True)
class Scores:
    """How good predictions are over the `images` whose true class is one of theirs. `metrics`: those of METRICS by
    name, and group_accuracy where classes have groups. `unknown`: labels that are none of their classes. `per_class`:
    of each class, where that was asked for."""

    images: int
    metrics: dict[str, float]
    unknown: tuple[str, ...] = ()
    per_class: dict[str, ClassScores] = dataclasses.field(default_factory=dict)


def evaluate(predictions: LabelledPredictions, groups: Sequence[str] = (), per_class: bool = False) -> Scores:
    """Score predictions by the labels that they carry; `groups` names the group of each class, in their order.
    `engine.intervals.intervals` says how sure these scores are.

    Raises ValueError when no label is one of the classes.
    """
    known = predictions.known
    unknown = tuple(sorted(set(predictions.labels) - {"", *predictions.classes}))
    if not len(known):
        raise ValueError(
            f"none of {len(predictions)} predictions has a label among {some(predictions.classes)}"
            + (f"; their labels are {some(unknown)}" if unknown else "")
        )
    labels_N = known.labels_N
    metrics = score(known.probabilities_NC, labels_N)
    if groups:
        metrics["group_accuracy"] = group_accuracy(known.probabilities_NC, labels_N, groups)
    of_classes = scores_of_classes(known.probabilities_NC, labels_N) if per_class else ()
    return Scores(len(known), metrics, unknown, dict(zip(known.classes, of_classes, strict=False)))


def evaluate_groups(
    predictions: LabelledPredictions, names: Sequence[str] = ("log_loss", "accuracy")
) -> dict[str, Scores]:
    """The named metrics of each group of samples by itself (the photos of one sender), those first that have the most
    of all errors. Samples without a group, or without a known label, do not count."""
    known = predictions.known
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(known.groups):
        if group:
            rows.setdefault(group, []).append(row)
    p_NC, y_N = known.probabilities_NC, known.labels_N
    wrong_N = p_NC.argmax(1) != y_N
    most = sorted(rows, key=lambda group: (-int(wrong_N[rows[group]].sum()), -len(rows[group]), group))
    return {group: Scores(len(rows[group]), score(p_NC[rows[group]], y_N[rows[group]], names)) for group in most}


def better(name: str, a: float, b: float) -> bool:
    """Whether `a` is strictly better than `b` in the named metric. NaN is worse than any number."""
    higher = metric_of(name).higher_is_better
    if math.isnan(a) or math.isnan(b):
        return math.isnan(b) and not math.isnan(a)
    return a > b if higher else a < b


def class_share_log_loss(train_labels: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Log loss on `labels` of always answering the class shares of `train_labels`: what any model must beat."""
    shares_C = np.bincount(np.asarray(train_labels), minlength=num_classes) / np.size(train_labels)
    labels_N = np.asarray(labels)
    return log_loss(np.broadcast_to(shares_C, (len(labels_N), num_classes)), labels_N)


def metric_of(name: str) -> Metric:
    """The metric of this name. Raises ValueError, with the nearest, for one that is none."""
    if name not in METRICS:
        raise ValueError(
            f"unknown metric {name!r}: choose from {', '.join(METRICS)}; nearest: {nearest(name, METRICS, 1)[0]}"
        )
    return METRICS[name]
