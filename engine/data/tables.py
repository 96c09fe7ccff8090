"""Tables that users write, .csv, .tsv or .parquet, read as text: a label 007 stays 007, a class NA stays a class.

A CSV file is read as it is clearly meant: whatever stands between its columns, with empty lines and empty columns, with
a header that comes again where files were joined. What was done so is told. Nothing here knows what the columns mean.
Errors name the table, the column and the rows as the user sees them: by the lines of the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.data.encodings import open_text, read_text
from engine.data.sources.litter import tidy
from engine.data.sources.local import PICTURE_SUFFIXES
from engine.errors import DataError
from engine.text import count, nfc, similar

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
SHOWN = 5  # offending rows named in an error
_PEEKED = 20  # lines that tell what stands between the columns
_EXCEL_TEXT = re.compile(r'^\s*="([^"]*)"\s*$')  # how a program writes 007 lest Excel make it 7
LARGE = 1 << 26
"""Bytes of a CSV file beyond which it is read a row at a time, where there is a folder for that."""
_COPIED = 8_192  # rows at a time
_LINE = "line"
_Cells = tuple[tuple[str, ...], int]  # of a row, and the line that it stands in
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class RowNames:
    """Names rows as the user sees them: lines of a CSV file, rows from 0 of a Parquet table, files of a folder."""

    table_path: str
    numbers: Sequence[object]  # of each row
    word: str = "line"

    def name(self, rows: Sequence[int]) -> str:
        numbers = ", ".join(str(self.numbers[row]) for row in rows[:SHOWN])
        return f"{self.word}{'s' if len(rows) > 1 else ''} {numbers}{', ...' if len(rows) > SHOWN else ''}"

    def take(self, rows: Sequence[int]) -> RowNames:
        """The names of these rows alone."""
        return replace(self, numbers=[self.numbers[row] for row in rows])


@dataclass(frozen=True)
class UserTable:
    """A table as it was found. `names`: its columns, "" for those without a name; `written`: the same, letter for
    letter; `notices`: what was made of it. `_read` gives a column by its place, `_walk`, where there is one, some
    columns piece by piece."""

    path: str
    names: list[str]
    written: tuple[str, ...]
    where: RowNames
    notices: tuple[str, ...]
    _read: Callable[[int], pa.Array]
    _walk: Callable[[Sequence[int]], Iterator[list[pa.Array]]] | None = None

    def __len__(self) -> int:
        return len(self.where.numbers)

    def columns(self, used: Sequence[str]) -> pa.Table:
        """The columns `used`, as strings; "" for what is missing. Raises DataError for what is no text or number."""
        return pa.Table.from_arrays([self._read(self.names.index(name)) for name in used], names=list(used))

    def pieces(self, used: Sequence[str], rows: int) -> Iterator[pa.Table]:
        """The same, a piece of at most so many rows at a time. Raises as `columns` does."""
        if self._walk is None:
            whole = self.columns(used)
            yield from (whole.slice(start, rows) for start in range(0, len(self), rows))
            return
        for arrays in self._walk([self.names.index(name) for name in used]):
            piece = pa.Table.from_arrays(arrays, names=list(used))
            yield from (piece.slice(start, rows) for start in range(0, piece.num_rows, rows))

    def rows(self) -> list[tuple[str, ...]]:
        """All columns, row by row. Raises as `columns` does."""
        return list(zip(*(self._read(column).to_pylist() for column in range(len(self.names))), strict=True))


def open_table(table_path: str, scratch: Path | None = None) -> UserTable:
    """Raises DataError when the table cannot be read, or two of its columns are called the same.

    With a folder `scratch`, for files of its own, a table of any length takes little memory: a CSV file of more than
    `LARGE` bytes is copied there as Parquet. What stands between its columns, and how it is written otherwise, is then
    told by its beginning.
    """
    if Path(table_path).suffix.lower() == ".parquet":
        table = _open_parquet(table_path)
    elif scratch is not None and Path(table_path).is_file() and Path(table_path).stat().st_size > LARGE:
        table = _open_large_csv(table_path, scratch)
    else:
        table = _open_csv(table_path)
    for name in table.names:
        if name and table.names.count(name) > 1:
            raise DataError(f"{table_path}: {table.names.count(name)} columns are called {name!r}. Rename all but one")
    return table


def _open_csv(path: str) -> UserTable:
    lines = read_lines(path)
    if not lines.rows:
        raise _nothing_in(path)
    written = lines.rows[0]
    header = [tidy(cell) for cell in written]
    rows, numbers = lines.rows[1:], lines.numbers[1:]
    if _numbered(rows, lines.width):
        header, written = ["", *header], ("", *written)
    wide = [row for row, cells in enumerate(rows) if len(cells) > len(header)]
    if wide:
        all_wide = len(wide) == len(rows) > 1
        remedy = f"If line {lines.numbers[0]} is no header but a title, remove it. " if all_wide else ""
        raise _too_wide(path, numbers[wide[0]], rows[wide[0]], len(header), lines.delimiter, len(wide) - 1, remedy)

    def read(column: int) -> pa.Array:
        return pa.array([cells[column] if column < len(cells) else "" for cells in rows], pa.string())

    return UserTable(path, header, written, RowNames(path, numbers), lines.notices, read)


def _open_large_csv(path: str, scratch: Path) -> UserTable:
    """A CSV file that is read a row at a time, into a Parquet file of its cells and the lines that they stand in."""
    with open_text(path) as (head, text):
        parsed = _Parser(path, head)
        rows = parsed.rows(text)
        if (first := next(rows, None)) is None:
            raise _nothing_in(path)
        written, beginning = first[0], list(islice(rows, _PEEKED))
        if _numbered([cells for cells, _ in beginning], parsed.width):
            written = ("", *written)
        scratch.mkdir(parents=True, exist_ok=True)
        copy = scratch / f"{hashlib.blake2b(path.encode(), digest_size=8).hexdigest()}.parquet"
        names = [*map(str, range(len(written))), _LINE]
        schema = pa.schema([(name, pa.string()) for name in names[:-1]] + [(_LINE, pa.int64())])
        with pq.ParquetWriter(copy, schema, compression="zstd") as writer:
            for piece in _pieces(chain(beginning, rows), _COPIED):
                for cells, number in piece:
                    if len(cells) > len(written):
                        raise _too_wide(path, number, cells, len(written), parsed.delimiter)
                padded = [(*cells, *[""] * (len(written) - len(cells)), number) for cells, number in piece]
                columns = [
                    pa.array(cells, field.type) for cells, field in zip(zip(*padded, strict=True), schema, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    file = pq.ParquetFile(copy)
    read, walk = _readers(path, file, names)
    where = RowNames(path, _Lines(file))
    return UserTable(path, [tidy(cell) for cell in written], written, where, parsed.notices, read, walk)


class _Lines(Sequence[int]):
    """Which line each row stands in, looked up where it is asked for."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        group, place = divmod(row, _COPIED)
        return self._file.read_row_group(group, columns=[_LINE]).column(0)[place].as_py()


