"""submission.csv: predictions in a shape that somebody else decided.

A sample submission is a contract: its columns, their order, its rows and their order. `Sheet` reads it before the
first image is decoded, so that a missing id or an unknown class costs a second and not a night; writing afterwards
cannot fail for these reasons.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.data.ids import find_ids
from engine.data.names import AS_FOUND, ClassNames
from engine.errors import DataError
from engine.files import atomic_write
from engine.predictions import DIGITS, Predictions
from engine.text import nfc, some


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The shape of a submission file.

    columns: the header, the id's column first. contents: for each further column the class whose probability it holds,
    or None for the label. ids: what stands in the first column, row by row. sample_ids: the id that answers each row.
    left_out: ids that were predicted but that the sample file does not ask for. shares: for each further column, what
    part of its class's probability it holds. labels: how a class is written as a label, where not by its own name.
    """

    columns: tuple[str, ...]
    contents: tuple[str | None, ...]
    ids: tuple[str, ...]
    sample_ids: tuple[str, ...]
    left_out: tuple[str, ...]
    shares: tuple[float, ...]
    labels: Mapping[str, str]

    @classmethod
    def plain(cls, ids: Sequence[str], classes: Sequence[str], names: ClassNames = AS_FOUND) -> Self:
        """Without a sample file: id, label, then one probability column a class, and one for each of its aliases."""
        contents = (None, *(name for name in classes for _ in names.alike(name)))
        columns = ("id", "label", *(alias for name in classes for alias in names.alike(name)))
        return cls(columns, contents, tuple(ids), tuple(ids), (), names.shares(contents), {})

    @classmethod
    def like(cls, sample: Path, ids: Sequence[str], classes: Sequence[str], names: ClassNames = AS_FOUND) -> Self:
        """The shape of `sample` (.csv, UTF-8), to be filled with predictions for `ids` over `classes`.

        Its columns may be any of a class's names: its own, an alias, or the label that `names` made it of, which is
        also how a label is written. Raises DataError naming the file and the ids or columns that do not fit.
        """
        columns, rows = _read_sample(sample)
        contents = _contents_of(sample, columns[1:], {name: names.known_as(name) for name in classes})
        labels = {name: names.found_as(name)[0] for name in classes}
        return cls(columns, contents, rows, *_match(sample, rows, ids), names.shares(contents), labels)


def write_submission(path: Path, sheet: Sheet, predictions: Predictions) -> None:
    """Write `predictions` in the shape of `sheet` as CSV (UTF-8, "\\n" line ends), atomically."""
    row_of = {sample_id: row for row, sample_id in enumerate(predictions.ids)}
    probabilities_NC = predictions.probabilities_NC[[row_of[sample_id] for sample_id in sheet.sample_ids]]
    place = {name: column for column, name in enumerate(predictions.classes)}
    written = [sheet.labels.get(name, name) for name in predictions.classes]
    labels_N = np.array(written, dtype=object)[probabilities_NC.argmax(1)]
    values: list[NDArray[Any]] = [np.array(sheet.ids, dtype=object)]
    values += [
        labels_N if name is None else probabilities_NC[:, place[name]] * share
        for name, share in zip(sheet.contents, sheet.shares, strict=True)
    ]
    table = pd.DataFrame(dict(enumerate(values)))
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, header=list(sheet.columns), float_format=DIGITS, lineterminator="\n")


def _read_sample(sample: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The header and the first column, as text: an id of 007 stays 007."""
    if not sample.is_file():
        raise DataError(f"{sample}: no such sample submission; check data.sample_submission")
    try:
        with sample.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{sample}: expected a CSV file in UTF-8 ({error})") from None
    if not lines or len(lines[0]) < 2:
        raise DataError(f"{sample}: expected a header with the id column first and at least one further column")
    columns, ids = tuple(lines[0]), tuple(line[0] for line in lines[1:])
    for what, names in (("columns", columns), ("ids", ids)):
        if len(set(names)) != len(names):
            twice = sorted(name for name, times in Counter(names).items() if times > 1)
            raise DataError(f"{sample}: {what} that stand there twice: {some(twice)}")
    return columns, ids


def _contents_of(sample: Path, columns: Sequence[str], classes: Mapping[str, Sequence[str]]) -> tuple[str | None, ...]:
    """What each column holds: the classes by any of their names; a single column that is not *the* class is the
    label's."""
    known = {nfc(name): each for each, names in classes.items() for name in names}
    asked = {nfc(column) for column in columns}
    if len(columns) == 1 and not (len(classes) == 1 and asked <= known.keys()):
        return (None,)
    unknown = [column for column in columns if nfc(column) not in known]
    missing = [each for each, names in classes.items() if asked.isdisjoint(map(nfc, names))]
    if missing or unknown:
        raise DataError(
            f"{sample}: its columns are not the model's {len(classes)} classes"
            + (f"; columns that are no class: {some(unknown)}" if unknown else "")
            + (f"; classes without a column: {some(missing)}" if missing else "")
            + ". Expected the id column, then one column a class, or a single column for the label"
        )
    return tuple(known[nfc(column)] for column in columns)


def _match(sample: Path, rows: Sequence[str], ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """For each row of the sample file the predicted id that answers it, and the predicted ids nobody asked for."""
    found = find_ids(rows, ids)
    missing = [row for row, sample_id in zip(rows, found, strict=True) if sample_id is None]
    if missing:
        raise DataError(
            f"{sample}: {len(missing)} of its {len(rows)} ids have no image to predict: {some(missing)}; "
            f"the images have ids like {some(list(ids), 3)}. Point data.test (or --data) at the images it asks for, "
            "or name the id column with data.id_column"
        )
    matched = tuple(sample_id for sample_id in found if sample_id is not None)
    taken = set(matched)
    return matched, tuple(sample_id for sample_id in ids if sample_id not in taken)
