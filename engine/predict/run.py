"""From fold models and a list of images to answers: a part at a time, each put on disk before the next one is begun.

An image that cannot be read is answered, too: with the class shares of the training data, the best answer of somebody
who sees nothing. A submission without its row would be refused as a whole. It is named in `status` and to the user.

Parts end by the clock, after about half a minute, and by `predict.part`: whatever the models cost, a process that is
killed loses no more than that. How rows are cut into parts changes no answer, because an answer depends on its photo
alone. Several ranks take turns at shares of `predict.part` rows and meet in the folder of parts, nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from engine.data.ingest import Progress
from engine.data.manifest import OK
from engine.errors import DataError, Interrupted
from engine.events import Stop
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.predict.asking import Answered, Asking
from engine.predict.blind import blind, blind_together
from engine.predict.expected import expecting
from engine.predict.job import Job
from engine.predict.outcome import Outcome, Transform
from engine.predict.parts import STATUS, Part, Span
from engine.predict.scores import WITHOUT_SPECIALISTS
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.ranks import Ranks

Ask = Callable[[Samples, NDArray[np.int64], Callable[[int], None]], Answered | Quarantine]
"""(samples, rows, told) -> what models say of these rows, as `Asking` does; told hears how many are done."""

PART_S = 30.0
"""Seconds that a part is to take."""
_FIRST = 1_024  # rows, while nobody knows how long they take


def answer(
    job: Job,
    device: torch.device,
    progress: Progress | None = None,
    *,
    stop: Stop = lambda: False,
    ranks: Ranks | None = None,
    ask: Ask | None = None,
    transform: Transform | None = None,
) -> Outcome:
    """Predict every image that no part answers yet, as `Asking` does, or `ask` in its place.

    `progress(done, total)` counts images; `stop` is asked after each batch. `transform` changes answers once all are
    there, for what needs to see all of them; None is what `expecting` does. Of several `ranks` each calls this and
    answers its share. Raises Interrupted when `stop` says so, with finished parts in place; DataError when no image can
    be decoded.
    """
    began_s, ranks = time.perf_counter(), ranks or Ranks(0, 1, device)
    models, parts = job.models, job.parts
    ask, pace = ask or Asking(models, device), _Pace()
    before = done = parts.answered
    for span in pace.spans(parts.gaps(job.part, ranks.rank, ranks.world)):

        def told(count: int, already: int = done) -> None:
            if progress:
                progress(already + count, parts.rows)
            if stop():
                raise Interrupted(
                    f"stopped: {parts.answered:,} of {parts.rows:,} images are answered, in {parts.folder}; the same "
                    "command goes on with the others"
                )

        told(0)
        parts.write(span, _answered(job, ask, span, told))
        done = parts.answered if ranks.world > 1 else done + len(span)
    if progress:
        progress(done, parts.rows)
    ranks.gather(None)
    outcome = Outcome(job, transform or expecting(models), time.perf_counter() - began_s, parts.rows - before)
    if ranks.leads and not outcome.seen:
        first = next(outcome.pieces([STATUS]))
        parts.clear()
        raise DataError(
            f"none of the {parts.rows} images can be decoded; the first, {first.images['path'][0]}: {first.status[0]}"
        )
    return outcome


class _Pace:
    """Cuts rows into parts that take about `PART_S` seconds."""

    def __init__(self) -> None:
        self._rows = _FIRST

    def spans(self, gaps: Sequence[Span]) -> Iterator[Span]:
        for gap in gaps:
            start = gap.start
            while start < gap.stop:
                span = Span(start, min(start + self._rows, gap.stop))
                began_s = time.perf_counter()
                yield span
                start, took_s = span.stop, time.perf_counter() - began_s
                if len(span) == self._rows:
                    self._rows = max(1, int(self._rows * min(4.0, PART_S / max(took_s, 1e-3))))


def _answered(job: Job, ask: Ask, span: Span, told: Callable[[int], None]) -> Part:
    """What is said of the images of a part."""
    models, images = job.models, job.roll.rows(span.start, span.stop)
    ids, labels = images["id"].to_pylist(), images["label"].to_pylist()
    nobody_N = np.full(len(ids), -1, dtype=np.int64)  # keys and labels are of no use here
    samples = Samples(ids, Files(images["path"].to_pylist()), nobody_N, nobody_N)
    answered = ask(samples, np.arange(len(ids), dtype=np.int64), told)
    quarantine = answered if isinstance(answered, Quarantine) else answered.quarantine
    status = [str(entry.fault) if (entry := quarantine.get(id_)) else OK for id_ in ids]
    blind = blind_together(models)
    row_of = {id_: row for row, id_ in enumerate(ids)}
    known_N = np.isin(labels, models.classes)
    if isinstance(answered, Quarantine):
        p_NC = np.tile(blind, (len(ids), 1))
        voters = {name: _known(np.tile(shares, (len(ids), 1)), known_N) for name, shares in _blind_voters(job).items()}
        return Part(p_NC, status, voters)
    heard = _voters(job, answered)
    voters = {
        name: _known(_whole(heard[name], row_of, models.classes, shares), known_N)
        for name, shares in _blind_voters(job).items()
    }
    places_N = np.full(len(ids), -1, dtype=np.int64)
    places_N[[row_of[id_] for id_ in answered.together.ids]] = np.arange(len(answered.together))
    columns = {name: values.take(pa.array(places_N, mask=places_N < 0)) for name, values in answered.columns.items()}
    return Part(_whole(answered.together, row_of, models.classes, blind), status, voters, columns, answered.asked)


def _whole(
    seen: Predictions, row_of: dict[str, int], classes: Sequence[str], otherwise_C: NDArray[np.float64]
) -> NDArray[np.float64]:
    """An answer for each row: `otherwise_C` for those that were not seen."""
    p_NC = np.tile(otherwise_C, (len(row_of), 1))
    p_NC[[row_of[id_] for id_ in seen.ids]] = seen.in_order(seen.ids, classes).probabilities_NC
    return p_NC


def _known(p_NC: NDArray[np.float64], known_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(known_N[:, None], p_NC, np.nan)


def _voters(job: Job, answered: Answered) -> dict[str, Predictions]:
    """Whose answers are scored beside those of all together: every model's alone, and all without specialists."""
    if not job.scored:
        return {}
    alone = dict(zip(job.models.names, answered.alone, strict=True))
    return alone | ({WITHOUT_SPECIALISTS: answered.without_specialists} if job.models.specialists else {})


def _blind_voters(job: Job) -> dict[str, NDArray[np.float64]]:
    """What each of them answers about an image that it cannot see, (C,)."""
    if not job.scored:
        return {}
    models = job.models
    found = {
        name: blind(saved, models.classes)[0] for name, saved in zip(models.names, models.checkpoints, strict=True)
    }
    return found | ({WITHOUT_SPECIALISTS: blind_together(models)} if models.specialists else {})
