"""What a recipe asks for is fitted on out-of-fold predictions, a part at a time, in the order in which it will answer:
weights or a stack, neighbours, calibration.

Each part is judged by answers of fits that had not seen the sample (`nested.honest`), and is kept only where these are
better than those without it, by a paired bootstrap. The next part is fitted on these honest answers and not on those of
the part that is kept, which has seen everything: so what comes out last is honest, too, and is what the run is scored
by. The obvious other way, all parts fitted on everything and scored on the same, praises whoever has most numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from engine.ensemble.calibrate import KINDS, Calibration, Judged, choose
from engine.ensemble.join import Join
from engine.ensemble.neighbours import Found, Neighbours, honestly
from engine.ensemble.nested import honest
from engine.ensemble.parts import Parts
from engine.ensemble.vote import vote_of_fold
from engine.intervals import Difference, compare
from engine.metrics import score
from engine.predictions import LabelledPredictions
from engine.recipe.sections import EnsembleSection

SHOWN = ("log_loss", "accuracy", "calibration_error")

Hear = Callable[[LabelledPredictions], LabelledPredictions]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Answers about the same samples that are to become one, by name: of the epochs that each fold kept, or of runs."""

    names: tuple[str, ...]
    answers: tuple[LabelledPredictions, ...]


@dataclasses.dataclass(frozen=True)
class Gain:
    """What a part does to answers that it was not fitted on, after the parts before it.

    before, after: metrics by name; {} where it was not tried. difference: of log loss. why: in words, what spoke
    against keeping it; "" where it is kept.
    """

    part: str
    how: str
    kept: bool
    before: dict[str, float]
    after: dict[str, float] = dataclasses.field(default_factory=dict)
    difference: Difference | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As scores.json holds it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What was kept, with what everything that was tried came to. joined: honest answers before specialists were heard;
    answers: after all that is kept."""

    parts: Parts
    gains: tuple[Gain, ...]
    joined: LabelledPredictions
    answers: LabelledPredictions


def fit(
    candidates: Candidates,
    section: EnsembleSection,
    hear: Hear = lambda answers: answers,
    found: Found | None = None,
    class_groups: Sequence[str] = (),
) -> Fitted:
    """What `section` asks for, fitted on these candidates, which are out of fold.

    hear: what specialists make of answers. found: the images' neighbours, each in the bank of the fold that held it
    out, where the section asks for them. class_groups: the group of each class, in the order of the first candidate's,
    for calibration by groups.
    """
    join, joined, gains = _join(candidates, section)
    neighbours, told, near = _neighbours(hear(joined), section, found)
    calibration, answers, last = _calibration(told, section, class_groups)
    return Fitted(Parts(join, neighbours, calibration), (*gains, *near, *last), joined, answers)


def judged(part: str, how: str, before: LabelledPredictions, after: LabelledPredictions) -> Gain:
    """Whether `after`, which are honest, are better than `before`: by log loss, told apart by a paired bootstrap."""
    difference = compare(before, after)
    kept = difference.verdict == "better"
    return Gain(part, how, kept, _scores(before), _scores(after), difference, "" if kept else difference.verdict)


def _join(
    candidates: Candidates, section: EnsembleSection
) -> tuple[Join | None, LabelledPredictions, tuple[Gain, ...]]:
    part, how = ("weights", section.weights) if section.stack == "off" else ("stack", section.stack)
    equal = vote_of_fold(candidates.answers, section.vote)
    if how == "equal":
        return None, equal, ()

    def fitted(answers: Sequence[LabelledPredictions]) -> Join:
        return Join.fit(answers, candidates.names, how, section.vote)

    if len(candidates.answers) < 2:
        why = "there is one candidate: folds keep one epoch each, or not as many as each other"
        return None, equal, (Gain(part, how, False, _scores(equal), why=why),)
    try:
        after = honest(candidates.answers, lambda answers: fitted(answers).apply)
    except ValueError as error:  # too few samples to divide
        return None, equal, (Gain(part, how, False, _scores(equal), why=str(error)),)
    gain = judged(part, how, equal, after)
    return (fitted(candidates.answers), after, (gain,)) if gain.kept else (None, equal, (gain,))


def _neighbours(
    answers: LabelledPredictions, section: EnsembleSection, found: Found | None
) -> tuple[Neighbours | None, LabelledPredictions, tuple[Gain, ...]]:
    if section.neighbours == "off":
        return None, answers, ()
    if found is None:
        why = "without features: run `engine train` again; folds that kept different numbers of epochs have none"
        return None, answers, (Gain("neighbours", "auto", False, _scores(answers), why=why),)
    fitted = Neighbours.fit(answers, found, section.neighbours_k)
    how = f"{fitted.weight:.0%} of the answer, k = {', '.join(map(str, fitted.ks))}"
    try:
        after = honestly(answers, found, section.neighbours_k)
    except ValueError as error:  # too few samples to divide
        return None, answers, (Gain("neighbours", how, False, _scores(answers), why=str(error)),)
    gain = judged("neighbours", how, answers, after)
    return (fitted, after, (gain,)) if gain.kept else (None, answers, (gain,))


def _calibration(
    answers: LabelledPredictions, section: EnsembleSection, class_groups: Sequence[str]
) -> tuple[Calibration | None, LabelledPredictions, tuple[Gain, ...]]:
    if section.calibrate == "off":
        return None, answers, ()
    kinds = KINDS if section.calibrate == "auto" else (section.calibrate,)
    choice = choose(answers, kinds, class_groups)
    kept, before = choice.calibration, _scores(answers)
    gains = [_gain_of(row, before) for row in choice.table if row.kind != "none"]
    if kept is None:
        return None, answers, tuple(gains)
    own = judged("calibration", kept.kind, answers, choice.answers)
    others = [gain if gain.how == kept.kind else _beaten(gain, kept.kind) for gain in gains]
    return kept, choice.answers, tuple(own if gain.how == kept.kind else gain for gain in others)


def _gain_of(row: Judged, before: dict[str, float]) -> Gain:
    found = {"log_loss": row.log_loss, "calibration_error": row.calibration_error}
    after = {name: value for name, value in found.items() if value is not None}
    verdict = row.difference.verdict if row.difference else ""
    return Gain("calibration", row.kind, False, before, after, row.difference, row.reason or verdict)


def _beaten(gain: Gain, kept: str) -> Gain:
    better = gain.difference is not None and gain.difference.verdict == "better"
    return dataclasses.replace(gain, why=f"better, but {kept} is simpler or better still") if better else gain


def _scores(answers: LabelledPredictions) -> dict[str, float]:
    known = answers.known
    return score(known.probabilities_NC, known.labels_N, SHOWN)
