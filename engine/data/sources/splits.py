"""Folders around the class folders: splits (train/a, val/a, test/a) and wrappers (archive/a).

Both are what archives unpack to, and both would be classes by the letter: "train" and "val". They are told apart from
classes by what is in them, because a class may honestly be called train, beside bus and car: the splits of a data set
hold folders of the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from engine.errors import DataError
from engine.text import count, some

Split = Literal["train", "val", "test"]

_WORDS: dict[Split, str] = {
    "train": "train|training|trn",
    "val": "val|valid|validation|validate|dev|eval|evaluation",
    "test": "test|testing|tst",
}


def split_named(folder: str) -> Split | None:
    """The split that a folder is called after, in any case of letters: Train, train_set, val2017, seg_test."""
    name = folder.strip().casefold()
    for split, words in _WORDS.items():
        if re.fullmatch(rf"(seg[_-])?({words})[_ -]?(set|data|images|imgs|img|split)?(20\d\d)?", name):
            return split
    return None


@dataclass(frozen=True)
class Layout:
    """`prefix`: folders around all others, with a slash at the end, or "". `splits`: the folders below it that are
    splits; {} when they are the classes."""

    prefix: str
    splits: dict[str, Split]

    def parts(self, name: str) -> tuple[Split | None, str]:
        """The split that an image is in, and its class; None and "" for what is in none."""
        first, slash, rest = name.removeprefix(self.prefix).partition("/")
        if not self.splits:
            return None, first if slash else ""
        label, slash, _ = rest.partition("/")
        return self.splits.get(first), label if slash else ""


def layout_of(names: Sequence[str], root: str) -> Layout:
    """How the folders of these images (posix paths below `root`) are meant.

    Raises DataError for folders that are all called like splits and cannot be them.
    """
    prefix = ""
    while True:
        below = _below(names, prefix)
        if len(below) != 1 or "" in below or not all(below[next(iter(below))]):
            break
        prefix += next(iter(below)) + "/"
    splits = {folder: split for folder in below if (split := split_named(folder))}
    training = {name for folder, split in splits.items() if split == "train" for name in below[folder]}
    others = [below[folder] for folder, split in splits.items() if split == "val"]
    others += [below[folder] - {""} for folder, split in splits.items() if split == "test"]
    if training - {""} and others and any(training & other - {""} or not other for other in others):
        return Layout(prefix, splits)
    if len(splits) > 1 and len(splits) == len(below):
        raise DataError(
            f"{root}: {some(sorted(splits), 5)} are called like the parts of a split data set and no classes, but "
            "there is no part to train on with a folder for each class. Make data.train a folder whose sub-folders are "
            "the classes, or a table"
        )
    return Layout(prefix, {})


def _below(names: Iterable[str], prefix: str) -> dict[str, set[str]]:
    """For each folder below `prefix` the folders in it that hold images, "" for images of its own; under "" what lies
    in no folder."""
    below: dict[str, set[str]] = {}
    for name in names:
        first, slash, rest = name.removeprefix(prefix).partition("/")
        below.setdefault(first if slash else "", set()).add(rest.partition("/")[0] if "/" in rest else "")
    return below


def words_about(layout: Layout, root: str, counts: dict[Split, int], folds: int, predicting: bool) -> list[str]:
    """What was made of the folders, in words; `counts`: images of each split, `folds`: data.folds.count."""
    said = []
    if layout.prefix:
        said.append(f"{root}: all images are in {layout.prefix}, so the folders in it are the classes")
    if layout.splits:
        named = {split: [f for f, s in sorted(layout.splits.items()) if s == split] for split in _WORDS}
        text = (
            f"{root}: {some(sorted(layout.splits), 9)} are parts of a split data set, the folders in them the classes"
        )
        if named["val"] and not predicting:
            held = " and ".join(named["val"])
            text += f"; {held} ({count(counts['val'], 'image')}) is " + (
                "held out as fold 0" if folds > 1 else "trained on, too: data.folds.count is 1"
            )
        if named["test"] and not predicting:
            text += f"; {' and '.join(named['test'])} ({count(counts['test'], 'image')}) is never trained on"
        said.append(text)
    return said
