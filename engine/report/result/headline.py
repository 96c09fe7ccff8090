"""The scores that a page begins with, each with its interval and with what no model at all would have scored."""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.intervals import Interval, interval_of
from engine.metrics import Weighted, counts
from engine.metrics.calibration import CalibrationError
from engine.report.result.answers import Answers, mean_interval
from engine.report.result.told import Told

_DRAWS = 100


@dataclasses.dataclass(frozen=True)
class Figure:
    """A score with its interval, and what it would be without a model: of the class shares of the training images, or
    by chance; `about` says which. perfect: the best there is. percent: whether it is shown as a share."""

    title: str
    score: Interval
    shares: float
    perfect: float
    percent: bool
    about: str
    has_rail: bool = True

    def rail(self, value: float | None) -> float:
        """Where a value lies on the way from the class shares to perfection, 0 to 100."""
        if value is None or self.shares == self.perfect:
            return 0.0
        return min(100.0, max(0.0, 100 * (value - self.shares) / (self.perfect - self.shares)))


def figures(told: Told, answers: Answers) -> list[Figure]:
    """Accuracy, log loss, macro F1 and calibration error, out of fold. Values are those that the run wrote down."""
    shares_C = _shares(told, answers)
    most = int(shares_C.argmax())
    of_most = float(np.mean(answers.truth_N == most))
    classes = len(np.unique(np.concatenate([answers.truth_N, [most]])))
    baseline = told.scores.get("baseline_log_loss")
    if baseline is None:
        baseline = float(-np.log(np.maximum(shares_C, 1e-15))[answers.truth_N].mean())
    always = f"always answering {answers.classes[most]}"
    f1_of_most = 2 * of_most / (1 + of_most) / classes
    return [
        Figure("Accuracy", _score(told, "accuracy"), of_most, 1.0, True, always),
        Figure("Log loss", _score(told, "log_loss"), baseline, 0.0, False, "answering the class shares"),
        Figure("Macro F1", _score(told, "macro_f1"), f1_of_most, 1.0, True, always),
        Figure(
            "Calibration error", _score(told, "calibration_error"), _chance(answers), 0.0, True, "chance alone", False
        ),
    ]


def _score(told: Told, name: str) -> Interval:
    """With the interval that the run wrote down, or else can be had without all probabilities."""
    value, answers = told.metrics[name], told.answers
    assert answers is not None  # where there are metrics
    if name in ("accuracy", "macro_f1") and (answers.right_N.all() or not answers.right_N.any()):
        return _all_alike(name, value, answers)
    if found := told.scores.get("intervals", {}).get(name):
        return Interval(**found)
    if name == "macro_f1":
        return interval_of(value, _macro_f1(answers), answers.groups, len(answers))
    if name in ("accuracy", "log_loss"):
        values_N = answers.nats_N if name == "log_loss" else answers.right_N.astype(np.float64)
        return mean_interval(values_N, answers, value)
    return Interval(value, None, None)


def _all_alike(name: str, value: float, answers: Answers) -> Interval:
    """Where all is right, or all wrong, so is every draw, and an interval of no width would look like knowledge. That
    of accuracy is exact then (Clopper and Pearson, 1934), a group being one witness; for others there is none."""
    witnesses = len({group or row for row, group in enumerate(answers.groups or [""] * len(answers))})
    if name != "accuracy" or witnesses < 2:
        return Interval(value, None, None)
    least = float(0.025 ** (1 / witnesses))
    return Interval(value, least, 1.0) if answers.right_N.all() else Interval(value, 0.0, 1 - least)


def _macro_f1(answers: Answers) -> Weighted:
    classes = len(answers.classes)
    return lambda weights_DN: counts.macro_f1(counts.count(answers.answer_N, answers.truth_N, classes, weights_DN))


def _chance(answers: Answers) -> float:
    """The calibration error of calibrated answers of these confidences, about so few photos."""
    error = CalibrationError(answers.share_NT[:, :1], np.zeros(len(answers), dtype=np.int64))
    return float(error.by_chance(_DRAWS, np.random.default_rng(0)).mean())


def _shares(told: Told, answers: Answers) -> np.ndarray:
    """Of the training images, by class, (C,); of those that are scored where that is not known."""
    counted_C = np.array([told.counts.get(name, 0) for name in answers.classes], dtype=np.float64)
    if not counted_C.sum():
        counted_C = np.bincount(answers.truth_N, minlength=len(answers.classes)).astype(np.float64)
    return np.asarray(counted_C / counted_C.sum())
