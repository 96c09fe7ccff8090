"""Photos worth looking at: where the models were most wrong, least sure, or shown something that they do not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.report.result.answers import Answers
from engine.report.result.predictions import Predicted

SHOWN, STRANGERS = 24, 12


@dataclasses.dataclass(frozen=True)
class Shot:
    """A photo in a gallery. truth: "" where it is not known; others: the next likeliest classes with their shares;
    note: what else there is to say of it. predicted: whether it is one of those that were predicted, whose ids may be
    those of other photos in training."""

    id: str
    truth: str
    answer: str
    confidence: float
    others: tuple[tuple[str, float], ...] = ()
    note: str = ""
    predicted: bool = False

    @property
    def key(self) -> str:
        """What no other photo on the page is called."""
        return predicted_key(self.id) if self.predicted else self.id

    @property
    def right(self) -> bool:
        return self.truth == self.answer


def predicted_key(id_: str) -> str:
    """`Shot.key` of a photo that was predicted."""
    return f"predicted {id_}"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """`why`: what is to be seen in it; `lacking`: how it would be had, where it is empty."""

    key: str
    title: str
    why: str
    shots: tuple[Shot, ...]
    lacking: str = ""


def galleries(answers: Answers | None, predicted: Predicted | None) -> list[Gallery]:
    """The most confident mistakes, the least certain, the strangers."""
    return [_mistakes(answers), _uncertain(answers), _strangers(predicted)]


_UNKNOWN = "Needs photos that were held out: train with two folds or more."


def _mistakes(answers: Answers | None) -> Gallery:
    shots: Sequence[Shot] = ()
    lacking = _UNKNOWN
    if answers is not None:
        rows = np.flatnonzero(~answers.right_N)
        rows = rows[np.argsort(-answers.confidence_N[rows], kind="stable")][:SHOWN]
        shots, lacking = _shots(answers, rows), "Nothing that was held out is answered wrongly."
    why = (
        "Sure, and wrong by the label. Look first whether the label is right: such a list is where wrong labels are "
        "found, and `engine data court` goes through them."
    )
    return Gallery("mistakes", "The most confident mistakes", why, tuple(shots), "" if shots else lacking)


def _uncertain(answers: Answers | None) -> Gallery:
    shots: Sequence[Shot] = ()
    if answers is not None:
        shots = _shots(answers, np.argsort(answers.confidence_N, kind="stable")[:SHOWN])
    why = "Where the likeliest class has the least: what the models find hard, several things in one photo, or none."
    return Gallery("uncertain", "The least certain", why, tuple(shots), "" if shots else _UNKNOWN)


def _shots(answers: Answers, rows: np.ndarray) -> list[Shot]:
    names = answers.classes
    found = []
    for row in rows.tolist():
        top = zip(answers.top_NT[row].tolist(), answers.share_NT[row].tolist(), strict=True)
        ranked = [(names[column], share) for column, share in top]
        truth = names[int(answers.truth_N[row])]
        note = "" if truth in [name for name, _ in ranked] else f"{truth} got {100 * float(answers.true_N[row]):.1f}%"
        found.append(Shot(answers.ids[row], truth, *ranked[0], tuple(ranked[1:]), note))
    return found


def _strangers(predicted: Predicted | None) -> Gallery:
    shots: tuple[Shot, ...] = ()
    if predicted is None:
        lacking = (
            "Told of photos that are predicted: run `engine infer` with predict.false_alarms set, such as to 0.01."
        )
    elif not predicted.strangest:
        lacking = (
            "How strange a photo is was not asked for: set `predict.false_alarms`, such as to 0.01, with `engine "
            "ensemble` or `engine train`, and predict again."
        )
    else:
        lacking = ""
        shots = tuple(
            Shot(id_, label, answer, share, note=_odds(p), predicted=True)
            for id_, label, answer, share, p in predicted.strangest[:STRANGERS]
        )
    why = "Among the photos that were predicted, those that are least like anything in training."
    return Gallery("strangers", "The strangest", why, shots, lacking)


def _odds(p: float) -> str:
    return f"as strange as 1 in {max(1, round(1 / max(p, 1e-9))):,} of ordinary photos"
