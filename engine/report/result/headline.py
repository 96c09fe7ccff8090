"""The scores that a page begins with, and what a person makes of them, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.ensemble.ensemble import Ensemble
from engine.intervals import Interval, interval_of
from engine.metrics import counts
from engine.metrics.calibration import CalibrationError
from engine.report.result.answers import Answers, mean_interval
from engine.report.result.confused import worst_pairs
from engine.report.result.told import Told
from engine.report.result.trust import Curve
from engine.text import count

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
    known: Mapping[str, Any] = told.scores.get("intervals", {})
    shares_C = _shares(told, answers)
    most = int(shares_C.argmax())
    of_most = float(np.mean(answers.truth_N == most))
    classes = len(np.unique(np.concatenate([answers.truth_N, [most]])))
    baseline = told.scores.get("baseline_log_loss")
    if baseline is None:
        baseline = float(-np.log(np.maximum(shares_C, 1e-15))[answers.truth_N].mean())

    means = {"accuracy": answers.right_N.astype(np.float64), "log_loss": answers.nats_N}

    def score(name: str) -> Interval:
        if found := known.get(name):
            return Interval(**found)
        if name in means:  # of a run that wrote no intervals down
            return mean_interval(means[name], answers, told.metrics[name])
        return Interval(told.metrics[name], None, None)

    def macro_f1(weights_DN: np.ndarray) -> np.ndarray:
        return counts.macro_f1(counts.count(answers.answer_N, answers.truth_N, len(answers.classes), weights_DN))

    f1 = interval_of(told.metrics["macro_f1"], macro_f1, answers.groups, len(answers))
    top, f1_of_most = answers.classes[most], 2 * of_most / (1 + of_most) / classes
    return [
        Figure("Accuracy", score("accuracy"), of_most, 1.0, True, f"always answering {top}"),
        Figure("Log loss", score("log_loss"), baseline, 0.0, False, "answering the class shares"),
        Figure("Macro F1", f1, f1_of_most, 1.0, True, f"always answering {top}"),
        Figure("Calibration error", score("calibration_error"), _chance(answers), 0.0, True, "chance alone", False),
    ]


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


def summary(told: Told, shown: list[Figure], risk: Curve | None) -> list[str]:
    """Two or three sentences for somebody who decides and does not train."""
    answers = told.answers
    if answers is None or not shown:
        return [_nothing(told)]
    accuracy, calibration = shown[0], shown[3]
    said = [
        f"Of {count(len(answers), 'photo')} that the answering models had never seen, {share(accuracy.score.value)} "
        f"are answered rightly{_between(accuracy.score)}; {accuracy.about} would be right for "
        f"{share(accuracy.shares)}.",
        _honesty(answers, calibration),
    ]
    wrong = int((~answers.right_N).sum())
    if pairs := worst_pairs(answers)[:1]:
        pair = pairs[0]
        part = (pair.there + pair.back) / wrong
        said.append(
            f"Most mistakes between two classes are made between {pair.first} and {pair.second}: "
            f"{count(pair.there + pair.back, 'photo')}, {share(part)} of all that is wrong."
        )
    else:
        said.append("Nothing is answered wrongly.")
    if risk is not None and wrong:
        without = 1 - float(risk.y_K[int(np.abs(risk.x_K - 0.8).argmin())])
        gains = "If the fifth of the photos that the models are least sure of goes to a person"
        if without > accuracy.score.value + 0.005:
            said.append(f"{gains}, {share(without)} of the others are right.")
        else:
            said.append(f"{gains}, nothing is won: how sure the models are tells nothing of whether they are right.")
    return said


def _nothing(told: Told) -> str:
    if not told.finished:
        return (
            f"This run is not finished: {count(len(told.records), 'epoch')} trained so far, and nothing scored over "
            "all folds yet. The same `engine train` goes on with it."
        )
    return (
        "All images were trained on, so there is nothing that these models had not seen to judge them by. With "
        "data.folds.count at 2 or more, each photo is answered by models that were not trained on it."
    )


def _honesty(answers: Answers, error: Figure) -> str:
    says, right = float(answers.confidence_N.mean()), float(answers.right_N.mean())
    gap = says - right
    said = f"on average it says {share(says)} and is right in {share(right)}"
    if error.score.value < max(0.03, 1.5 * error.shares):
        return f"How sure it says it is can be taken at its word: {said}."
    if abs(gap) < 0.01:
        return f"How sure it says it is holds on average and not everywhere ({said}); see the reliability plot."
    word = "surer than it should be" if gap > 0 else "less sure than it could be"
    return f"It is {word}: {said}. ensemble.calibrate mends that."


def settled(told: Told) -> list[str]:
    """How answers are made, in words: who answers, and what was kept of all that was tried."""
    if told.ensemble is None:
        return []
    said = [_who(told, told.ensemble)]
    kept = told.ensemble.parts.names
    tried = [*dict.fromkeys(str(gain["part"]) for gain in told.scores.get("ensemble", []))]
    left = [name for name in tried if name not in kept and not (name in ("weights", "stack") and "join" in kept)]
    if kept:
        said.append(
            f"Fitted afterwards and kept, because it gained on photos that it was not fitted on: {_list(kept)}."
        )
    if left:
        said.append(f"Tried and not kept, because no gain could be told from chance: {_list(left)}.")
    hedges = told.ensemble.hedges
    if hedges.risk is not None:
        said.append(
            f"Beside each answer stands a set of classes that holds the truth in {share(hedges.risk.level)} of cases."
        )
    if hedges.threshold is not None:
        said.append(
            f"Below a confidence of {share(hedges.threshold.threshold)} no answer is given, so that "
            f"{share(hedges.threshold.target)} of those given are right."
        )
    if hedges.strange is not None:
        said.append("Photos that are like nothing in training are marked as strange.")
    return said


def _who(told: Told, ensemble: Ensemble) -> str:
    if told.parts:
        return f"{count(len(told.parts), 'run')} answer together: {_list([run.path.name for run in told.parts])}."
    models = count(told.models, "model") if told.models else "Models that are not in this folder any more"
    views = count(len(ensemble.views), "view") if ensemble.views else "one view"
    rule = ensemble.keys.get("ensemble.vote", "soft")
    each = told.models / told.folds if told.folds else 1
    of = f" ({count(told.folds, 'fold')}, {each:g} kept epochs each)" if each > 1 else f" ({count(told.folds, 'fold')})"
    verb = "answers" if told.models == 1 else "answer"
    who = f"{models}{of if told.models else ''} {verb}{' together' if told.models > 1 else ''}"
    return f"{who}, by {views} of each photo ({', '.join(ensemble.views)}), joined by the {rule} vote."


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _between(score: Interval) -> str:
    if score.low is None or score.high is None:
        return ""
    return f" (95% interval {share(score.low)} to {share(score.high)})"


def share(value: float) -> str:
    """A share in per cent, with one decimal where that says something."""
    per_cent = 100 * value
    return f"{per_cent:.0f}%" if per_cent >= 99.95 or abs(per_cent - round(per_cent)) < 0.05 else f"{per_cent:.1f}%"