def _pieces(rows: Iterator[_Cells], size: int) -> Iterator[list[_Cells]]:
    while piece := list(islice(rows, size)):
        yield piece


def _nothing_in(path: str) -> DataError:
    return DataError(f"{path}: there is nothing in this table. Expected a header, and a line for each sample")


def _too_wide(
    path: str, number: int, cells: Sequence[str], width: int, delimiter: str, more: int = 0, remedy: str = ""
) -> DataError:
    return DataError(
        f"{path}: not a CSV table: line {number} has {len(cells)} cells and the header {width}"
        f"{f', and so {more} more lines' if more else ''}. {remedy}Put text that holds {delimiter!r} between double "
        "quotes"
    )


def _numbered(rows: Sequence[tuple[str, ...]], width: int) -> bool:
    """Whether every row begins with its number and the header has no name for that, as R's write.table leaves it."""
    return bool(rows) and all(
        len(cells) == width + 1 and cells[0] == str(number) for number, cells in enumerate(rows, start=1)
    )


def _open_parquet(path: str) -> UserTable:
    if not Path(path).is_file():
        raise DataError(f"{path}: expected a Parquet table, and this is no regular file")
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet table: {error}") from None
    names = list(file.schema_arrow.names)
    read, walk = _readers(path, file, names)
    return UserTable(path, names, tuple(names), RowNames(path, range(file.metadata.num_rows), "row"), (), read, walk)


