"""Out-of-fold answers in a few numbers an image, for a page about a hundred thousand images and hundreds of classes.

A Parquet file lies column by column, and so it is read: a class at a time, of which what a page shows is kept (the
three likeliest classes, what the true one got). The whole matrix, a quarter of a gigabyte at 100,000 x 400 and twice
that while it is put together, is never in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import DataError
from engine.intervals import Interval, interval_of
from engine.metrics.counts import confusion
from engine.predictions import NO_FOLD, P

TOP = 3
_FLOOR = 1e-15  # of a probability, as in the log loss


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """N images whose true class is known, and what was answered about them.

    truth_N: the true class, as a place in `classes`. top_NT, share_NT: the `TOP` likeliest classes (of equals the first
    first; fewer where there are fewer classes) and their probabilities. true_N: the probability of the true class.
    fold_N: the fold that held the image out. groups: () where nothing is known of them.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    truth_N: NDArray[np.int64]
    top_NT: NDArray[np.int64]
    share_NT: NDArray[np.float32]
    true_N: NDArray[np.float32]
    fold_N: NDArray[np.int64]
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def answer_N(self) -> NDArray[np.int64]:
        """The likeliest class."""
        return self.top_NT[:, 0]

    @property
    def confidence_N(self) -> NDArray[np.float32]:
        """Its probability."""
        return self.share_NT[:, 0]

    @property
    def right_N(self) -> NDArray[np.bool_]:
        """Whether it is the true class."""
        return self.answer_N == self.truth_N

    @property
    def nats_N(self) -> NDArray[np.float64]:
        """The log loss of each image."""
        return -np.log(np.clip(self.true_N.astype(np.float64), _FLOOR, 1.0))

    @property
    def confusion_CC(self) -> NDArray[np.int64]:
        """Row the true class, column the answer."""
        return confusion(self.truth_N, self.answer_N, len(self.classes))


def read_answers(path: Path) -> Answers:
    """The images in a file of predictions whose label is one of its classes. Raises DataError when it is no such file,
    or there are none."""
    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        classes = tuple(name.removeprefix(P) for name in names if name.startswith(P))
        fixed = file.read([name for name in ("id", "label", "fold", "group") if name in names])
        place = {name: column for column, name in enumerate(classes)}
        labels_A = np.array([place.get(label, -1) for label in fixed["label"].to_pylist()], dtype=np.int64)
        rows_N = np.flatnonzero(labels_A >= 0)
        if not len(rows_N):
            raise DataError(f"{path}: no image in it has a label among its classes; there is nothing to report on")
        return _read(file, fixed, classes, rows_N, labels_A[rows_N])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: no out-of-fold predictions ({error}); copy the run's folder again") from None


def _read(
    file: pq.ParquetFile, fixed: pa.Table, classes: Sequence[str], rows_N: NDArray[np.int64], truth_N: NDArray[np.int64]
) -> Answers:
    count, most = len(rows_N), min(TOP, len(classes))
    top_NT = np.zeros((count, most), dtype=np.int64)
    share_NT = np.full((count, most), -1.0, dtype=np.float32)
    true_N = np.zeros(count, dtype=np.float32)
    for column, name in enumerate(classes):
        p_N = _column(file, name)[rows_N].astype(np.float32)
        own_N = truth_N == column
        true_N[own_N] = p_N[own_N]
        _insert(top_NT, share_NT, column, p_N)

    def kept(name: str) -> list[str]:
        values = fixed[name].take(rows_N).to_pylist() if name in fixed.column_names else []
        return [value or "" for value in values]

    fold_N = fixed["fold"].to_numpy()[rows_N].astype(np.int64) if "fold" in fixed.column_names else None
    return Answers(
        ids=tuple(kept("id")),
        classes=tuple(classes),
        truth_N=truth_N,
        top_NT=top_NT,
        share_NT=share_NT,
        true_N=true_N,
        fold_N=np.full(count, NO_FOLD, dtype=np.int64) if fold_N is None else fold_N,
        groups=tuple(kept("group")),
    )


def _column(file: pq.ParquetFile, name: str) -> NDArray[np.floating]:
    """Of a class, for all images. By its name: with "a", pyarrow hands out "a.b" as well, as a part of it."""
    return np.asarray(file.read([P + name])[P + name].to_numpy())


def _insert(top_NT: NDArray[np.int64], share_NT: NDArray[np.float32], column: int, p_N: NDArray[np.float32]) -> None:
    """Put a class into the places that it earns; columns come in order, so of equals the first stays first."""
    for place in range(top_NT.shape[1]):
        later = p_N > share_NT[:, place]
        rows = np.flatnonzero(later)
        if len(rows):
            top_NT[rows, place + 1 :] = top_NT[rows, place:-1]
            share_NT[rows, place + 1 :] = share_NT[rows, place:-1]
            top_NT[rows, place], share_NT[rows, place] = column, p_N[rows]
            p_N = np.where(later, np.float32(-2), p_N)


def rows_of(path: Path, answers: Answers, rows_M: NDArray[np.int64]) -> NDArray[np.float32]:
    """All probabilities (M, C) of some of the images that `read_answers` read from this file."""
    file = pq.ParquetFile(path)
    place = {id_: row for row, id_ in enumerate(file.read(["id"])["id"].to_pylist())}
    at_M = np.array([place[answers.ids[row]] for row in rows_M.tolist()], dtype=np.int64)
    p_MC = np.empty((len(rows_M), len(answers.classes)), dtype=np.float32)
    for column, name in enumerate(answers.classes):
        p_MC[:, column] = _column(file, name)[at_M]
    return p_MC


def mean_interval(values_N: NDArray[np.float64], answers: Answers, value: float) -> Interval:
    """The interval of a `value` that is the mean of what each image has."""

    def weighted(weights_DN: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(weights_DN @ values_N / weights_DN.sum(1))

    return interval_of(value, weighted, answers.groups, len(answers))
