"""A folder of images, one sub-folder a class."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.leave_out import check_labels, labels_to_be, without_dropped, without_excluded, without_nothing
from engine.data.manifest import repeated_values
from engine.data.sources.litter import Others, is_litter_file, is_litter_folder, tidy
from engine.data.sources.local import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    Listing,
    Purpose,
    nfc_column,
    stat_files,
)
from engine.data.sources.splits import Layout, Split, layout_of, words_about
from engine.data.spill import SortedNames
from engine.data.tables import RowNames
from engine.errors import DataError
from engine.recipe.sections import DataSection
from engine.text import count, nfc, some

ROWS = 8_192  # of a piece of a large folder


def list_folder(root: str, section: DataSection, purpose: Purpose) -> Listing:
    """Every image below a folder, in order of id (its path from the folder, posix, NFC), that `section` does not leave
    out.

    The first folder on the way is the class, however deep the file lies; a file in `root` itself has none. Folders of
    splits are no classes: what lies in val is held out, and what lies in test is not learnt from (see `splits`). What
    machines leave, and what is no regular file, is passed over; links are followed, loops are not. Two files whose
    names differ only in their Unicode form keep the spelling on disk as their ids. Raises DataError for a folder that
    cannot be listed or has no images, and for images to train on that lie in no class folder.
    """
    images: list[str] = []
    found = _walk(root, images)
    relative = sorted(images, key=lambda name: (nfc(name), name))
    if not relative:
        raise DataError(_nothing(root, found))
    ids = _ids(relative, root)
    layout = layout_of(relative, root) if purpose == "train" else _lenient(relative, root)
    split_N, folders = zip(*map(layout.parts, relative), strict=True)
    labels = _labels(folders)
    notices = [
        *(f"{root}: folder passed over: {name!r}: {why}" for name, why in found.unreadable),
        *words_about(layout, root, Counter(split_N), section.folds.count, purpose == "test"),
        *(f"{root}: {words}" for words in found.others.passed_over()),
        *_irregular(root, found.irregular),
    ]
    paths = [os.path.join(root, name) for name in relative]  # noqa: PTH118
    rows = list(range(len(relative)))
    if purpose != "test":
        notices += _renamed(folders, labels) + _empty(root, found, layout, set(zip(split_N, folders, strict=True)))
        kept = without_excluded(ids.to_pylist(), paths, section)
        notices += kept.notices
        rows = [row for row in kept.rows if split_N[row] != "test" and (split_N[row] or not layout.splits)]
        later = labels_to_be(ids.to_pylist(), paths, labels, section)
        kept = without_dropped(rows, later, section)
        rows, notices = kept.rows, notices + kept.notices
    if purpose == "train":
        _check_outside(root, relative, rows, later)
        names = RowNames("", relative, "image")
        notices += check_labels(rows, later, section, root, names)
    else:
        labels = without_nothing(labels, section)
    if not rows:
        raise DataError(f"{root}: no image is left: {'; '.join(notices)}")
    paths = [paths[row] for row in rows]
    bytes_N, mtime_ns_N = stat_files(paths)
    columns = {
        "id": ids.take(pa.array(rows)),
        "path": paths,
        "label": [labels[row] for row in rows],
        "bytes": bytes_N,
        "mtime_ns": mtime_ns_N,
    }
    if purpose != "test" and "val" in layout.splits.values():
        columns["fold"] = np.array([0 if split_N[row] == "val" else -1 for row in rows])
    return Listing(columns, tuple(notices))


def walk_folder(root: str, section: DataSection, scratch: Path, notices: list[str]) -> Iterator[pa.Table]:
    """The images of a folder to predict, as `list_folder` gives them, a piece at a time: columns id, path, label,
    group, bytes and mtime_ns. Memory does not grow with the images, but with the folders that they lie in.

    `scratch` is a folder for files of its own, `notices` gets what `Listing.notices` has. Raises DataError as
    `list_folder` does.
    """
    with closing(_InFolders(SortedNames(scratch))) as images:
        found = _walk(root, images)
        if not len(images.names):
            raise DataError(_nothing(root, found))
        places = [f"{folder}/_" if folder else "_" for folder in sorted(images.folders)]
        layout = _lenient(places, root)
        notices += [
            *(f"{root}: folder passed over: {name!r}: {why}" for name, why in found.unreadable),
            *words_about(layout, root, Counter(), section.folds.count, True),
            *(f"{root}: {words}" for words in found.others.passed_over()),
            *_irregular(root, found.irregular),
        ]
        folders = [*{layout.parts(place)[1] for place in places}]
        label_of = dict(zip(folders, without_nothing(_labels(folders), section), strict=True))
        for relative in _with_equals(images.names, ROWS):
            paths = [os.path.join(root, name) for name in relative]  # noqa: PTH118
            bytes_N, mtime_ns_N = stat_files(paths)
            yield pa.table(
                {
                    "id": _ids(relative, root),
                    "path": paths,
                    "label": [label_of[layout.parts(name)[1]] for name in relative],
                    "group": [""] * len(relative),
                    "bytes": bytes_N,
                    "mtime_ns": mtime_ns_N,
                }
            )


class _InFolders:
    """Images, and the folders that they lie in."""

    def __init__(self, names: SortedNames) -> None:
        self.names, self.folders = names, set[str]()

    def append(self, name: str) -> None:
        self.names.append(name)
        self.folders.add(name.rpartition("/")[0])

    def close(self) -> None:
        self.names.close()


def _with_equals(names: Iterable[str], rows: int) -> Iterator[list[str]]:
    """Pieces of about so many sorted names; those that are equal in composed form, whose ids are made together, in
    one."""
    piece: list[str] = []
    for name in names:
        if len(piece) >= rows and nfc(name) != nfc(piece[-1]):
            yield piece
            piece = []
        piece.append(name)
    if piece:
        yield piece


class _Names(Protocol):
    def append(self, name: str, /) -> None: ...


Images = TypeVar("Images", bound=_Names)


@dataclass
class _Found(Generic[Images]):
    """What a walk came by, as posix paths from its root."""

    images: Images  # what is, or might be, one
    others: Others = field(default_factory=Others)  # files that are none by their names
    irregular: list[str] = field(default_factory=list)  # pipes, sockets and devices that are called like images
    folders: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # folders, and why


def _walk(root: str, images: Images) -> _Found[Images]:
    """`images` gets those that are found. Raises DataError when the root itself cannot be listed."""
    found = _Found(images)
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            facts = os.stat(os.path.join(root, folder))  # noqa: PTH116, PTH118
            identity = (facts.st_dev, facts.st_ino)
            if identity in above:  # a link back up
                continue
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118
                for entry in entries:
                    below = f"{folder}/{entry.name}" if folder else entry.name
                    if _is_folder(entry):
                        if not is_litter_folder(entry.name):
                            found.folders.append(below)
                            pending.append((below, above | {identity}))
                        elif not entry.name.startswith(".") and not os.access(entry.path, os.R_OK | os.X_OK):
                            found.unreadable.append((below, "Permission denied"))  # lost+found of another's disk
                    elif not is_litter_file(entry.name):
                        _sort(entry, below, found)
        except OSError as error:
            if not folder:
                raise DataError(f"{root}: cannot list this folder: {error.strerror}") from error
            found.unreadable.append((folder, error.strerror or str(error)))
    return found


def _sort(entry: os.DirEntry[str], below: str, found: _Found[Images]) -> None:
    named_so = os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122
    if not named_so or entry.name.startswith("."):
        found.others.append(below)
    elif _may_be_read(entry):
        found.images.append(below)
    else:
        found.irregular.append(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that will turn out unreadable
        return False


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """A regular file, or a link to one, or to nothing: that will turn out unreadable, and so be told."""
    try:
        return entry.is_file() or not os.path.exists(entry.path)  # noqa: PTH110
    except OSError:
        return True


def _nothing(root: str, found: _Found[Images]) -> str:
    said = [f"no images here or in any sub-folder (looked for {', '.join(IMAGE_SUFFIXES)})"]
    said += [f"cannot list {name!r}: {why}" for name, why in found.unreadable]
    if suffixes := found.others.suffixes:
        shown = ", ".join(f"{number} {suffix or 'without a suffix'}" for suffix, number in suffixes.most_common(5))
        said.append(f"there are other files: {shown}")
    return f"{root}: " + "; ".join([*said, *found.others.passed_over(), *_irregular("", found.irregular)])


def _irregular(root: str, names: list[str]) -> list[str]:
    if not names:
        return []
    where = f"{root}: " if root else ""
    return [f"{where}{count(names, 'name')} passed over, no regular files but pipes or devices: {some(names, 3)}"]


def _ids(relative: list[str], root: str) -> pa.Array:
    try:
        on_disk = pa.array(relative, pa.string())
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() != "utf-8":  # the command sees to it itself
            raise DataError(
                f"{root}: Python reads file names as {sys.getfilesystemencoding()} here; start it with PYTHONUTF8=1"
            ) from None
        # Typical of zips made on Korean Windows.
        raise DataError(
            f"{root}: the file name {os.fsencode(error.object)!r} is not UTF-8. "
            "Rename such files, for example: convmv -f cp949 -t utf8 -r --notest FOLDER"
        ) from None
    ids = nfc_column(on_disk)
    clashes = repeated_values(ids)
    return pc.if_else(pc.is_in(ids, pa.array(clashes)), on_disk, ids) if clashes else ids


def _lenient(relative: Sequence[str], root: str) -> Layout:
    """As `layout_of`, for images that need no class."""
    try:
        return layout_of(relative, root)
    except DataError:
        return Layout("", {})


def _labels(folders: Sequence[str]) -> list[str]:
    form = {folder: tidy(folder) or nfc(folder) for folder in set(folders)}
    return [form[folder] for folder in folders]


def _renamed(folders: Sequence[str], labels: Sequence[str]) -> list[str]:
    pairs = sorted({(f, label) for f, label in zip(folders, labels, strict=True) if nfc(f) != label})
    return [f"folder {folder!a} is class {label!r}" for folder, label in pairs]


def _empty(
    root: str, found: _Found[list[str]], layout: Layout, full: Collection[tuple[Split | None, str]]
) -> list[str]:
    """Words about folders that would be classes and hold no image; `full`: split and class of those that do."""
    unreadable = {name for name, _ in found.unreadable}
    depth = layout.prefix.count("/") + bool(layout.splits)
    empty = sorted(
        folder
        for folder in found.folders
        if folder.startswith(layout.prefix)
        and folder.count("/") == depth
        and layout.parts(f"{folder}/.") not in full
        and not any(f"{name}/".startswith(f"{folder}/") for name in unreadable)
    )
    return [f"{root}: {count(empty, 'folder')} without an image, no class: {some(empty)}"] if empty else []


def _check_outside(root: str, relative: list[str], rows: list[int], labels: list[str]) -> None:
    outside = [relative[row] for row in rows if not labels[row]]
    if outside:
        raise DataError(
            f"{root}: {len(outside)} of {len(relative)} images lie in no class folder and so have no label, such as "
            f"{outside[0]!r}. Training needs one sub-folder per class: move them into one, or elsewhere"
        )
