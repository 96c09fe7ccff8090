"""A table of samples, .csv or .parquet, and a table of labels alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.manifest import repeated_values
from engine.data.sources.local import IMAGE_SUFFIXES, Columns, nfc_column, stat_files
from engine.data.tables import SHOWN, RowNames, column_names, no_column, read_columns, rows_equal
from engine.errors import DataError
from engine.recipe.sections import DataSection
from engine.text import nfc, nfd, some

_PATH_NAMES = ("path", "img_path", "image", "file", "filename")
_LABEL_NAMES = ("label", "class", "target", "category")
_ID_NAMES = ("ID", "id")
_COPY_COLUMNS = ("made_from", "mixed_with")  # written by engine data augment
_FOLD_WORDS = {"train": "-1", "training": "-1", "valid": "0", "val": "0", "validation": "0"}


@dataclass(frozen=True)
class _Roles:
    """Which column of a table holds what; "" for none. `copies`: the columns of augmented copies, () without."""

    path: str
    id: str
    label: str
    group: str
    fold: str
    copies: tuple[str, ...]

    @property
    def used(self) -> list[str]:
        return sorted({self.path, self.id, self.label, self.group, self.fold, *self.copies} - {""})


def list_table(table_path: str, section: DataSection, training: bool) -> Columns:
    """The rows of a .csv or .parquet table, in its order.

    Paths are looked for as written, then in another Unicode form, with backslashes turned, and with an image suffix
    added (a column may hold bare ids). A training table must have the label, group and fold columns the recipe names;
    a table of images to predict may lack them, or have them empty. Raises DataError for missing columns, files,
    labels, and for ids used twice.
    """
    names = column_names(table_path)
    roles = _roles(table_path, names, section, training)
    table = read_columns(table_path, names, roles.used)
    if not table.num_rows:
        raise DataError(f"{table_path}: no rows below the header")
    where = RowNames(table_path)
    images = section.test_images if section.test_images and not training else section.images
    base = os.path.abspath(images) if images else os.path.dirname(os.path.abspath(table_path))  # noqa: PTH100, PTH120
    paths, bytes_N, mtime_ns_N = _find_files(table[roles.path].to_pylist(), base, roles.path, where)
    columns: Columns = {"id": _ids(table, roles, where), "path": paths, "bytes": bytes_N, "mtime_ns": mtime_ns_N}
    if roles.label:
        columns["label"] = _labels(table, roles.label, where, training)
    if roles.group:
        columns["group"] = pc.utf8_trim_whitespace(table[roles.group])
    if roles.fold:
        columns["fold"] = _folds(table[roles.fold], roles.fold, where)
    return columns | {name: nfc_column(table[name]) for name in roles.copies}


def list_labels(table_path: str, section: DataSection) -> dict[str, str]:
    """Labels by id, of a .csv or .parquet table that names no files: the truth about images that are listed elsewhere.

    Raises DataError for missing columns and for ids used twice.
    """
    names = column_names(table_path)
    used = []
    for key, wanted, usual in (
        ("id_column", section.id_column, (*_ID_NAMES, *_PATH_NAMES)),
        ("label_column", section.label_column, _LABEL_NAMES),
    ):
        column = next((name for name in (wanted, *usual) if name in names), None)
        if column is None:
            raise no_column(table_path, wanted or " or ".join(usual), key, names)
        used.append(column)
    table = read_columns(table_path, names, used)
    ids, labels = (nfc_column(pc.utf8_trim_whitespace(table[column])) for column in used)
    if repeated := repeated_values(ids):
        raise DataError(f"{table_path}: ids used more than once: {some(repeated)}")
    return dict(zip(ids.to_pylist(), labels.to_pylist(), strict=True))


def _roles(table_path: str, names: list[str], section: DataSection, training: bool) -> _Roles:
    """The columns that the recipe names, else those of usual names; DataError for one that must be there and is not."""

    def find(key: str, wanted: str, usual: Sequence[str], needed: bool) -> str:
        if wanted in names or not wanted:
            return wanted or next((name for name in usual if name in names), "")
        if needed:
            raise no_column(table_path, wanted, key, names)
        return ""

    id_column = find("id_column", section.id_column, _ID_NAMES, True)
    path_column = find("path_column", section.path_column, (*_PATH_NAMES, id_column), True)
    if not path_column:
        raise no_column(table_path, " or ".join((*_PATH_NAMES, *_ID_NAMES)), "path_column", names)
    label_column = find("label_column", section.label_column, _LABEL_NAMES, training)
    if training and not label_column:
        raise no_column(table_path, " or ".join(_LABEL_NAMES), "label_column", names)
    return _Roles(
        path=path_column,
        id=id_column,
        label=label_column,
        group=find("group_column", section.group_column, (), training),
        fold=find("fold_column", section.fold_column, (), training),
        copies=_COPY_COLUMNS if set(_COPY_COLUMNS) <= set(names) else (),
    )


def _ids(table: pa.Table, roles: _Roles, where: RowNames) -> pa.Array:
    ids = nfc_column(pc.utf8_trim_whitespace(table[roles.id]) if roles.id else table[roles.path])
    repeated = repeated_values(ids)
    if repeated:
        shown = [f"{value!r} in {where.name(rows_equal(ids, value))}" for value in repeated[:SHOWN]]
        raise DataError(
            f"{where.table_path}: {len(repeated)} ids in column {roles.id or roles.path!r} are used more than once: "
            f"{'; '.join(shown)}. Remove the repeated rows, or set data.id_column to a column without repeats"
        )
    return ids


def _labels(table: pa.Table, column: str, where: RowNames, training: bool) -> pa.Array:
    labels = nfc_column(pc.utf8_trim_whitespace(table[column]))
    empty_rows = rows_equal(labels, "")
    if training and empty_rows:
        raise DataError(
            f"{where.table_path}: column {column!r} is empty in {len(empty_rows)} of {table.num_rows} rows: "
            f"{where.name(empty_rows)}. Label those rows or remove them"
        )
    return labels


def _find_files(
    written: list[str], base: str, column: str, where: RowNames
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
        shown = "; ".join(f"{where.name([row])}: {written[row]!r}" for row in missing[:SHOWN])
        raise DataError(
            f"{where.table_path}: {len(missing)} of {len(paths)} files in column {column!r} do not exist: {shown}. "
            f"Looked for {paths[missing[0]]}. Set data.images (for test images also data.test_images) to the folder "
            "the paths start from, data.path_column to another column, or mend those rows"
        )
    return paths, bytes_N, mtime_ns_N


def _spellings(path: str) -> Iterator[str]:
    forms = dict.fromkeys(form for text in (path, path.replace("\\", "/")) for form in (nfc(text), nfd(text)))
    yield from forms
    for form in forms:
        for suffix in IMAGE_SUFFIXES:
            yield form + suffix
            yield form + suffix.upper()


def _folds(column: pa.ChunkedArray, name: str, where: RowNames) -> pa.Array:
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
