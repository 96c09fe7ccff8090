"""A table of samples, .csv, .tsv or .parquet, and a table of labels alone."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.leave_out import check_labels, labels_to_be, without_dropped, without_excluded, without_nothing
from engine.data.manifest import repeated_values
from engine.data.sources.columns import ID_NAMES, PATH_NAMES, Roles, column_roles, truth_columns
from engine.data.sources.litter import is_litter_label, is_litter_path, means_nothing, spoiled, tidy, whole_numbers
from engine.data.sources.local import IMAGE_SUFFIXES, Listing, Purpose, nfc_column, stat_file, stat_files
from engine.data.tables import SHOWN, RowNames, UserTable, open_table, rows_equal
from engine.errors import DataError
from engine.recipe.sections import DataSection
from engine.text import count, nfc, nfd, some

_FOLD_WORDS = {"train": "-1", "training": "-1", "valid": "0", "val": "0", "validation": "0", "dev": "0"}
_TEST_WORDS = ("test", "testing")
_TEST = -2  # the fold of images that are never trained on
_PROBED = 20  # rows whose files tell which column holds paths
ROWS = 8_192  # of a piece of a long table


@dataclass(frozen=True)
class _Listed:
    """The rows of a table: `written`, where it says their files are; `paths`, the same from the file system's root."""

    ids: list[str]
    written: list[str]
    paths: list[str]
    labels: list[str]
    fold_N: NDArray[np.int64] | None


def list_table(table_path: str, section: DataSection, purpose: Purpose) -> Listing:
    """The rows of a table, in its order, without those that `section` leaves out.

    Paths are looked for as written, then in another Unicode form, with backslashes turned, and with an image suffix
    added (a column may hold bare ids). A training table must have the label, group and fold columns the recipe names;
    others may lack them, or have them empty; one of images to predict keeps all its rows. Raises DataError for missing
    columns, files, labels, and for ids used twice.
    """
    training = purpose == "train"
    table = open_table(table_path)
    roles = column_roles(table_path, table.names, section, training)
    if not len(table):
        raise DataError(f"{table_path}: no rows below the header")
    base = _base(table_path, section, purpose)
    columns = table.columns(roles.used)
    roles = _with_path(roles, columns, base, section, table_path)
    notices = [*table.notices, *roles.notices]
    ids = _ids(columns, roles, table.where)
    written = columns[roles.path].to_pylist()
    listed = _Listed(
        ids=ids.to_pylist(),
        written=written,
        paths=[_below(base, text) for text in written],
        labels=_labels(columns[roles.label], table, section, notices) if roles.label else [""] * len(table),
        fold_N=_folds(columns[roles.fold], roles.fold, table.where) if roles.fold and purpose != "test" else None,
    )
    rows = list(range(len(table)))
    if purpose != "test":
        later = labels_to_be(listed.ids, listed.paths, listed.labels, section)
        rows = _wanted(listed, later, section, table_path, notices)
    if training:
        _check_empty(rows, later, roles.label, table.where)
        notices += check_labels(rows, later, section, table_path, table.where)
    if not rows:
        raise DataError(f"{table_path}: no row is left: {'; '.join(notices)}")
    missing = "error" if purpose == "test" else section.missing
    paths, bytes_N, mtime_ns_N = _find_files(listed, base, rows, roles.path, table.where, missing, notices)
    taken = pa.array(rows)
    found = {"id": ids.take(taken), "path": paths, "bytes": bytes_N, "mtime_ns": mtime_ns_N}
    if roles.label:
        labels = listed.labels if training else without_nothing(listed.labels, section)
        found["label"] = [labels[row] for row in rows]
    if roles.group:
        found["group"] = pc.utf8_trim_whitespace(columns[roles.group]).take(taken)
    if listed.fold_N is not None:
        found["fold"] = np.maximum(listed.fold_N[rows], -1)
        if found["fold"].max() < 0:
            raise DataError(f"{table_path}: column {roles.fold!r} (data.fold_column) puts no sample into any fold")
    copies = {name: nfc_column(columns[name]).take(taken) for name in roles.copies}
    return Listing(found | copies, tuple(notices))


