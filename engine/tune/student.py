"""A small model taught by an ensemble: the teacher is asked before, and both are put side by side afterwards.

Between the two lies an ordinary training (`[distill]` in its recipe). The teacher's answers about photos without labels
are a file like that of any prediction; that about its training images lies in its folder already.

A student is compared as it is scored: each image is answered by the one fold that held it out, so what its log loss
says is what one fold's models do. So is the teacher's. How fast they are is measured of one fold and of all together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

from engine.data.ingest import Progress
from engine.errors import DataError
from engine.events import Stop
from engine.intervals import Difference, Interval, compare, intervals
from engine.predict.begun import held
from engine.predict.job import Listed, prepare
from engine.predict.models import Wishes, run_folders
from engine.predict.predictor import Predictor
from engine.predict.run import answer
from engine.predict.writing import refuse_place, write
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import join_ranks
from engine.store.run_folder import PredictionsFolder, RunFolder
from engine.text import some

METRICS = ("log_loss", "accuracy")
_LEAST_S = 3.0  # of measuring a rate
_AT_ONCE = 16  # photos


def ask_teacher(
    teacher: Path,
    photos: Sequence[str],
    place: Path,
    listed: Listed | None = None,
    progress: Progress | None = None,
    stop: Stop = lambda: False,
    overwrite: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """The whole ensemble in `teacher` answers about photos without labels (folders, tables, patterns): the file of its
    answers, in the folder `place`, for `distill.unlabelled`; and notices.

    It goes on where it was stopped, and nobody is asked again about photos that are answered, unless `overwrite`.
    Raises Interrupted, and EngineError for what cannot be answered.
    """
    refuse_place(place)
    with join_ranks() as ranks, ExitStack() as stack:
        if ranks.leads:
            stack.enter_context(held(place))
        job = prepare(teacher, Wishes(data=tuple(photos)), listed, place, ranks, overwrite)
        outcome = answer(job, ranks.device, progress if ranks.leads else None, stop=stop, ranks=ranks)
        if ranks.leads:
            write(job, outcome, place)  # the parts stay: by them the same command knows what was answered
        ranks.gather(None)
    return PredictionsFolder(place).predictions, job.notices


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two. scores: out of fold, on the images that both answered about. one_fold, all_folds: images a second
    of the models of one fold, which is how it is scored, and of all; None where an ensemble has no folds of its own."""

    scores: dict[str, Interval]
    one_fold: float | None
    all_folds: float


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A teacher and its student; differences: the student's to the teacher, about so many images."""

    teacher: Side
    student: Side
    differences: tuple[Difference, ...]
    images: int


def beside_teacher(teacher: Path, student: Path, photos: Sequence[str]) -> Lesson:
    """Both runs' out-of-fold answers about the images that the student held out, and how fast each answers about
    `photos` (paths) on this machine. Raises DataError where there are no such answers, or about other images."""
    of_student, of_teacher = _out_of_fold(student), _out_of_fold(teacher)
    row_of = {id_: row for row, id_ in enumerate(of_teacher.ids)}
    both = [id_ for id_ in of_student.ids if id_ in row_of]
    if not both:
        raise DataError(
            f"{teacher} and {student} answered about no image in common: {some(of_teacher.ids, 2)} there, "
            f"{some(of_student.ids, 2)} here"
        )
    own_of = {id_: row for row, id_ in enumerate(of_student.ids)}
    of_student = of_student.take([own_of[id_] for id_ in both])
    # Their truth is the student's: labels may have been mended since the teacher learnt.
    asked = of_teacher.take([row_of[id_] for id_ in both]).in_order(both, of_student.classes)
    of_teacher = asked.labelled(of_student.labels, of_student.fold_N, of_student.groups)
    sides = [
        Side(intervals(answers, METRICS), *_rates(folder, photos))
        for folder, answers in ((teacher, of_teacher), (student, of_student))
    ]
    differences = tuple(compare(of_teacher, of_student, metric) for metric in METRICS)
    return Lesson(sides[0], sides[1], differences, len(both))


def _out_of_fold(run: Path) -> LabelledPredictions:
    path = RunFolder(run).out_of_fold
    read = Predictions.read(path)
    if not isinstance(read, LabelledPredictions):
        raise DataError(f"{path}: out-of-fold predictions without labels; run the same `engine train` once more")
    return read


def _rates(run: Path, photos: Sequence[str]) -> tuple[float | None, float]:
    whole = rate(Predictor(run, sets=_ALONE), photos)
    folds = [fold.path for fold in RunFolder(run).folds()] if run_folders([run]) == [run] else []
    if len(folds) < 2:
        return (whole if folds else None), whole
    return rate(Predictor(folds[0], sets=_ALONE), photos), whole


_ALONE = ("predict.prior=off",)  # which may want to know all answers first


def rate(
    predictor: Predictor,
    photos: Sequence[str],
    least_s: float = _LEAST_S,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Images a second, of reading, decoding and answering: `photos` in small batches, over and over, for `least_s`
    seconds or more after a first batch."""
    supply = cycle(photos)

    def some_answered() -> None:
        batch = [*islice(supply, _AT_ONCE)]
        predictor.answered(batch, [f"{number}" for number in range(len(batch))])  # whatever cannot be read

    some_answered()
    began, batches = clock(), 0
    while not batches or clock() - began < least_s:
        some_answered()
        batches += 1
    return batches * _AT_ONCE / (clock() - began)
