"""How good answers are where labels are known: of all models together, of each alone, and of somebody who sees nothing.

Most metrics need all answers at once (ranks, bins of equal mass, a bootstrap), so labelled answers are read into
memory, one voter after the other. There they have a bound: of more labelled images an even sample is scored, the same
one each time, chosen by hashes of the ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.data.classes import groups_of
from engine.data.spill import hashes_of
from engine.ensemble.vote import blend
from engine.intervals import DRAWS, Interval, intervals
from engine.metrics import Scores, chance_ece, evaluate
from engine.predict.blind import blind
from engine.predict.job import Job
from engine.predict.parts import STATUS, voter
from engine.predict.piece import Piece
from engine.predictions import NO_FOLD, LabelledPredictions

WITHOUT_SPECIALISTS = "without specialists"
MOST_IMAGES, MOST_CELLS = 1 << 19, 1 << 25
"""Of labelled answers that are scored, images and probabilities: 256 MiB."""
_DRAWN, _LEAST_DRAWS = 1 << 25, 200
"""Samples drawn for intervals, and draws at least: of very many samples intervals are narrow however few there are."""

Pieces = Callable[[Sequence[str] | None], Iterator[Piece]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Metrics by name over the `images` that have a known label (an even sample of them, where they are too many): of
    all models together, of each alone, and of always answering the class shares. `unknown`: labels of the data that the
    models do not know.

    `intervals`: between what those of all together may lie, drawn by the images' groups where they have any.
    `chance_calibration_error`: what a calibrated answer would show. Specialists count in `together` and not in `alone`;
    `without_specialists` is what together was without them, {} when none were asked."""

    images: int
    together: dict[str, float]
    alone: dict[str, dict[str, float]]  # by the name of the fold's folder
    baseline: dict[str, float]
    unknown: tuple[str, ...]
    without_specialists: dict[str, float] = dataclasses.field(default_factory=dict)
    intervals: dict[str, Interval] = dataclasses.field(default_factory=dict)
    chance_calibration_error: float | None = None


def compared(job: Job, pieces: Pieces) -> Comparison | None:
    """How good the answers are; None when no image has a label that the models know. `pieces(columns)` gives all
    answers, with `columns` as their parts' files have them."""
    if not job.scored:
        return None
    models = job.models
    groups = groups_of(models.classes, models.recipe.data)
    known = sum(number for label, number in job.roll.labels.items() if label in models.classes)
    most = min(MOST_IMAGES, MOST_CELLS // len(models.classes))

    def labelled(found: Iterator[tuple[Piece, NDArray[np.floating]]]) -> LabelledPredictions:
        return _labelled(found, models.classes, most / known)

    def scores(found: Iterator[tuple[Piece, NDArray[np.floating]]]) -> Scores:
        return evaluate(labelled(found), groups)

    def of_voter(name: str) -> dict[str, float]:
        return scores((piece, piece.voters[name]) for piece in pieces([STATUS, voter(name)])).metrics

    answers = labelled((piece, piece.p_NC) for piece in pieces(None))
    together = evaluate(answers, groups)
    sure = intervals(answers, draws=max(_LEAST_DRAWS, min(DRAWS, _DRAWN // len(answers))))
    chance = chance_ece(answers, draws=max(10, min(200, _DRAWN // len(answers))))
    shares_C = blend(np.stack([blind(saved, models.classes) for saved in models.checkpoints]))[0]
    baseline = scores((piece, np.tile(shares_C, (len(piece), 1))) for piece in pieces([STATUS]))
    return Comparison(
        images=together.images,
        together=together.metrics,
        alone={name: of_voter(name) for name in models.names},
        baseline=baseline.metrics,
        unknown=tuple(sorted(set(job.roll.labels) - {"", *models.classes})),
        without_specialists=of_voter(WITHOUT_SPECIALISTS) if models.specialists else {},
        intervals=sure,
        chance_calibration_error=chance,
    )


def _labelled(
    found: Iterator[tuple[Piece, NDArray[np.floating]]], classes: Sequence[str], share: float
) -> LabelledPredictions:
    """The answers whose label is known, or about this share of them."""
    ids: list[str] = []
    labels: list[str] = []
    groups: list[str] = []
    answers: list[NDArray[np.floating]] = []
    for piece, p_NC in found:
        rows_N = np.flatnonzero(np.isin(piece.images["label"].to_pylist(), classes))
        if share < 1:
            hashes_N = hashes_of(piece.images["id"].take(rows_N))
            rows_N = rows_N[hashes_N < np.uint64(int(share * 2**64))]
        taken = piece.images.take(rows_N)
        ids += taken["id"].to_pylist()
        labels += taken["label"].to_pylist()
        groups += taken["group"].to_pylist()
        answers.append(p_NC[rows_N])
    fold_N = np.full(len(ids), NO_FOLD, dtype=np.int64)
    named = tuple(groups) if any(groups) else ()
    return LabelledPredictions(tuple(ids), tuple(classes), np.concatenate(answers), tuple(labels), fold_N, groups=named)