def walk_table(table_path: str, section: DataSection, scratch: Path, notices: list[str]) -> Iterator[pa.Table]:
    """The rows of a table of images to predict, as `list_table` gives them, a piece at a time: columns id, path, label,
    group, bytes and mtime_ns. Memory does not grow with the table, but with its distinct labels.

    `scratch` is a folder for files of its own, `notices` gets what `Listing.notices` has. Raises DataError as
    `list_table` does, but for ids that are used twice; for files that are not there when all rows were looked at.
    """
    table = open_table(table_path, scratch)
    roles = column_roles(table_path, table.names, section, False)
    if not len(table):
        raise DataError(f"{table_path}: no rows below the header")
    base = _base(table_path, section, "test")
    roles = _with_path(roles, next(table.pieces(roles.used, _PROBED)), base, section, table_path)
    notices += [*table.notices, *roles.notices]
    form: dict[str, str] = {}
    if roles.label:
        found = {text for piece in table.pieces([roles.label], ROWS) for text in piece.column(0).unique().to_pylist()}
        form = _label_forms(found, table, section, notices)
        form = dict(zip(form, without_nothing([*form.values()], section), strict=True))
    beside, lost, start = _Beside(), 0, 0
    told: list[tuple[str, str, str]] = []
    for piece in table.pieces(roles.used, ROWS):
        where = RowNames(table.path, _Shifted(table.where.numbers, start), table.where.word)
        written = piece[roles.path].to_pylist()
        paths = [_below(base, text) for text in written]
        bytes_N, mtime_ns_N, gone = _located(paths, written, base, roles.path, where, beside)
        told += [(where.name([row]), written[row], paths[row]) for row in gone[: SHOWN - len(told)]]
        lost, start = lost + len(gone), start + piece.num_rows
        empty = pa.repeat(pa.scalar("", pa.string()), piece.num_rows)
        labels = [form[text] for text in piece[roles.label].to_pylist()] if roles.label else empty
        yield pa.table(
            {
                "id": nfc_column(pc.utf8_trim_whitespace(piece[roles.id or roles.path])),
                "path": paths,
                "label": pa.array(labels, pa.string()),
                "group": pc.utf8_trim_whitespace(piece[roles.group]) if roles.group else empty,
                "bytes": bytes_N,
                "mtime_ns": mtime_ns_N,
            }
        )
    if lost:
        raise _lost(table_path, roles.path, told, lost, len(table))


@dataclass(frozen=True)
class _Shifted(Sequence[object]):
    """The names of rows from row `start` on."""

    numbers: Sequence[object]
    start: int

    def __len__(self) -> int:
        return len(self.numbers) - self.start

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        return self.numbers[self.start + row]


def _base(table_path: str, section: DataSection, purpose: Purpose) -> str:
    """The folder that a table's paths start from."""
    images = section.test_images if section.test_images and purpose == "test" else section.images
    return os.path.abspath(images) if images else os.path.dirname(os.path.abspath(table_path))  # noqa: PTH100, PTH120


def list_labels(table_path: str, section: DataSection) -> dict[str, str]:
    """Labels by id, of a table that names no files: the truth about images that are listed elsewhere. "" for none.

    Raises DataError for missing columns and for ids used twice.
    """
    table = open_table(table_path)
    id_column, label_column = truth_columns(table_path, table.names, section)
    columns = table.columns([id_column, label_column])
    ids = nfc_column(pc.utf8_trim_whitespace(columns[id_column]))
    if repeated := repeated_values(ids):
        raise DataError(f"{table_path}: ids used more than once: {some(repeated)}")
    labels = _labels(columns[label_column], table, section, [])
    return dict(zip(ids.to_pylist(), without_nothing(labels, section), strict=True))


