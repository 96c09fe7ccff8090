"""Which samples there are: the rows of a manifest before anybody has opened a file.

A folder or a table is turned into the same columns. All names are brought to Unicode form NFC (a zip made on macOS
holds NFD, where the same Korean name is other code points), so that one class is one class and ids join with the
user's tables; only `path` keeps the spelling on disk, since that is what opens the file.
"""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.data.headers import stat_files
from engine.data.manifest import repeated_values
from engine.errors import DataError
from engine.recipe.sections import DataSection

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Pictures that cannot be decoded are listed too, so that they are reported and not silently missing.
_LISTED_SUFFIXES = frozenset(IMAGE_SUFFIXES) | {
    *(".jfif", ".jpe", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2")
}
TABLE_SUFFIXES = (".csv", ".parquet")
_PATH_NAMES = ("path", "img_path", "image", "file", "filename")
_LABEL_NAMES = ("label", "class", "target", "category")
_ID_NAMES = ("ID", "id")
_COPY_COLUMNS = ("made_from", "mixed_with")  # written by engine data augment
_FOLD_WORDS = {"train": "-1", "training": "-1", "valid": "0", "val": "0", "validation": "0"}
_SHOWN = 5  # offending rows named in an error

Columns = dict[str, Any]  # columns of the manifest by name, N values each


def list_folder(root: str, training: bool) -> Columns:
    """Every image below a folder, in order of id (its path from the folder, posix, NFC).

    The first folder on the way is the class, however deep the file lies; a file in `root` itself has none. Hidden
    files and __MACOSX are passed over; links are followed, loops are not. Two files whose names differ only in their
    Unicode form keep the spelling on disk as their ids. Raises DataError for a folder that cannot be listed or has no
    images, and for images to train on that lie in no class folder.
    """
    relative = sorted(_walk(root), key=lambda name: (unicodedata.normalize("NFC", name), name))
    if not relative:
        raise DataError(f"{root}: no images here or in any sub-folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    try:
        on_disk = pa.array(relative, pa.string())
    except UnicodeEncodeError as error:
        # Typical of zips made on Korean Windows.
        raise DataError(
            f"{root}: the file name {os.fsencode(error.object)!r} is not UTF-8. "
            "Rename such files, for example: convmv -f cp949 -t utf8 -r --notest FOLDER"
        ) from None
    outside = [name for name in relative if "/" not in name]
    if training and outside:
        raise DataError(
            f"{root}: {len(outside)} of {len(relative)} images lie in no class folder and so have no label, such as "
            f"{outside[0]!r}. Training needs one sub-folder per class: move them into one, or elsewhere"
        )
    ids = _nfc(on_disk)
    clashes = repeated_values(ids)
    if clashes:
        ids = pc.if_else(pc.is_in(ids, pa.array(clashes)), on_disk, ids)
    paths = [os.path.join(root, name) for name in relative]  # noqa: PTH118
    bytes_N, mtime_ns_N = stat_files(paths)
    return {
        "id": ids,
        "path": paths,
        "label": _nfc(pa.array([name.partition("/")[0] if "/" in name else "" for name in relative], pa.string())),
        "bytes": bytes_N,
        "mtime_ns": mtime_ns_N,
    }


def list_table(table_path: str, section: DataSection, training: bool) -> Columns:
    """The rows of a .csv or .parquet table, in its order.

    Paths are looked for as written, then in another Unicode form, with backslashes turned, and with an image suffix
    added (a column may hold bare ids). A training table must have the label, group and fold columns the recipe names;
    a table of images to predict may lack them, or have them empty. Raises DataError for missing columns, files,
    labels, and for ids used twice.
    """
    names = _column_names(table_path)

    def find(key: str, wanted: str, usual: Sequence[str], needed: bool) -> str:
        if wanted in names or not wanted:
            return wanted or next((name for name in usual if name in names), "")
        if needed:
            raise _no_column(table_path, wanted, key, names)
        return ""

    id_column = find("id_column", section.id_column, _ID_NAMES, True)
    path_column = find("path_column", section.path_column, (*_PATH_NAMES, id_column), True)
    if not path_column:
        raise _no_column(table_path, " or ".join((*_PATH_NAMES, *_ID_NAMES)), "path_column", names)
    label_column = find("label_column", section.label_column, _LABEL_NAMES, training)
    if training and not label_column:
        raise _no_column(table_path, " or ".join(_LABEL_NAMES), "label_column", names)
    group_column = find("group_column", section.group_column, (), training)
    fold_column = find("fold_column", section.fold_column, (), training)

    copy_columns = [name for name in _COPY_COLUMNS if set(_COPY_COLUMNS) <= set(names)]
    used = {path_column, id_column, label_column, group_column, fold_column, *copy_columns} - {""}
    table = _read(table_path, names, sorted(used))
    if not table.num_rows:
        raise DataError(f"{table_path}: no rows below the header")
    where = _Rows(table_path)

    written = table[path_column].to_pylist()
    images = section.test_images if section.test_images and not training else section.images
    base = os.path.abspath(images) if images else os.path.dirname(os.path.abspath(table_path))  # noqa: PTH100, PTH120
    paths, bytes_N, mtime_ns_N = _find_files(written, base, path_column, where)

    ids = _nfc(pc.utf8_trim_whitespace(table[id_column]) if id_column else table[path_column])
    repeated = repeated_values(ids)
    if repeated:
        shown = [f"{value!r} in {where.name(_rows_equal(ids, value))}" for value in repeated[:_SHOWN]]
        raise DataError(
            f"{table_path}: {len(repeated)} ids in column {id_column or path_column!r} are used more than once: "
            f"{'; '.join(shown)}. Remove the repeated rows, or set data.id_column to a column without repeats"
        )
    columns: Columns = {"id": ids, "path": paths, "bytes": bytes_N, "mtime_ns": mtime_ns_N}
    if label_column:
        labels = columns["label"] = _nfc(pc.utf8_trim_whitespace(table[label_column]))
        empty_rows = _rows_equal(labels, "")
        if training and empty_rows:
            raise DataError(
                f"{table_path}: column {label_column!r} is empty in {len(empty_rows)} of {table.num_rows} rows: "
                f"{where.name(empty_rows)}. Label those rows or remove them"
            )
    if group_column:
        columns["group"] = pc.utf8_trim_whitespace(table[group_column])
    if fold_column:
        columns["fold"] = _folds(table[fold_column], fold_column, where)
    return columns | {name: _nfc(table[name]) for name in copy_columns}


def list_labels(table_path: str, section: DataSection) -> dict[str, str]:
    """Labels by id, of a .csv or .parquet table that names no files: the truth about images that are listed elsewhere.

    Raises DataError for missing columns and for ids used twice.
    """
    names = _column_names(table_path)
    used = []
    for key, wanted, usual in (
        ("id_column", section.id_column, (*_ID_NAMES, *_PATH_NAMES)),
        ("label_column", section.label_column, _LABEL_NAMES),
    ):
        column = next((name for name in (wanted, *usual) if name in names), None)
        if column is None:
            raise _no_column(table_path, wanted or " or ".join(usual), key, names)
        used.append(column)
    table = _read(table_path, names, used)
    ids, labels = (_nfc(pc.utf8_trim_whitespace(table[column])) for column in used)
    if repeated := repeated_values(ids):
        raise DataError(f"{table_path}: ids used more than once: {', '.join(map(repr, repeated[:_SHOWN]))}")
    return dict(zip(ids.to_pylist(), labels.to_pylist(), strict=True))


def _walk(root: str) -> Iterator[str]:
    """Posix paths from `root` of the files that are, or might be, images."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            found = os.stat(os.path.join(root, folder))  # noqa: PTH116, PTH118
            identity = (found.st_dev, found.st_ino)
            if identity in above:  # a link back up
                continue
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
                for entry in entries:
                    name = entry.name
                    if name.startswith(".") or name == "__MACOSX":
                        continue
                    below = f"{folder}/{name}" if folder else name
                    if _is_folder(entry):
                        pending.append((below, above | {identity}))
                    elif os.path.splitext(name)[1].lower() in _LISTED_SUFFIXES:  # noqa: PTH122
                        yield below
        except OSError as error:
            raise DataError(f"{os.path.join(root, folder)}: cannot list this folder: {error.strerror}") from error  # noqa: PTH118


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that will turn out unreadable
        return False


def _column_names(table_path: str) -> list[str]:
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


def _read(table_path: str, names: list[str], used: list[str]) -> pa.Table:
    """The used columns as strings: a label 007 stays 007, a class called NA stays a class."""
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


def _find_files(
    written: list[str], base: str, column: str, where: _Rows
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Absolute paths with bytes_N and mtime_ns_N. Raises DataError naming the rows whose files are not there."""
    paths = [os.path.join(base, text.removeprefix("./")) for text in written]  # noqa: PTH118
    bytes_N, mtime_ns_N = stat_files(paths)
    missing = []
    for row in np.flatnonzero(bytes_N < 0).tolist():
        for spelling in _spellings(paths[row]) if written[row] else ():
            size, mtime_ns = stat_files([spelling])
            if size[0] >= 0:
                paths[row], bytes_N[row], mtime_ns_N[row] = spelling, size[0], mtime_ns[0]
                break
        else:
            missing.append(row)
    if missing:
        shown = "; ".join(f"{where.name([row])}: {written[row]!r}" for row in missing[:_SHOWN])
        raise DataError(
            f"{where.table_path}: {len(missing)} of {len(paths)} files in column {column!r} do not exist: {shown}. "
            f"Looked for {paths[missing[0]]}. Set data.images (for test images also data.test_images) to the folder "
            "the paths start from, data.path_column to another column, or mend those rows"
        )
    return paths, bytes_N, mtime_ns_N


def _spellings(path: str) -> Iterator[str]:
    forms = dict.fromkeys(
        unicodedata.normalize(form, text) for text in (path, path.replace("\\", "/")) for form in ("NFC", "NFD")
    )
    yield from forms
    for form in forms:
        for suffix in IMAGE_SUFFIXES:
            yield form + suffix
            yield form + suffix.upper()


def _folds(column: pa.ChunkedArray, name: str, where: _Rows) -> pa.Array:
    """Whole numbers from 0; empty or -1 for a sample that is never validated on; or words that say train or valid.
    2.0 is 2, as pandas writes it."""
    text = pc.utf8_trim_whitespace(column.combine_chunks())
    text = pc.if_else(pc.equal(text, ""), "-1", text)
    for word, number in _FOLD_WORDS.items():
        text = pc.if_else(pc.equal(pc.utf8_lower(text), word), number, text)
    wrong = pc.invert(pc.match_substring_regex(text, r"^(-1|\d{1,4})(\.0*)?$"))
    wrong_rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False)).tolist()
    if wrong_rows:
        raise DataError(
            f"{where.table_path}: column {name!r} (data.fold_column) must hold fold numbers from 0, or -1 for samples "
            "that are always trained on, or the words train and valid; "
            f"not {text[wrong_rows[0]].as_py()!r} in {where.name(wrong_rows[:1])}"
        )
    folds = text.cast(pa.float64()).cast(pa.int32())
    if pc.max(folds).as_py() < 0:
        raise DataError(f"{where.table_path}: column {name!r} (data.fold_column) puts no sample into any fold")
    return folds


