"""What stands beside an answer: the set of classes that holds the truth at a chosen risk, whether to rather not answer,
and whether the image is like nothing in training.

Fitted on the same out-of-fold answers as all else, after it, and not judged by a gain: it is asked for or not, and what
it promises is measured where it is made (`risk`, `strange`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyarrow as pa

from engine.ensemble.risk import Risk, Threshold, threshold_for
from engine.ensemble.strange import Signs, Strange
from engine.errors import DataError
from engine.predictions import NO_FOLD, LabelledPredictions, Predictions
from engine.recipe.sections import PredictSection

_KINDS: dict[str, Any] = {"risk": Risk, "threshold": Threshold, "strange": Strange}


@dataclasses.dataclass(frozen=True)
class Hedges:
    """None for what was not asked for; `threshold` also where no confidence is high enough."""

    risk: Risk | None = None
    threshold: Threshold | None = None
    strange: Strange | None = None

    @classmethod
    def fit(cls, answers: LabelledPredictions, section: PredictSection, joint: bool = False) -> Self:
        """Sets and threshold, as `section` asks for them, from out-of-fold answers after all that was kept. joint:
        later there will be one answer to an image, of several runs, and not one a fold."""
        risk = None
        if section.risk:
            risk = Risk.fit(answers, 1 - section.risk, section.risk_method, section.risk_by_class, joint=joint)
        return cls(risk, threshold_for(answers, section.abstain_accuracy) if section.abstain_accuracy else None)

    def columns(
        self, section: PredictSection, folds: Mapping[str, Predictions], answer: Predictions, signs: Sequence[Signs]
    ) -> dict[str, pa.Array]:
        """The columns that `section` asks for, in the order of `answer`: set, abstain, strange, strangeness.

        folds: what each fold answers, by the name of its folder. signs: of each of them. Raises DataError for a fold of
        which the sets know nothing.
        """
        columns: dict[str, pa.Array] = {}
        if section.risk and self.risk is not None:
            risk = _of_folds(self.risk, folds)
            columns["set"] = pa.array(risk[0].sets(risk[1], answer), pa.list_(pa.string()))
        if section.abstain_accuracy:
            least = 2.0 if self.threshold is None else self.threshold.threshold  # 2: never
            columns["abstain"] = pa.array(answer.probabilities_NC.max(1) < least, pa.bool_())
        if section.false_alarms and self.strange is not None:
            columns |= self.strange.apply(signs).columns(section.false_alarms)
        return columns

    def to_dict(self) -> dict[str, Any]:
        """JSON values by name."""
        own = {name: getattr(self, name) for name in _KINDS}
        return {name: one.to_dict() for name, one in own.items() if one is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises ValueError, TypeError or KeyError for anything else."""
        if unknown := set(content) - set(_KINDS):
            raise ValueError(f"hedges {sorted(unknown)}")
        return cls(**{name: kind.from_dict(content[name]) for name, kind in _KINDS.items() if name in content})


NO_HEDGES = Hedges()


def _of_folds(risk: Risk, folds: Mapping[str, Predictions]) -> tuple[Risk, dict[int, Predictions]]:
    """The scores of the folds that answer, by their numbers, with what they answer; folds that do not are no judges."""
    if [*risk.held] == [NO_FOLD]:
        return risk, {NO_FOLD: next(iter(folds.values()))}
    answers = {int(name): answer for name, answer in folds.items() if name.isdecimal() and int(name) in risk.held}
    if len(answers) < len(folds):
        raise DataError(
            f"sets of classes are judged by what folds {', '.join(map(str, risk.held))} held out, and folds "
            f"{', '.join(folds)} answer; give folders their names back, or do without: --set predict.risk=0"
        )
    held = {fold: risk.held[fold] for fold in answers}
    return dataclasses.replace(risk, held=held, labels={fold: risk.labels[fold] for fold in answers}), answers
