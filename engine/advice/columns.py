"""What the columns of a table hold, as far as their names and their values say it.

Training goes by names alone, since a run must not depend on a guess. A suggestion may guess, because somebody reads it:
a column of paths is one whose values are files, in the table's folder or one near it; a column of labels is one of few
values that is called like one; and a column of folds holds numbers or the names of splits.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.data.sources.columns import COPY_COLUMNS, ID_NAMES, LABEL_NAMES, PATH_NAMES
from engine.data.sources.litter import tidy
from engine.data.sources.table import find_file
from engine.data.tables import open_table
from engine.errors import DataError
from engine.text import count, nfc

_TRIED = 24  # values of a column that are looked for
_FOLDERS = 60  # near a table that they are looked for in
_LABEL_WORDS = (
    *("label", "labels", "class", "classes", "target", "category", "species", "breed", "diagnosis", "dx", "type"),
    *("kind", "tag", "name", "y", "라벨", "레이블", "클래스", "분류", "종류", "품종", "이름"),
)
_FOLD_NAMES = ("fold", "folds", "kfold", "split", "set", "subset", "partition")
_TRAINED, _HELD, _TESTED = {"train", "training"}, {"valid", "val", "validation", "dev"}, {"test", "testing"}


@dataclass(frozen=True)
class Columns:
    """A table's columns by what they hold. `path`, `label` and `fold` are as data.path_column and its like have them,
    "" where nothing has to be said; `images` is the folder that paths start from, "" for the table's own. `labels`:
    rows by label; `folds`: how many the fold column has; `others`: values by id, of columns that are none of these;
    `notices`: what cannot be said in a recipe."""

    path: str
    label: str
    fold: str
    images: str
    labels: Mapping[str, int]
    folds: int
    others: Mapping[str, Mapping[str, str]]
    notices: tuple[str, ...]


def columns_of(table_path: str, images: str = "", label: str = "") -> Columns:
    """Look at a table; `images` and `label` are what the user has said already.

    Raises DataError for a table that cannot be read, or in which no column, or any of several, may hold the labels.
    """
    table = open_table(table_path)
    texts: dict[str, list[str]] = {}
    for name in filter(None, table.names):
        try:
            texts[name] = table.columns([name])[name].to_pylist()
        except DataError:  # a Parquet table may hold whole images, and lists of boxes
            continue
    if label and label not in texts:
        raise DataError(f"{table_path}: no column {label}; its columns are {', '.join(map(repr, texts))}")
    path, found = _path_column(table_path, texts, images)
    ids = next((name for name in ID_NAMES if name in texts), path)
    left = {name: values for name, values in texts.items() if name not in {path, ids, *COPY_COLUMNS}}
    usual = next((name for name in LABEL_NAMES if name in left), "")
    named = label or usual or _label_column(table_path, left)
    fold = next((name for name in left if name != named and _is_fold(name, left[name])), "")
    keys = [nfc(value.strip()) for value in texts.get(ids, [])]
    others = {name: dict(zip(keys, values, strict=True)) for name, values in left.items() if name not in {named, fold}}
    return Columns(
        path="" if path == next((name for name in (*PATH_NAMES, *ID_NAMES) if name in texts), "") else path,
        label="" if named == usual else named,
        fold=fold,
        images=found,
        labels=Counter(map(tidy, left[named])),
        folds=len({value for value in map(tidy, left.get(fold, [])) if value.isdecimal()}),
        others=others,
        notices=tuple(_tests(left)),
    )


def words_of(name: str) -> list[str]:
    """The words that a column's name is made of, in small letters: senderId and sender_id are sender, id."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W_]+", parted)]


def _path_column(table_path: str, texts: Mapping[str, Sequence[str]], images: str) -> tuple[str, str]:
    """The column whose values are files and the folder that they start from; of a usual name, where none is."""
    usual = [name for name in (*PATH_NAMES, *ID_NAMES) if name in texts]
    folders = [images] if images else ["", *_near(table_path)]
    base = os.path.dirname(os.path.abspath(table_path))  # noqa: PTH100, PTH120  as the table's own reader does it
    best, most = (usual[0] if usual else next(iter(texts), ""), images), 0
    for name in dict.fromkeys([*usual, *texts]):
        tried = list(dict.fromkeys(value for value in texts[name] if value.strip()))
        tried = tried[:: max(1, len(tried) // _TRIED)][:_TRIED]
        for folder in folders:
            there = sum(bool(find_file(folder or base, value)) for value in tried)
            if there > most:
                best, most = (name, folder), there
        if most and most == len(tried):
            break
    return best


def _near(table_path: str) -> list[str]:
    """Folders that a table's paths may start from: those beside it, the one above, and those in the former."""
    here = os.path.dirname(table_path)  # noqa: PTH120
    beside = _folders_in(here)
    inside = [folder for parent in beside[:_FOLDERS] for folder in _folders_in(parent)]
    return [*beside, os.path.join(here, os.pardir), *inside][:_FOLDERS]  # noqa: PTH118


def _folders_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder or os.curdir) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names]  # noqa: PTH118


def _label_column(table_path: str, texts: Mapping[str, Sequence[str]]) -> str:
    """The one column that may hold the labels. Raises DataError."""
    few = [name for name, values in texts.items() if 2 <= len(set(values)) <= max(2, len(values) // 2)]
    ranked = [name for word in _LABEL_WORDS for name in few if word in words_of(name)]
    if ranked:
        return ranked[0]
    if len(few) == 1:
        return few[0]
    several = f"any of {', '.join(map(repr, few))}" if few else "none of its columns"
    raise DataError(f"{table_path}: the labels may be in {several}. Name their column: --label COLUMN")


def _is_fold(name: str, values: Sequence[str]) -> bool:
    """Whether a column is called so and says of some rows that they are held out, in numbers or in words."""
    if name.casefold() not in _FOLD_NAMES:
        return False
    said = {tidy(value).casefold() for value in values}
    if said <= {*_TRAINED, *_HELD, *_TESTED, ""}:
        return bool(said & _TRAINED) and bool(said & _HELD)
    return said == {str(number) for number in range(len(said))} and 2 <= len(said) <= 20


def _tests(columns: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Words about rows that are said to be for testing, where none are for validation: no key leaves them out."""
    for name, values in columns.items():
        said = Counter(tidy(value).casefold() for value in values)
        tests = sum(said[word] for word in _TESTED)
        if name.casefold() in _FOLD_NAMES and tests and set(said) <= {*_TRAINED, *_TESTED}:
            yield f"{count(tests, 'row')} that column {name} calls test are trained on, too: move them to another table"
