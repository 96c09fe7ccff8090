"""What was answered, as whoever writes, scores or shows it sees it: in the order of the images, a piece at a time, with
what is known of each image beside its answer.

Answers lie in the files of parts. They are read anew by each who goes through them, so that ten million of them take
the memory of one piece.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np

from engine.data.manifest import OK
from engine.predict.job import Job
from engine.predict.parts import STATUS, Part, Parts
from engine.predict.piece import Piece
from engine.predict.scores import Comparison, compared
from engine.predictions import Predictions

Change = Callable[[Part], Part]
Transform = Callable[[Parts], Change]
"""Of all parts, which it may go through as often as it likes, what to make of each: for what has to know all answers
before it changes any, such as an estimate of the classes' shares. A part keeps its rows."""


def as_they_are(_: Parts) -> Change:
    """The plainest transform: answers stay what they are."""
    return lambda part: part


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Answers for every image of the job; `transform` says what becomes of them once all are there. `answered` of them
    are new, by all ranks, and took `seconds`; the others were there before."""

    job: Job
    transform: Transform
    seconds: float
    answered: int

    @cached_property
    def _change(self) -> Change:
        return self.transform(self.job.parts)

    def pieces(self, columns: Sequence[str] | None = None) -> Iterator[Piece]:
        """All answers, in the order of the images, a part at a time; with `columns` only these of the parts' files, and
        no transform."""
        for span, part in self.job.parts.each(columns):
            part = self._change(part) if columns is None else part
            images = self.job.roll.rows(span.start, span.stop)
            yield Piece(images, part.p_NC, part.status, part.columns, part.voters)

    @property
    def images(self) -> int:
        return self.job.parts.rows

    @cached_property
    def seen(self) -> int:
        """How many images could be seen."""
        return sum(part.status.count(OK) for _, part in self.job.parts.each([STATUS]))

    @property
    def failed(self) -> Iterator[tuple[str, str]]:
        """Path and reason of each image that could not be seen."""
        for piece in self.pieces([STATUS]):
            for path, status in zip(piece.images["path"].to_pylist(), piece.status, strict=True):
                if status != OK:
                    yield path, status

    @cached_property
    def asked(self) -> dict[str, int]:
        """About how many images each specialist was asked."""
        names = [one.specialist.name for one in self.job.models.specialists]
        parts = (part.asked for _, part in self.job.parts.each([STATUS]))
        sums = Counter(dict.fromkeys(names, 0))
        for part in parts:
            sums.update(part)
        return dict(sums)

    @cached_property
    def scores(self) -> Comparison | None:
        """How good the answers are where the label is known; None when it is nowhere."""
        return compared(self.job, lambda columns: self.pieces(columns))

    # -- all of it at once, for who has room for it

    @cached_property
    def answers(self) -> Predictions:
        """All answers in memory, float64."""
        pieces = [(piece.ids, piece.p_NC) for piece in self.pieces()]
        ids = tuple(id_ for ids, _ in pieces for id_ in ids)
        return Predictions(ids, self.job.models.classes, np.concatenate([p_NC for _, p_NC in pieces]))

    @cached_property
    def status(self) -> tuple[str, ...]:
        """Of every image "ok", or why it was not seen."""
        return tuple(status for piece in self.pieces([STATUS]) for status in piece.status)