def _readers(
    path: str, file: pq.ParquetFile, names: Sequence[str]
) -> tuple[Callable[[int], pa.Array], Callable[[Sequence[int]], Iterator[list[pa.Array]]]]:
    """A Parquet file's columns by their place: one as a whole, and several piece by piece."""

    def as_text(column: pa.ChunkedArray | pa.Array, place: int) -> pa.Array:
        try:
            return _as_text(column)
        except pa.ArrowException:
            type_ = file.schema_arrow.field(place).type
            raise DataError(f"{path}: column {names[place]!r} holds {type_}, expected text or numbers") from None

    def read(place: int) -> pa.Array:
        try:
            return as_text(file.read(columns=[names[place]]).column(0), place)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: column {names[place]!r} cannot be read: {error}") from None

    def walk(places: Sequence[int]) -> Iterator[list[pa.Array]]:
        wanted = [names[place] for place in places]
        try:
            for group in range(file.num_row_groups):  # over all of them at once, pyarrow keeps what it has read
                for batch in file.iter_batches(_COPIED, row_groups=[group], columns=wanted, use_threads=False):
                    piece = pa.Table.from_batches([batch])
                    yield [as_text(piece[name], place) for name, place in zip(wanted, places, strict=True)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: columns {', '.join(wanted)} cannot be read: {error}") from None

    return read, walk


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):  # pandas' way to say that there is none
        column = pc.if_else(pc.is_nan(column), None, column)
    return pc.fill_null(column.cast(pa.string()), "").combine_chunks()


@dataclass(frozen=True)
class Lines:
    """The rows of a CSV file that hold anything, the header first, and the lines of the file that they begin in."""

    rows: list[tuple[str, ...]]  # tuples of strings, which the garbage collector need not follow: half the time
    numbers: list[int]
    delimiter: str
    width: int  # cells in the header's line, with the empty ones at its end
    notices: tuple[str, ...] = ()


def read_lines(path: str, key: str = "") -> Lines:
    """A CSV file's rows. Raises DataError, which names the recipe key `data.key`, when it is none.

    Rows have as many cells as they have in the file, but for empty ones beyond the header's. Left out are empty rows
    and repetitions of the header.
    """
    text = read_text(path, key)
    parsed = _Parser(path, text, key)
    rows: list[tuple[str, ...]] = []
    numbers: list[int] = []
    for cells, number in parsed.rows(io.StringIO(text, newline="")):
        rows.append(cells)
        numbers.append(number)
    return Lines(rows, numbers, parsed.delimiter, parsed.width, parsed.notices)


class _Parser:
    """Rows of a CSV file as it is meant, which its text tells, or the beginning of it (`head`)."""

    def __init__(self, path: str, head: str, key: str = "") -> None:
        self._path, self._key = path, key
        csv.field_size_limit(max(csv.field_size_limit(), len(head)))  # a cell may hold a whole picture or mask as text
        self._formulas = '="' in head
        said = re.match(r"\s*\"?sep=(.)\"?[\r\n]+", head)  # Excel's own way to say it
        self._said = bool(said)
        self.delimiter = said[1] if said else _delimiter(head)
        self._skips = f'{self.delimiter} "' in head  # else a quote behind a space is one more letter
        self._again: list[int] = []
        self._hollow = self.width = 0

    def rows(self, text: Iterable[str]) -> Iterator[tuple[tuple[str, ...], int]]:
        """The rows that hold anything, the header first, each with the line that it begins in. `notices` and `width`
        (cells in the header's line, with the empty ones at its end) are known afterwards."""
        reader = csv.reader(text, delimiter=self.delimiter, skipinitialspace=self._skips, strict=True)
        header: tuple[str, ...] = ()
        first = 1
        try:
            for cells in reader:
                start, first = first, reader.line_num + 1
                last = len(header) - 1
                if not any(map(str.strip, cells)) or (
                    self._said and not header and cells[0].lower().startswith("sep=")
                ):
                    self._hollow += len(cells) > 1
                elif header and last < len(cells) and header[last].strip() in cells[last] and _repeats(cells, header):
                    self._again.append(start)
                else:
                    if self._formulas:
                        cells = [_EXCEL_TEXT.sub(r"\1", cell) for cell in cells]
                    self.width = self.width or len(cells)
                    row = tuple(_trimmed(cells, len(header) if header else 1))
                    header = header or row
                    yield row, start
        except csv.Error as error:
            why = "a double quote is opened and never closed" if "end of data" in str(error) else str(error)
            named = f" (data.{self._key})" if self._key else ""
            raise DataError(f"{self._path}: not a CSV table{named}: line {first}: {why}") from None
        except UnicodeDecodeError:
            raise DataError(f"{self._path}: no UTF-8 text from line {first} on. Save it again as UTF-8") from None

    @property
    def notices(self) -> tuple[str, ...]:
        notices = []
        if self.delimiter != ",":
            between = _DELIMITERS.get(self.delimiter, repr(self.delimiter))
            notices.append(f"{self._path}: read with {between} between its columns")
        if self._again:
            where = RowNames(self._path, self._again).name(range(len(self._again)))
            notices.append(f"{self._path}: the header stands again in {where}, which are no samples")
        if self._hollow:
            notices.append(f"{self._path}: {count(self._hollow, 'row')} with nothing in any column passed over")
        return tuple(notices)


