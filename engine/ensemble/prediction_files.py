"""Answers that lie in files, of this engine and of other tools, made ready to be joined.

Other tools write what they like: another separator, ids with or without the suffix of an image, columns of text among
those of numbers, or no probabilities at all but a label. All of that is read as it is clearly meant, and told. A label
alone is a vote: a probability of 1 for its class. Files that answer about different samples or classes are refused with
what does not match, unless what all of them have is enough.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.data.ids import find_ids
from engine.data.sources.columns import guess_column
from engine.data.tables import UserTable, open_table
from engine.ensemble.candidates import common
from engine.errors import DataError
from engine.predictions import NO_FOLD, LabelledPredictions, P, Predictions
from engine.text import count, nfc, some

_LABEL = ("prediction", "label", "answer", "class", "target", "category")
_OTHER_LABEL = ("pred", "predicted", "predictedlabel", "predictedclass", "labels", "classname")
_ROUNDED = 0.05  # sums of probabilities that were rounded for printing may be this far from 1
_EXACT = 1e-3  # and are taken as they are when nearer

Labels = dict[str, str]
"""First answers alone: a label by id."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What was read: the answers of each file in one order of samples and classes, and how files were understood."""

    names: tuple[str, ...]
    answers: tuple[Predictions, ...]
    notices: tuple[str, ...]


def read_candidates(paths: Sequence[Path], shared: bool = False) -> Read:
    """The answers in these files, ids and classes called as in the first, and in its order.

    `shared`: what all files have is enough. Raises DataError, which names the file and what does not fit.
    """
    notices: list[str] = []
    found = [read_file(path, notices) for path in paths]
    names = tuple(map(str, paths))
    answers = [_called_alike(one, name, found, names[0]) for one, name in zip(_of_labels(found), names, strict=True)]
    if not shared:
        _refuse_different(answers, names)
    try:
        joint = common(answers)
    except ValueError as error:
        raise DataError(f"{some(names, show=str)}: {error}; these files have nothing in common to join") from None
    notices += _left_out(answers, joint[0], names)
    return Read(names, tuple(joint), tuple(notices))


def known_labels(read: Read) -> list[str]:
    """The labels of the samples, where a file has them; [] where none has. Raises DataError when two files differ."""
    files = zip(read.answers, read.names, strict=True)
    labelled = [(one, name) for one, name in files if isinstance(one, LabelledPredictions)]
    if not labelled:
        return []
    first, its_name = labelled[0]
    for other, name in labelled[1:]:
        pairs = zip(first.ids, first.labels, other.labels, strict=True)
        if unlike := [id_ for id_, a, b in pairs if nfc(a) != nfc(b)]:
            raise DataError(
                f"{its_name} and {name} have different labels for {some(unlike)}. Give the right ones: --truth TABLE"
            )
    return list(first.labels)


def with_labels(read: Read, labels: Sequence[str], groups: Sequence[str] = ()) -> list[LabelledPredictions]:
    """The answers with these labels and groups of their samples; folds, and groups where none are given, are those of
    the file that has most of them."""
    called = {nfc(name): name for name in read.answers[0].classes}
    known = [one for one in read.answers if isinstance(one, LabelledPredictions)]
    fullest = max(known, key=lambda one: (len(np.unique(one.fold_N)), bool(one.groups)), default=None)
    fold_N = np.full(len(labels), NO_FOLD, np.int64) if fullest is None else fullest.fold_N
    groups = groups or (() if fullest is None else fullest.groups)
    return [one.labelled([called.get(nfc(label), label) for label in labels], fold_N, groups) for one in read.answers]