def _with_path(roles: Roles, columns: pa.Table, base: str, section: DataSection, table_path: str) -> Roles:
    """The column that holds paths: of those that may, the first whose first rows name files."""

    def names_files(column: str) -> bool:
        values = [text for text in columns[column].slice(0, _PROBED).to_pylist() if text]
        return any(find_file(base, text) for text in values)

    if section.path_column:
        return roles
    path = next(filter(names_files, roles.paths), roles.path) if len(roles.paths) > 1 else roles.path
    if path == roles.path and path in (*PATH_NAMES, *ID_NAMES):
        return roles
    said = f"{table_path}: column {path!r} is taken for data.path_column"
    return replace(roles, path=path, notices=(*roles.notices, said))


def _ids(table: pa.Table, roles: Roles, where: RowNames) -> pa.Array:
    ids = nfc_column(pc.utf8_trim_whitespace(table[roles.id or roles.path]))
    repeated = repeated_values(ids)
    if repeated:
        shown = [f"{value!r} in {where.name(rows_equal(ids, value))}" for value in repeated[:SHOWN]]
        made = next((f" (it looks like {what})" for what in map(spoiled, repeated) if what), "")
        raise DataError(
            f"{where.table_path}: {len(repeated)} ids in column {roles.id or roles.path!r} are used more than once: "
            f"{'; '.join(shown)}{made}. Remove the repeated rows, or set data.id_column to a column without repeats"
        )
    return ids


def _labels(column: pa.ChunkedArray, table: UserTable, section: DataSection, notices: list[str]) -> list[str]:
    """The labels as people see them: without what is invisible, whole numbers as whole numbers."""
    found = column.to_pylist()
    form = _label_forms(set(found), table, section, notices)
    return [form[text] for text in found]


def _label_forms(found: Collection[str], table: UserTable, section: DataSection, notices: list[str]) -> dict[str, str]:
    """For each of the distinct labels of a table how people see it."""
    form = {text: tidy(text) for text in found}
    hidden = sorted(text for text, label in form.items() if label != nfc(text.strip()))
    if hidden:
        notices.append(
            f"{table.path}: {count(hidden, 'label')} read without invisible characters, spaces of other kinds or "
            f"curly quotes, such as {hidden[0]!a}"
        )
    named = {label for label, _ in section.label_names} | {name for group in section.aliases for name in group}
    floats = whole_numbers(form.values())
    if floats and not named & set(floats) and not section.label_table:
        some_float = min(floats)
        notices.append(f"{table.path}: labels are whole numbers, and {some_float!r} is read as {floats[some_float]!r}")
        form = {text: floats.get(label, label) for text, label in form.items()}
    return form


def _wanted(listed: _Listed, labels: list[str], section: DataSection, table_path: str, notices: list[str]) -> list[int]:
    """The rows that the recipe does not leave out, and that a person put there; `labels`: what will become of them."""
    written, fold_N = listed.written, listed.fold_N
    kept = without_excluded(listed.ids, listed.paths, section)
    notices += kept.notices
    litter = [row for row in kept.rows if is_litter_path(written[row]) or is_litter_label(labels[row])]
    if litter:
        shown = some([written[row] for row in litter], 3)
        notices.append(f"{table_path}: {count(litter, 'row')} left out that no person wrote: {shown}")
    tests = [row for row in kept.rows if fold_N is not None and fold_N[row] == _TEST]
    if tests:
        notices.append(f"{table_path}: {count(tests, 'test image')} left out, by data.fold_column")
    gone = {*litter, *tests}
    rows = [row for row in kept.rows if row not in gone]
    dropped = without_dropped(rows, labels, section)
    notices += dropped.notices
    return dropped.rows


def _check_empty(rows: list[int], labels: list[str], column: str, where: RowNames) -> None:
    if empty := [row for row in rows if not labels[row]]:
        raise DataError(
            f"{where.table_path}: column {column!r} is empty in {len(empty)} of {len(rows)} rows: {where.name(empty)}. "
            'Label those rows, remove them, or leave them out with data.drop_classes = [""]'
        )


