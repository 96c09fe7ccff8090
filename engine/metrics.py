"""How good predicted probabilities are: log loss first, and its company.

Each metric stands once, in `METRICS`, with its function and its direction, so that choosing the best epoch, stopping
early and colouring a report cannot disagree about what better means. Shapes: N samples, C classes; probabilities are
float of shape (N, C), rows summing to 1 roughly; labels are int of shape (N,), class indices.

All in numpy. scikit-learn has most of these and is what the tests ask, but is slow to import, and a command that only
wants to know whether higher is better should not wait for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.predictions import LabelledPredictions
from engine.text import nearest, some

_CLIP = 1e-15  # a probability of 0 for the true class costs 34.5 nats, not infinity
_ECE_BINS = 15

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]


def log_loss(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Mean of -log(probability of the true class), in nats; clipped to [1e-15, 1], rows then made to sum to 1."""
    clipped_NC = np.clip(probabilities_NC.astype(np.float64), _CLIP, 1)
    true_N = np.take_along_axis(clipped_NC, labels_N[:, None], 1)[:, 0]
    return float(np.mean(np.log(clipped_NC.sum(1)) - np.log(true_N)))


def accuracy(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Share of samples whose most probable class is the true one (the first of equals)."""
    return float(np.mean(probabilities_NC.argmax(1) == labels_N))


def top_accuracy(probabilities_NC: Probabilities, labels_N: Labels, k: int) -> float:
    """Share of samples whose true class is among the k most probable; equals of the true class count as before it."""
    true_N1 = np.take_along_axis(probabilities_NC, labels_N[:, None], 1)
    at_least_N = (probabilities_NC >= true_N1).sum(1)  # the true class itself included
    return float(np.mean(at_least_N <= k))


def group_accuracy(probabilities_NC: Probabilities, labels_N: Labels, groups: Sequence[str]) -> float:
    """Share of samples whose most probable group is that of the true class; a group's probability is the sum over its
    classes. `groups` names the group of each class."""
    names = sorted(set(groups))
    group_C = np.array([names.index(group) for group in groups])
    member_CG = group_C[:, None] == np.arange(len(names))
    return float(np.mean((probabilities_NC @ member_CG).argmax(1) == group_C[labels_N]))


def macro_f1(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Mean F1 over the classes that occur among labels or answers, each counting the same."""
    counts_CC = confusion(labels_N, probabilities_NC.argmax(1), probabilities_NC.shape[1])
    of_class_C = counts_CC.sum(0) + counts_CC.sum(1)  # as label and as answer
    occurs_C = of_class_C > 0
    return float(np.mean(2.0 * counts_CC.diagonal()[occurs_C] / of_class_C[occurs_C]))


def confidence_gap(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Mean distance between the two highest probabilities."""
    if probabilities_NC.shape[1] == 1:
        return 1.0
    top_N2 = np.partition(probabilities_NC.astype(np.float64), -2, axis=1)[:, -2:]
    return float(np.mean(top_N2[:, 1] - top_N2[:, 0]))


def entropy(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Mean entropy of the answers, in nats: 0 for certainty, log(C) for no idea."""
    p_NC = probabilities_NC.astype(np.float64)
    return float(-np.mean(np.sum(p_NC * np.log(np.maximum(p_NC, _CLIP)), 1)))


def calibration_error(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Expected calibration error: |accuracy - confidence| over 15 equal bins of confidence, weighted by their size.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence_N = probabilities_NC.max(1).astype(np.float64)
    hit_N = probabilities_NC.argmax(1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * _ECE_BINS).astype(int) - 1, 0, _ECE_BINS - 1)
    gap = np.bincount(bin_N, hit_N - confidence_N, _ECE_BINS)  # per bin: its size times (accuracy - confidence)
    return float(np.abs(gap).sum() / len(labels_N))


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric's function of (probabilities_NC, labels_N) and which way is better."""

    function: Callable[[Probabilities, Labels], float]
    higher_is_better: bool


METRICS: dict[str, Metric] = {
    "log_loss": Metric(log_loss, False),
    "accuracy": Metric(accuracy, True),
    "top3_accuracy": Metric(partial(top_accuracy, k=3), True),
    "top5_accuracy": Metric(partial(top_accuracy, k=5), True),
    "macro_f1": Metric(macro_f1, True),
    "confidence_gap": Metric(confidence_gap, True),
    "entropy": Metric(entropy, False),
    "calibration_error": Metric(calibration_error, False),
}


def score(probabilities_NC: ArrayLike, labels_N: ArrayLike, names: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Each named metric of the probabilities against the labels.

    Raises ValueError for an unknown name, shapes that do not belong together, no samples, labels that are no class
    index, or probabilities that are negative or not finite.
    """
    metrics = [(name, _metric(name)) for name in names]
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
    name, and group_accuracy where classes have groups. `unknown`: labels that are none of their classes."""

    images: int
    metrics: dict[str, float]
    unknown: tuple[str, ...] = ()


def evaluate(predictions: LabelledPredictions, groups: Sequence[str] = ()) -> Scores:
    """Score predictions by the labels that they carry; `groups` names the group of each class, in their order.

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
    return Scores(len(known), metrics, unknown)


def better(name: str, a: float, b: float) -> bool:
    """Whether `a` is strictly better than `b` in the named metric. NaN is worse than any number."""
    higher = _metric(name).higher_is_better
    if math.isnan(a) or math.isnan(b):
        return math.isnan(b) and not math.isnan(a)
    return a > b if higher else a < b


def class_share_log_loss(train_labels: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Log loss on `labels` of always answering the class shares of `train_labels`: what any model must beat."""
    shares_C = np.bincount(np.asarray(train_labels), minlength=num_classes) / np.size(train_labels)
    labels_N = np.asarray(labels)
    return log_loss(np.broadcast_to(shares_C, (len(labels_N), num_classes)), labels_N)


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


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise ValueError(
            f"unknown metric {name!r}: choose from {', '.join(METRICS)}; nearest: {nearest(name, METRICS, 1)[0]}"
        )
    return METRICS[name]
