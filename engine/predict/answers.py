"""Answers from any file, and the truth about them from any table: what `engine score` scores.

A file may be this engine's Parquet, or a table of another tool: an id, and then a column of probabilities a class or
one column of labels. A label is scored as the answer that is sure of it, by those metrics that ask for no more.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.data.ids import find_ids
from engine.data.sources.table import list_labels
from engine.data.tables import UserTable, open_table
from engine.errors import DataError
from engine.metrics import LABEL_METRICS, METRICS
from engine.predictions import LabelledPredictions, P, Predictions
from engine.recipe.sections import DataSection
from engine.text import count, nfc, similar, some

_FAR = 0.1  # from 1, at which a row is no rounded distribution any more


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What a file answers. labels_only: it has no probabilities, and those here are 1 for the label. notices: what was
    made of the file, in words."""

    path: Path
    predictions: Predictions
    labels_only: bool = False
    notices: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that such answers can be scored by."""
        return LABEL_METRICS if self.labels_only else tuple(METRICS)

    def over(self, classes: Sequence[str]) -> Answers:
        """The likeliest label of each sample as an answer over these classes and its own, sure of it."""
        best = self.predictions.answers
        every = tuple(dict.fromkeys((*classes, *best)))
        place = {name: column for column, name in enumerate(every)}
        sure_NC = np.eye(len(every))[[place[name] for name in best]].reshape(len(best), len(every))
        return dataclasses.replace(
            self, predictions=Predictions(self.predictions.ids, every, sure_NC), labels_only=True
        )


def read_answers(path: Path) -> Answers:
    """The answers in a file. Raises DataError, naming the file and what does not fit."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of predictions")
    if path.suffix.lower() == ".parquet" and any(name.startswith(P) for name in pq.read_schema(path).names):
        return Answers(path, Predictions.read(path))
    table = open_table(str(path))
    if len(table.written) < 2 or not len(table):
        raise DataError(f"{path}: expected the ids first, and then a column a class or one column of labels")
    ids, *columns = (table.columns([name])[0].to_pylist() for name in _named(table))
    ids = [nfc(id_.strip()) for id_ in ids]
    names = [nfc(name) for name in _named(table)[1:]]
    numbers = {name: column for name, column in zip(names, map(_numbers, columns), strict=True) if column is not None}
    if twice := sorted(id_ for id_, times in Counter(ids).items() if times > 1):
        raise DataError(f"{path}: ids that stand there twice: {some(twice)}")
    if len(numbers) > 1:
        return _probabilities(path, tuple(ids), numbers, [name for name in names if name not in numbers], table.notices)
    labels = [column for name, column in zip(names, columns, strict=True) if name not in numbers] or columns
    if len(labels) > 1:
        shown = some([name for name in names if name not in numbers])
        raise DataError(f"{path}: which of its columns is the label: {shown}? Leave the id and that one")
    answered = [nfc(label.strip()) for label in labels[0]]
    if numbers and len(columns) == 1 and any("." in label for label in answered):
        raise DataError(f"{path}: one column of numbers says nothing of the other classes; give a column a class")
    if empty := [id_ for id_, label in zip(ids, answered, strict=True) if not label]:
        raise DataError(f"{path}: no label for {some(empty)}")
    classes = tuple(sorted(set(answered)))
    plain = Predictions(tuple(ids), classes, np.eye(len(classes))[[classes.index(label) for label in answered]])
    return Answers(path, plain, True, table.notices)


def _named(table: UserTable) -> list[str]:
    if "" in table.names[1:]:
        raise DataError(f"{table.path}: a column without a name; name it after its class, or remove it")
    return table.names


def _numbers(column: Sequence[str]) -> NDArray[np.float64] | None:
    try:
        return np.array(column, dtype=np.float64)
    except ValueError:
        return None


def _probabilities(
    path: Path,
    ids: tuple[str, ...],
    columns: Mapping[str, NDArray[np.float64]],
    left: Sequence[str],
    notices: Sequence[str],
) -> Answers:
    """Probabilities of columns of numbers, rows rounded by whoever wrote them brought to sum to 1. The first column may
    be a label that is a number."""
    p_NC = np.stack([*columns.values()], axis=1)
    if _wrong(p_NC).size and len(columns) > 2 and not _wrong(p_NC[:, 1:]).size:
        left, columns, p_NC = (*left, next(iter(columns))), dict([*columns.items()][1:]), p_NC[:, 1:]
    sums_N = p_NC.sum(1)
    if (wrong := _wrong(p_NC)).size:
        raise DataError(
            f"{path}: {count(wrong.size, 'row')} that are no probabilities, such as {ids[wrong[0]]!r} with the sum "
            f"{sums_N[wrong[0]]:.6g}; every column of numbers beside the id is taken for a class: {some(columns)}"
        )
    rounded = np.abs(sums_N - 1).max()
    said = [f"{path}: rows sum to 1 within {rounded:.2g}; scored as if to 1"] if rounded > 1e-4 else []
    said += [f"{path}: left aside: {some(left)}"] if left else []
    return Answers(path, Predictions(ids, tuple(columns), p_NC / sums_N[:, None]), False, (*notices, *said))