def read_file(path: Path, notices: list[str]) -> Predictions | Labels:
    """The answers in one file; how it was understood is added to the notices. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file of predictions")
    if path.suffix.lower() == ".parquet" and _is_ours(path):
        return Predictions.read(path)
    table = open_table(str(path))
    notices += table.notices
    if not len(table) or len(table.names) < 2:
        raise DataError(f"{path}: expected the id first, then a column a class or one of labels, and rows below them")
    names, columns = table.names, list(zip(*table.rows(), strict=True))
    if len(names) > 2 and names[0] in ("", "Unnamed: 0") and columns[0] == tuple(map(str, range(len(table)))):
        names, columns = names[1:], columns[1:]  # the rows' numbers, as pandas writes them unasked
    ids = [nfc(value.strip()) for value in columns[0]]
    if twice := [name for name, times in Counter(ids).items() if times > 1]:
        raise DataError(f"{path}: ids that stand there twice: {some(twice)}; keep one row of each")
    numbers = {name: _numbers(values) for name, values in zip(names[1:], columns[1:], strict=True)}
    p = {name: values_N for name, values_N in numbers.items() if values_N is not None}
    label = guess_column(names[1:], _LABEL, _OTHER_LABEL)[0]
    if len(p) > 1 and not _sums_to_one(p) and label in p and _sums_to_one({n: v for n, v in p.items() if n != label}):
        del p[label]
    if len(p) < 2 or (label and not _sums_to_one(p)):
        return _labels_of(table, names, columns, ids, label)
    if passed := [name for name in names[1:] if name not in p]:
        notices.append(f"{path}: no columns of probabilities and passed over: {some(passed)}")
    return _probabilities_of(path, ids, p, notices)


def _is_ours(path: Path) -> bool:
    try:
        return any(name.startswith(P) for name in pq.read_schema(path).names)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({error}); make it again") from None


def _numbers(values: Sequence[str]) -> NDArray[np.float64] | None:
    """A column as numbers, with points or commas; None when it is none."""
    text = pc.utf8_trim_whitespace(pa.array(values, pa.string()))
    for one in (text, pc.replace_substring(text, ",", ".")):
        try:
            return np.asarray(one.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
        except pa.ArrowInvalid:
            continue
    return None


def _sums_to_one(columns: dict[str, NDArray[np.float64]]) -> bool:
    sums_N = np.sum(list(columns.values()), axis=0)
    return bool((np.abs(sums_N - 1) < _ROUNDED).all())


def _labels_of(
    table: UserTable, names: Sequence[str], columns: Sequence[Sequence[str]], ids: Sequence[str], label: str
) -> Labels:
    """First answers alone: of the one column beside the id, or of that which is called as labels are."""
    if len(names) > 2 and not label:
        raise DataError(
            f"{table.path}: columns {some(names[1:])} are neither probabilities that sum to 1 in every row nor is one "
            f"called {', '.join(_LABEL[:-1])} or {_LABEL[-1]}. Give probabilities (not logits), or one column of labels"
        )
    values = [nfc(value.strip()) for value in columns[names.index(label or names[1])]]
    if empty := [id_ for id_, value in zip(ids, values, strict=True) if not value]:
        raise DataError(f"{table.path}: no answer for {some(empty)}; fill in a label, or remove the rows")
    if any(not value.lstrip("+-").isdecimal() for value in values) and _numbers(values) is not None:
        raise DataError(
            f"{table.path}: column {label or names[1]!r} holds numbers such as {values[0]}, a probability of one class "
            "only. Give a column for each class, called as the class is, or labels"
        )
    return dict(zip(ids, values, strict=True))


def _probabilities_of(
    path: Path, ids: Sequence[str], columns: dict[str, NDArray[np.float64]], notices: list[str]
) -> Predictions:
    classes = [nfc(name) for name in columns]
    if all(name.startswith(P) for name in classes):  # our Parquet, as other programs turn it into CSV
        classes = [name.removeprefix(P) for name in classes]
    p_NC = np.stack(list(columns.values()), axis=1)
    sums_N = p_NC.sum(1)
    if missing := np.flatnonzero(~np.isfinite(sums_N)).tolist():
        raise DataError(f"{path}: no number for {some([ids[row] for row in missing])}; fill it in, or remove the rows")
    if (p_NC >= 0).all() and _EXACT < np.abs(sums_N - 1).max() < _ROUNDED:
        notices.append(f"{path}: rows sum to {sums_N.min():.4g} to {sums_N.max():.4g}, and are made to sum to 1")
        p_NC = p_NC / sums_N[:, None]
    try:
        return Predictions(tuple(ids), tuple(classes), p_NC)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _of_labels(found: Sequence[Predictions | Labels]) -> list[Predictions]:
    """Labels as votes over the classes of the first file that has probabilities, else over all that are named."""
    known = next((one.classes for one in found if isinstance(one, Predictions)), None)
    if known is None:
        known = tuple(sorted({label for one in found if isinstance(one, dict) for label in one.values()}))
    return [one if isinstance(one, Predictions) else _votes(one, known) for one in found]


def _votes(labels: Labels, known: Sequence[str]) -> Predictions:
    column = {nfc(name): place for place, name in enumerate(known)}
    others = sorted({label for label in labels.values() if label not in column})
    column |= {name: len(known) + place for place, name in enumerate(others)}
    p_NC = np.eye(len(column))[[column[label] for label in labels.values()]]
    return Predictions(tuple(labels), (*known, *others), p_NC)


def _called_alike(one: Predictions, name: str, found: Sequence[Predictions | Labels], first_name: str) -> Predictions:
    """The same with ids as the first file has them: other tools leave the suffix of an image, or its folder, out."""
    first = found[0]
    ids = first.ids if isinstance(first, Predictions) else tuple(first)
    if name == first_name or {*map(nfc, one.ids)} == {*map(nfc, ids)}:
        return one
    meant = find_ids(one.ids, ids, name)
    return dataclasses.replace(one, ids=tuple(ours or theirs for ours, theirs in zip(meant, one.ids, strict=True)))


def _left_out(answers: Sequence[Predictions], joint: Predictions, names: Sequence[str]) -> list[str]:
    """What only some of the files have, in words."""
    told = [
        f"{name}: {count(len(one) - len(joint), 'sample')} left out, since not all files have them"
        for one, name in zip(answers, names, strict=True)
        if len(one) > len(joint)
    ]
    every = dict.fromkeys(nfc(name) for one in answers for name in one.classes)
    if lost := [name for name in every if name not in joint.classes]:
        told.append(f"classes left out, since not all files have them: {some(lost)}")
    return told


def _refuse_different(answers: Sequence[Predictions], names: Sequence[str]) -> None:
    first = answers[0]
    for one, name in zip(answers[1:], names[1:], strict=True):
        for what, have, wanted in (("sample", one.ids, first.ids), ("class", one.classes, first.classes)):
            ours, theirs = {nfc(each) for each in wanted}, {nfc(each) for each in have}
            lacking = [each for each in wanted if nfc(each) not in theirs]
            extra = [each for each in have if nfc(each) not in ours]
            if not lacking and not extra:
                continue
            plural = "classes" if what == "class" else "samples"
            told = [
                f"{name} lacks {count(lacking, what, plural)} of {names[0]}: {some(lacking)}" if lacking else "",
                f"only {name} has {count(extra, what, plural)}: {some(extra)}" if extra else "",
            ]
            raise DataError(
                f"{'; '.join(filter(None, told))}. Give answers about the same samples and classes, or join what all "
                "files have: --common"
            )
