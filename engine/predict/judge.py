"""How good answers are, with how sure that is: what `engine score` shows and writes."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.errors import DataError
from engine.intervals import Difference, Interval, compare, intervals
from engine.metrics import (
    LABEL_METRICS,
    BrierParts,
    Scores,
    brier_parts,
    chance_ece,
    evaluate,
    evaluate_groups,
)
from engine.predict.answers import Answers, Truth, labelled
from engine.predictions import LabelledPredictions
from engine.text import count

_COMPARED = ("log_loss", "accuracy", "macro_f1", "brier", "auc")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Scores of a file of answers.

    scores: of the metrics that these answers allow, and of each class. groups: how many groups intervals are drawn by,
    0 where each sample stands alone. brier, chance (the calibration error that a calibrated answer would show): None
    where there are no probabilities. of_groups: each by itself, those with the most errors first. notices: what was
    made of the files and what was not scored, in words."""

    scores: Scores
    groups: int
    intervals: dict[str, Interval]
    brier: BrierParts | None
    chance: float | None
    of_groups: dict[str, Scores]
    against: tuple[Difference, ...] = ()
    notices: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        content = {"images": self.scores.images, "groups": self.groups, "metrics": self.scores.metrics}
        content |= {"intervals": {name: dataclasses.asdict(one) for name, one in self.intervals.items()}}
        if self.brier is not None:
            content |= {"brier_parts": dataclasses.asdict(self.brier), "chance_calibration_error": self.chance}
        content |= {"per_class": {name: dataclasses.asdict(one) for name, one in self.scores.per_class.items()}}
        if self.of_groups:
            of_groups = {name: {"images": one.images, **one.metrics} for name, one in self.of_groups.items()}
            content |= {"per_group": of_groups}
        if self.against:
            content |= {"against": {one.metric: dataclasses.asdict(one) for one in self.against}}
        return content | {"unknown": list(self.scores.unknown)}


def judge(answers: Answers, truth: Truth | None, against: Answers | None = None) -> Judgement:
    """Score answers by the truth (None: by the labels in their own file), and say how they differ from others `against`
    which they are held: a metric that is "better" is so for `answers`.

    Raises DataError for answers that have no label, or nothing in common with the others.
    """
    one, told = labelled(answers, truth)
    known = one.known
    scores = evaluate(one, per_class=True)
    scores = dataclasses.replace(scores, metrics={name: scores.metrics[name] for name in answers.metrics})
    sure = not answers.labels_only
    differences: tuple[Difference, ...] = ()
    if against is not None:
        differences, more = _differences(answers, against, truth)
        told += more
    return Judgement(
        scores=scores,
        groups=len(set(known.groups) - {""}),
        intervals=intervals(known, answers.metrics),
        brier=brier_parts(known.probabilities_NC, known.labels_N) if sure else None,
        chance=chance_ece(known) if sure else None,
        of_groups=evaluate_groups(known, ("log_loss", "accuracy") if sure else ("accuracy",)),
        against=differences,
        notices=tuple(dict.fromkeys((*answers.notices, *told))),
    )


def _differences(answers: Answers, others: Answers, truth: Truth | None) -> tuple[tuple[Difference, ...], list[str]]:
    """By metric, over the samples that both answer and that have a label; and what was left out, in words."""
    if truth is None and not isinstance(others.predictions, LabelledPredictions):
        one, _ = labelled(answers, None)
        truth = Truth(str(answers.path), dict(zip(one.ids, one.labels, strict=True)), {})
    names: tuple[str, ...] = _COMPARED
    if answers.labels_only or others.labels_only:
        every = sorted({*answers.predictions.classes, *others.predictions.classes})
        answers, others, names = _as_labels(answers, every), _as_labels(others, every), LABEL_METRICS
    first, more = labelled(others, truth)
    second, _ = labelled(answers, truth)
    told = [*others.notices, *more]
    shared = set(first.known.ids) & set(second.known.ids)
    if not shared:
        raise DataError(f"{answers.path} and {others.path} have no labelled sample in common")
    sides = [one.take([row for row, id_ in enumerate(one.ids) if id_ in shared]) for one in (first, second)]
    if max(len(first.known), len(second.known)) > len(shared):
        told.append(f"compared on the {count(len(shared), 'sample')} that both files answer")
    try:
        return tuple(compare(sides[0], sides[1], name) for name in names), told
    except ValueError as error:
        raise DataError(f"{answers.path} and {others.path}: {error}") from None


def _as_labels(answers: Answers, classes: list[str]) -> Answers:
    """As sure answers over these classes, labels and groups of the file kept."""
    sure = answers.over(classes)
    if not isinstance(answers.predictions, LabelledPredictions):
        return sure
    own = answers.predictions
    return dataclasses.replace(sure, predictions=sure.predictions.labelled(own.labels, own.fold_N, own.groups))