class _Rows:
    """Names rows as the user sees them: lines of a CSV file, rows from 0 of a Parquet table."""

    def __init__(self, table_path: str) -> None:
        self.table_path = table_path
        is_csv = Path(table_path).suffix.lower() == ".csv"
        self.word, self.first = ("line", 2) if is_csv else ("row", 0)

    def name(self, rows: Sequence[int]) -> str:
        numbers = ", ".join(str(row + self.first) for row in rows[:_SHOWN])
        return f"{self.word}{'s' if len(rows) > 1 else ''} {numbers}{', ...' if len(rows) > _SHOWN else ''}"


def _rows_equal(column: pa.ChunkedArray | pa.Array, value: str) -> list[int]:
    rows: list[int] = np.flatnonzero(np.asarray(pc.equal(column, value))).tolist()
    return rows


def _nfc(names: pa.ChunkedArray | pa.Array) -> pa.Array:
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return pc.utf8_normalize(names, form="NFC")


def _no_column(table_path: str, wanted: str, key: str, names: list[str]) -> DataError:
    there = ", ".join(map(repr, names)) or "none"
    return DataError(f"{table_path}: no column {wanted}; its columns are {there}. Set data.{key} to one of them")


def _not_utf8(table_path: str) -> DataError:
    name = Path(table_path).name
    return DataError(
        f"{table_path}: not UTF-8 text. Save it as UTF-8, for example: iconv -f cp949 -t utf-8 {name} > utf8_{name}"
    )
