"""Answers from any file, and the truth about them from any table: what `engine score` scores.

A label alone is scored as the answer that is sure of it, by those metrics that ask for no more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.data.ids import find_ids
from engine.data.sources.table import list_labels
from engine.data.tables import open_table
from engine.ensemble.prediction_files import read_file
from engine.errors import DataError
from engine.metrics import LABEL_METRICS, METRICS
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.sections import DataSection
from engine.text import count, nfc, similar, some


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
    """The answers in a file: this engine's Parquet, or any table with the id first and then a column of probabilities a
    class, or one of labels. Raises DataError, naming the file and what does not fit."""
    notices: list[str] = []
    found = read_file(path, notices)
    if isinstance(found, Predictions):
        return Answers(path, found, False, tuple(notices))
    classes = sorted(set(found.values()))
    place = {name: column for column, name in enumerate(classes)}
    sure_NC = np.eye(len(classes))[[place[label] for label in found.values()]]
    return Answers(path, Predictions(tuple(found), tuple(classes), sure_NC), True, tuple(notices))


@dataclasses.dataclass(frozen=True)
class Truth:
    """The labels of samples, and what belongs together, by the names that a table has for them. groups: {} where no
    column says so."""

    path: str
    labels: Mapping[str, str]
    groups: Mapping[str, str]

    def about(self, ids: Sequence[str], asked: str) -> dict[str, str]:
        """The names that the table has for those of these samples that it knows, by id. Raises DataError when it knows
        none; `asked` is the file that they are of."""
        names = list(self.labels)
        found = find_ids(names, ids, self.path)
        named = {id_: name for name, id_ in zip(names, found, strict=True) if id_ is not None}
        if not named:
            raise DataError(
                f"{self.path}: none of its ids is one of {asked}: {some(names, 3)} there, {some(ids, 3)} here"
            )
        return named


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
    named = truth.about(predictions.ids, str(answers.path))
    labels = [nfc(truth.labels[named[id_]]) if id_ in named else "" for id_ in predictions.ids]
    own = predictions.groups if isinstance(predictions, LabelledPredictions) else ()
    groups = [truth.groups.get(named.get(id_, ""), "") for id_ in predictions.ids] if truth.groups else own
    folds = predictions.fold_N if isinstance(predictions, LabelledPredictions) else None
    one = predictions.labelled(labels, folds, groups)
    answered = set(named.values())
    missing = [name for name, label in truth.labels.items() if label and name not in answered]
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
