"""A folder of images, one sub-folder a class."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from engine.data.manifest import repeated_values
from engine.data.sources.local import IMAGE_SUFFIXES, PICTURE_SUFFIXES, Columns, nfc_column, stat_files
from engine.errors import DataError
from engine.text import nfc


def list_folder(root: str, training: bool) -> Columns:
    """Every image below a folder, in order of id (its path from the folder, posix, NFC).

    The first folder on the way is the class, however deep the file lies; a file in `root` itself has none. Hidden
    files and __MACOSX are passed over; links are followed, loops are not. Two files whose names differ only in their
    Unicode form keep the spelling on disk as their ids. Raises DataError for a folder that cannot be listed or has no
    images, and for images to train on that lie in no class folder.
    """
    relative = sorted(_walk(root), key=lambda name: (nfc(name), name))
    if not relative:
        raise DataError(f"{root}: no images here or in any sub-folder (looked for {', '.join(IMAGE_SUFFIXES)})")
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
    outside = [name for name in relative if "/" not in name]
    if training and outside:
        raise DataError(
            f"{root}: {len(outside)} of {len(relative)} images lie in no class folder and so have no label, such as "
            f"{outside[0]!r}. Training needs one sub-folder per class: move them into one, or elsewhere"
        )
    labels = pa.array([name.partition("/")[0] if "/" in name else "" for name in relative], pa.string())
    ids = nfc_column(on_disk)
    clashes = repeated_values(ids)
    if clashes:
        ids = pc.if_else(pc.is_in(ids, pa.array(clashes)), on_disk, ids)
    paths = [os.path.join(root, name) for name in relative]  # noqa: PTH118
    bytes_N, mtime_ns_N = stat_files(paths)
    return {
        "id": ids,
        "path": paths,
        "label": nfc_column(labels),
        "bytes": bytes_N,
        "mtime_ns": mtime_ns_N,
    }


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
                    elif os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:  # noqa: PTH122
                        yield below
        except OSError as error:
            raise DataError(f"{os.path.join(root, folder)}: cannot list this folder: {error.strerror}") from error  # noqa: PTH118


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: a file that will turn out unreadable
        return False