def _wrong(p_NC: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows that are no distribution, not even a rounded one."""
    return np.flatnonzero(~(np.abs(p_NC.sum(1) - 1) < _FAR) | (p_NC < 0).any(1))


@dataclasses.dataclass(frozen=True)
class Truth:
    """The labels of samples, and what belongs together, by the names that a table has for them. groups: {} where no
    column says so."""

    path: str
    labels: Mapping[str, str]
    groups: Mapping[str, str]


def read_truth(path: str, label_column: str = "", id_column: str = "", group_column: str = "") -> Truth:
    """The truth in a table, its columns found as those of training data are. Raises DataError."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such table of labels")
    there = open_table(path).names
    for column in filter(None, (label_column, id_column, group_column)):
        if column not in there:
            near = "".join(f" (nearest: {name!r})" for name in similar(column, there, most=1))
            raise DataError(f"{path}: no column {column!r}; its columns are {some(there, 20)}{near}")
    labels = list_labels(path, DataSection(id_column=id_column, label_column=label_column))
    if not labels:
        raise DataError(f"{path}: no rows below the header")
    groups = list_labels(path, DataSection(id_column=id_column, label_column=group_column)) if group_column else {}
    return Truth(path, labels, groups)


def labelled(answers: Answers, truth: Truth | None) -> tuple[LabelledPredictions, list[str]]:
    """The answers with their true labels and groups, in words also what has no counterpart. `truth` None: by the labels
    that the file itself has. Answers that are labels get the classes of the truth as well.

    Raises DataError when there are no labels, or none that belongs to an answer.
    """
    predictions = answers.predictions
    if truth is None:
        if not isinstance(predictions, LabelledPredictions) or not any(predictions.labels):
            raise DataError(f"{answers.path}: holds no labels; give a table that does as TRUTH")
        return predictions, _unknown(answers.path, predictions)
    if answers.labels_only:
        predictions = answers.over(sorted(set(truth.labels.values()) - {""})).predictions
    names = list(truth.labels)
    found = find_ids(names, predictions.ids, truth.path)
    named = {id_: name for name, id_ in zip(names, found, strict=True) if id_ is not None}
    if not named:
        raise DataError(
            f"{truth.path}: none of its ids is one of {answers.path}: {some(names, 3)} there, "
            f"{some(predictions.ids, 3)} here"
        )
    labels = [nfc(truth.labels[named[id_]]) if id_ in named else "" for id_ in predictions.ids]
    own = predictions.groups if isinstance(predictions, LabelledPredictions) else ()
    groups = [truth.groups.get(named.get(id_, ""), "") for id_ in predictions.ids] if truth.groups else own
    folds = predictions.fold_N if isinstance(predictions, LabelledPredictions) else None
    one = predictions.labelled(labels, folds, groups)
    missing = [name for name, id_ in zip(names, found, strict=True) if id_ is None and truth.labels[name]]
    extra = [id_ for id_, label in zip(one.ids, labels, strict=True) if not label]
    told = [f"{truth.path}: {count(missing, 'label')} without an answer: {some(missing, 3)}"] if missing else []
    told += [f"{answers.path}: {count(extra, 'answer')} without a label: {some(extra, 3)}"] if extra else []
    return one, told + _unknown(answers.path, one)


def _unknown(path: Path, one: LabelledPredictions) -> list[str]:
    """Labels that are none of the classes: in words, or a DataError when there are no others."""
    unknown = sorted(set(one.labels) - {"", *one.classes})
    scored = len(one.known)
    if not scored:
        near = similar(unknown[0], one.classes, most=1) if unknown else []
        raise DataError(
            f"{path}: none of its classes is a label: classes {some(one.classes)}; labels {some(unknown)}"
            + (f". Is {unknown[0]!r} called {near[0]!r}?" if near else "")
        )
    return [f"{path}: labels that are none of its classes are not scored: {some(unknown)}"] if unknown else []