def _delimiter(text: str) -> str:
    """What parts most of the first lines into as many columns as the header has, and that into most; else commas."""

    def fits(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header, *rows = islice((cells for cells in reader if any(cell.strip(' ,;|\t"') for cell in cells)), _PEEKED)
        except (csv.Error, ValueError):
            return 0, 0
        alike = sum(len(_trimmed(cells, len(header))) == len(header) for cells in rows)
        return alike if len(header) > 1 else 0, len(header)

    return max(_DELIMITERS, key=fits)


def _repeats(cells: list[str], header: tuple[str, ...]) -> bool:
    return [*map(tidy, _trimmed(cells, 1))] == [*map(tidy, header)]


def _trimmed(cells: list[str], width: int) -> list[str]:
    """Without the empty cells at the end that are beyond `width`."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def rows_equal(column: pa.ChunkedArray | pa.Array, value: str) -> list[int]:
    """The rows that hold this value."""
    rows: list[int] = np.flatnonzero(np.asarray(pc.equal(column, value))).tolist()
    return rows


def no_column(table_path: str, wanted: str, key: str, names: list[str]) -> DataError:
    """The error that a table lacks the column of a recipe key."""
    named = [name for name in names if name]
    there = ", ".join(map(repr, named)) or "none"
    near = "".join(f" (nearest: {name!r})" for name in similar(wanted, named, most=1))
    if any(name.lower().endswith(tuple(PICTURE_SUFFIXES)) for name in named):
        return DataError(
            f"{table_path}: there is no header: the first line is {there}. Put a line with the names of the columns "
            "above it, such as path,label"
        )
    return DataError(f"{table_path}: no column {wanted}; its columns are {there}. Set data.{key} to one of them{near}")


def read_pairs(path: str, key: str) -> tuple[list[tuple[str, str]], tuple[str, str]]:
    """The first two columns of a .csv table below its header, and what they are called. Raises DataError, which names
    the recipe key `data.key`."""
    lines = read_lines(path, key)
    short = [number for cells, number in zip(lines.rows, lines.numbers, strict=True) if len(cells) < 2]
    if len(lines.rows) < 2 or short:
        where = f", which line {short[0]} has not" if short else ""
        raise DataError(f"{path}: expected a header and at least two columns in every line (data.{key}){where}")
    if lines.rows[0][0].lower().endswith(tuple(PICTURE_SUFFIXES)):
        raise DataError(f"{path}: there is no header (data.{key}). Put a line such as path,label above the others")
    if _begins_with_row_numbers(lines):
        raise DataError(
            f"{path}: the first column has no name and holds 0, 1, 2, ..., as pandas and R number rows (data.{key}). "
            "Remove it, or, where these are the values that are meant, give it a name"
        )
    rows = [(nfc(cells[0].strip()), tidy(cells[1])) for cells in lines.rows]
    return rows[1:], rows[0]


def _begins_with_row_numbers(lines: Lines) -> bool:
    """Whether a column of the rows' numbers, without a name, stands before two others or more."""
    header, rows = lines.rows[0], lines.rows[1:]
    numbers = [cells[0] for cells in rows]
    unnamed = len(header) > 2 and tidy(header[0]) in ("", "Unnamed: 0")
    counted = any(numbers == [str(row) for row in range(first, first + len(rows))] for first in (0, 1))
    return _numbered(rows, lines.width) or (unnamed and counted)


def read_list(path: str, key: str) -> list[str]:
    """The lines of a text file that are neither empty nor begin with #. Raises DataError, which names `data.key`."""
    lines = io.StringIO(read_text(path, key)).read().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