def _find_files(
    listed: _Listed, base: str, rows: list[int], column: str, where: RowNames, missing: str, notices: list[str]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The paths of `rows`, mended where a file is spelt otherwise, with bytes_N and mtime_ns_N.

    Files that are not there stay, when `missing` is leave_out, to be found unreadable. Raises DataError naming their
    rows otherwise, and when it is all of them; also for names without a suffix that several files have.
    """
    paths, written = [listed.paths[row] for row in rows], [listed.written[row] for row in rows]
    where = where.take(rows)
    bytes_N, mtime_ns_N, lost = _located(paths, written, base, column, where, _Beside())
    if not lost:
        return paths, bytes_N, mtime_ns_N
    if missing == "leave_out" and len(lost) < len(paths):
        shown = some([written[row] for row in lost], SHOWN)
        notices.append(
            f"{where.table_path}: {len(lost)} of {len(paths)} files in column {column!r} do not exist and are left out "
            f"(data.missing), {where.name(lost)}: {shown}"
        )
        return paths, bytes_N, mtime_ns_N
    told = [(where.name([row]), written[row], paths[row]) for row in lost[:SHOWN]]
    raise _lost(where.table_path, column, told, len(lost), len(paths))


def _located(
    paths: list[str], written: Sequence[str], base: str, column: str, where: RowNames, beside: _Beside
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[int]]:
    """What the file system says of the files at `paths`, which are mended where one is spelt otherwise: bytes_N,
    mtime_ns_N, and the rows whose file is not there."""
    bytes_N, mtime_ns_N = stat_files(paths)
    lost = []
    for row in np.flatnonzero(bytes_N < 0).tolist():
        spelling = find_file(base, written[row]) if tidy(written[row]) else ""
        if len(rivals := beside.files_for(spelling, written[row])) > 1:
            raise DataError(
                f"{where.table_path}: {where.name([row])}: {written[row]!r} in column {column!r} may be any of "
                f"{some(rivals)}. Write the suffix, or remove the other file"
            )
        if spelling:
            paths[row] = spelling
            bytes_N[row], mtime_ns_N[row] = stat_file(spelling)
        else:
            lost.append(row)
    return bytes_N, mtime_ns_N, lost


def _lost(table_path: str, column: str, told: Sequence[tuple[str, str, str]], lost: int, rows: int) -> DataError:
    """The error for files that are not there; `told` has the first ones: the row's name, what it says, and the path."""
    shown = "; ".join(f"{row}: {written!r}" for row, written, _ in told)
    some_left = ', data.missing = "leave_out" to train without them' if lost < rows else ""
    return DataError(
        f"{table_path}: {lost} of {rows} files in column {column!r} do not exist: {shown}. "
        f"Looked for {told[0][2]}{_why(told[0][1], told[0][2])}. Set data.images (for test images also "
        f"data.test_images) to the folder the paths start from, data.path_column to another column{some_left}, or mend "
        "those rows"
    )


def find_file(base: str, text: str) -> str:
    """The path of the file that a table calls `text`, from folder `base`, as it is spelt on disk; "" for none."""
    return next((spelling for spelling in _spellings(base, text) if stat_file(spelling)[0] >= 0), "")


def _spellings(base: str, text: str) -> Iterator[str]:
    whole = [turned for own in (text, tidy(text)) for turned in (own, own.replace("\\", "/"))]
    paths = [_below(base, own) for own in whole]
    forms = dict.fromkeys(form for path in paths for form in (path, nfc(path), nfd(path)))
    yield from forms
    for form in forms:
        for suffix in IMAGE_SUFFIXES:
            yield form + suffix
            yield form + suffix.upper()


def _below(base: str, text: str) -> str:
    return os.path.join(base, text.removeprefix("./"))  # noqa: PTH118


class _Beside:
    """The pictures of folders by their names without a suffix. Each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def files_for(self, path: str, text: str) -> list[str]:
        """The different files that are called as `path` but for the suffix, when `text` did not say which."""
        stem, suffix = os.path.splitext(path)  # noqa: PTH122
        if not suffix or tidy(text).casefold().endswith(suffix.casefold()):
            return []
        folder, name = os.path.split(stem)
        if folder not in self._folders:
            self._folders[folder] = _pictures_in(folder)
        found: dict[tuple[int, int], str] = {}
        for other in self._folders[folder].get(nfc(name), ()):
            try:
                facts = os.stat(os.path.join(folder, other))  # noqa: PTH116, PTH118
            except OSError:
                continue
            found.setdefault((facts.st_dev, facts.st_ino), other)  # one file may have several names
        return sorted(found.values())


def _pictures_in(folder: str) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    try:
        entries = os.listdir(folder)  # noqa: PTH208
    except OSError:  # a folder may be entered and not listed
        return named
    for entry in entries:
        stem, suffix = os.path.splitext(entry)  # noqa: PTH122
        if suffix.lower() in IMAGE_SUFFIXES:
            named.setdefault(nfc(stem), []).append(entry)
    return named


def _why(text: str, path: str) -> str:
    """What may be the matter with a name whose file is not there."""
    if os.path.exists(path):  # noqa: PTH110
        return ", which is no regular file"
    if scheme := re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]+)://", text):
        local = scheme[1].lower() == "file"
        return f". {text!r} is an address: " + (
            "write the path alone, without file://" if local else "download the files, and write where they lie"
        )
    if re.match(r"\s*([A-Za-z]:|\\\\)[\\/]?", text):
        return f". {text!r} is a path of a Windows machine: write what stands behind the folder that holds the images"
    if re.match(r"\s*~\w*/", text):
        return f". {text!r} begins in a home folder, which is not looked up in tables: write it out"
    if made := spoiled(text):
        return f". {text!r} looks like {made}: export the column as text"
    folder, name = os.path.split(path)
    try:
        beside = os.listdir(folder)  # noqa: PTH208
    except OSError:
        return f". There is no folder {folder}"
    stem = os.path.splitext(name)[0]  # noqa: PTH122
    for other in beside:
        own = os.path.splitext(other)[0]  # noqa: PTH122
        if own.lower() == stem.lower():
            return f". There is {other!r}: capitals count"
        if stem.removesuffix(".0").isdigit() and own.isdigit() and int(own) == int(stem.removesuffix(".0")):
            return f". There is {other!r}: a spreadsheet or pandas has taken the zeros for a number's"
    return ""


def _folds(column: pa.ChunkedArray, name: str, where: RowNames) -> NDArray[np.int64]:
    """Whole numbers from 0; empty or -1 for a sample that is never validated on; or words that say train, valid or
    test, whose rows are -2. 2.0 is 2, as pandas writes it."""
    text_of = {}
    for text in column.unique().to_pylist():
        word = tidy(text).casefold()
        plain = "-1" if not word or means_nothing(word) else _FOLD_WORDS.get(word, word)
        text_of[text] = "test" if word in _TEST_WORDS else plain
    texts = pa.array([text_of[text] for text in column.to_pylist()], pa.string())
    wrong = pc.invert(pc.match_substring_regex(texts, r"^((-1|\d{1,4})(\.0*)?|test)$"))
    wrong_rows = np.flatnonzero(wrong.to_numpy(zero_copy_only=False)).tolist()
    if wrong_rows:
        raise DataError(
            f"{where.table_path}: column {name!r} (data.fold_column) must hold fold numbers from 0, or -1 for samples "
            "that are always trained on, or the words train, valid and test; "
            f"not {texts[wrong_rows[0]].as_py()!r} in {where.name(wrong_rows[:1])}"
        )
    numbers = pc.if_else(pc.equal(texts, "test"), str(_TEST), texts)
    folds: NDArray[np.int64] = numbers.cast(pa.float64()).cast(pa.int64()).to_numpy()
    return folds
