"""Tables that users write, .csv or .parquet, read as text: a label 007 stays 007, a class called NA stays a class.

Nothing here knows what the columns mean. Errors name the table, the column and the rows as the user sees them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from engine.errors import DataError
from engine.text import nfc

TABLE_SUFFIXES = (".csv", ".parquet")
SHOWN = 5  # offending rows named in an error


def column_names(table_path: str) -> list[str]:
    """The columns of a table. Raises DataError when it cannot be read or two are called the same."""
    if Path(table_path).suffix.lower() == ".parquet":
        try:
            names = list(pq.read_schema(table_path).names)
        except pa.ArrowInvalid as error:
            raise DataError(f"{table_path}: not a Parquet table: {error}") from None
    else:
        try:
            # utf-8-sig: Excel writes a byte order mark.
            with open(table_path, encoding="utf-8-sig", newline="") as file:  # noqa: PTH123
                names = next(csv.reader(file), [])
        except UnicodeDecodeError:
            raise _not_utf8(table_path) from None
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{table_path}: {names.count(name)} columns are called {name!r}. Rename all but one")
    return names


def read_columns(table_path: str, names: list[str], used: list[str]) -> pa.Table:
    """The columns `used` of those there are (`names`), as strings; "" for what is missing. Raises DataError."""
    if Path(table_path).suffix.lower() == ".parquet":
        table = pq.read_table(table_path, columns=used)
    else:
        convert = pyarrow.csv.ConvertOptions(include_columns=used, column_types=dict.fromkeys(names, pa.string()))
        try:
            table = pyarrow.csv.read_csv(table_path, convert_options=convert)
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                raise _not_utf8(table_path) from None
            raise DataError(f"{table_path}: not a CSV table: {error}") from None
    columns = []
    for name in used:
        try:
            columns.append(pc.fill_null(table[name].cast(pa.string()), "").combine_chunks())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"{table_path}: column {name!r} holds {table[name].type}, expected text or numbers"
            ) from None
    return pa.Table.from_arrays(columns, names=used)


class RowNames:
    """Names rows as the user sees them: lines of a CSV file, rows from 0 of a Parquet table."""

    def __init__(self, table_path: str) -> None:
        self.table_path = table_path
        is_csv = Path(table_path).suffix.lower() == ".csv"
        self.word, self.first = ("line", 2) if is_csv else ("row", 0)

    def name(self, rows: Sequence[int]) -> str:
        numbers = ", ".join(str(row + self.first) for row in rows[:SHOWN])
        return f"{self.word}{'s' if len(rows) > 1 else ''} {numbers}{', ...' if len(rows) > SHOWN else ''}"


def rows_equal(column: pa.ChunkedArray | pa.Array, value: str) -> list[int]:
    """The rows that hold this value."""
    rows: list[int] = np.flatnonzero(np.asarray(pc.equal(column, value))).tolist()
    return rows


def no_column(table_path: str, wanted: str, key: str, names: list[str]) -> DataError:
    """The error that a table lacks the column of a recipe key."""
    there = ", ".join(map(repr, names)) or "none"
    return DataError(f"{table_path}: no column {wanted}; its columns are {there}. Set data.{key} to one of them")


def read_pairs(path: str, key: str) -> tuple[list[tuple[str, str]], tuple[str, str]]:
    """The first two columns of a .csv table below its header, and what they are called. Raises DataError, which names
    the recipe key `data.key`."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if any(line)]
    except OSError as error:
        raise DataError(f"{path}: cannot read this table (data.{key}): {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV table in UTF-8 (data.{key}): {error}") from None
    if len(lines) < 2 or any(len(line) < 2 for line in lines):
        raise DataError(f"{path}: expected a header and at least two columns in every line (data.{key})")
    rows = [(nfc(line[0].strip()), nfc(line[1].strip())) for line in lines]
    return rows[1:], rows[0]


def read_list(path: str, key: str) -> list[str]:
    """The lines of a text file that are neither empty nor begin with #. Raises DataError, which names `data.key`."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot read this list (data.{key}): {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected UTF-8 text (data.{key})") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _not_utf8(table_path: str) -> DataError:
    name = Path(table_path).name
    return DataError(
        f"{table_path}: not UTF-8 text. Save it as UTF-8, for example: iconv -f cp949 -t utf-8 {name} > utf8_{name}"
    )
