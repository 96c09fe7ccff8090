"""What the columns of a table hold, as far as their names and their values say it.

Names that the engine knows (see docs/recipes.md) are left to it. Others are asked: a column of paths is one whose
values are files, in the table's folder or one near it; a column of labels is one of few values that is called like one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.data.sources.table import _ID_NAMES as ID_NAMES
from engine.data.sources.table import _LABEL_NAMES as LABEL_NAMES
from engine.data.sources.table import _PATH_NAMES as PATH_NAMES
from engine.data.sources.table import _spellings as spellings
from engine.data.tables import column_names, read_columns
from engine.errors import DataError
from engine.text import nfc

_TRIED = 24  # values of a column that are looked for
_FOLDERS = 60  # near a table that they are looked for in
_LABEL_WORDS = (
    *("label", "class", "target", "category", "species", "breed", "diagnosis", "dx", "type", "kind", "tag", "name"),
    *("라벨", "레이블", "클래스", "분류", "종류", "품종", "이름"),
)


@dataclass(frozen=True)
class Columns:
    """A table's columns by what they hold. `path` and `label` are "" where their usual names say it; `images` is the
    folder that paths start from, "" for the table's own. `others`: values by id, of all columns that are none of these.
    """

    path: str
    label: str
    images: str
    others: Mapping[str, Mapping[str, str]]


def columns_of(table_path: str, images: str = "", label: str = "") -> Columns:
    """Look at a .csv or .parquet table; `images` and `label` are what the user has said already.

    Raises DataError for a table that cannot be read, or in which no column, or any of several, may hold the labels.
    """
    names = column_names(table_path)
    texts = _texts(table_path, names)
    path, found = _path_column(table_path, texts, images)
    ids = next((name for name in ID_NAMES if name in texts), path)
    taken = {path, ids}
    wanted = label or next((name for name in LABEL_NAMES if name in names), "")
    if label and label not in names:
        raise DataError(f"{table_path}: no column {label}; its columns are {', '.join(map(repr, names))}")
    wanted = wanted or _label_column(table_path, {name: texts[name] for name in texts if name not in taken})
    keys = [nfc(value.strip()) for value in texts.get(ids, [])]
    others = {name: dict(zip(keys, texts[name], strict=True)) for name in texts if name not in {*taken, wanted}}
    usual = next((name for name in (*PATH_NAMES, *ID_NAMES) if name in names), "")
    return Columns(
        path="" if path == usual else path,
        label=wanted if label or wanted not in LABEL_NAMES else "",
        images=found,
        others=others,
    )


def words_of(name: str) -> list[str]:
    """The words that a column's name is made of, in small letters: senderId and sender_id are sender, id."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.findall(r"[^\W_]+", parted)]


def _texts(table_path: str, names: list[str]) -> dict[str, list[str]]:
    """The values of all columns that are text or numbers. A Parquet table may hold others, such as whole images."""
    if not table_path.lower().endswith(".parquet"):
        table = read_columns(table_path, names, names)
        return {name: table[name].to_pylist() for name in names}
    texts = {}
    for name in names:
        try:
            texts[name] = read_columns(table_path, names, [name])[name].to_pylist()
        except DataError:
            continue
    return texts


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
            there = sum(_is_file(os.path.join(folder or base, value)) for value in tried)  # noqa: PTH118
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


def _is_file(path: str) -> bool:
    return any(os.path.isfile(spelling) for spelling in spellings(path))  # noqa: PTH113


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
