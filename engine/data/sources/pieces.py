"""Samples to be answered, of whatever the user names, a piece at a time: folders, tables, patterns, single files, and
lists on standard input.

Training lists what it learns from as a whole, because it has to be looked at as a whole; images to predict may be many
more, and nobody needs all of them at once. What both know of folders and tables stands once, beside this.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from engine.data.sources.folder import walk_folder
from engine.data.sources.listing import list_samples
from engine.data.sources.litter import Others, is_litter_path
from engine.data.sources.local import PICTURE_SUFFIXES, nfc_column, stat_files
from engine.data.sources.table import walk_table
from engine.data.spill import SortedNames, split
from engine.data.tables import TABLE_SUFFIXES
from engine.errors import DataError
from engine.recipe.sections import DataSection

STDIN = "-"
_ROWS = 8_192
_BLOCK = 1 << 16  # bytes


def walk_sources(
    sources: Sequence[str], section: DataSection, scratch: Path, notices: list[str], stdin: BinaryIO | None = None
) -> Iterator[pa.Table]:
    """The samples of all sources, in their order, in pieces of columns id, path, label, group, bytes and mtime_ns.

    A source is a folder, a .csv, .tsv or .parquet table, a pattern with *, ? or [] (** for folders at any depth), an
    image, or "-": a path a line, or each ended by a zero byte, on standard input (`stdin`). An id is the path from the
    folder or from what stands before the pattern, of a table what it says, else the path as it was given; where there
    are several sources, ids of images in folders and patterns begin with the source.

    `scratch` is a folder for files of its own; `notices` gets words about what was passed over or guessed. Raises
    DataError, naming the source, for what is not there or cannot be used.
    """
    for source in sources:
        before = f"{source.rstrip('/')}/" if len(sources) > 1 else ""
        path = os.path.abspath(source)  # noqa: PTH100  not resolved: the user's own spelling
        if source == STDIN:
            yield from _listed(stdin or sys.stdin.buffer)
        elif os.path.isdir(path):  # noqa: PTH112
            yield from map(_named(before), walk_folder(path, section, scratch, notices))
        elif os.path.isfile(path) and path.lower().endswith(TABLE_SUFFIXES):  # noqa: PTH113
            yield from walk_table(path, section, scratch, notices)
        elif os.path.isfile(path) and _is_picture(path):  # noqa: PTH113
            yield _files([source], [source])
        elif not os.path.exists(path) and glob.has_magic(source):  # noqa: PTH110
            yield from _matching(source, scratch, notices, len(sources) > 1)
        else:
            list_samples(source, section)  # knows what to say of it
            raise DataError(f"{source}: expected a folder of images, or a table")


def _named(before: str) -> Callable[[pa.Table], pa.Table]:
    """Ids with the source before them."""

    def named(piece: pa.Table) -> pa.Table:
        if not before:
            return piece
        ids = nfc_column(pa.array([before + id_ for id_ in piece["id"].to_pylist()], pa.string()))
        return piece.set_column(piece.schema.get_field_index("id"), "id", ids)

    return named


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122


def _matching(pattern: str, scratch: Path, notices: list[str], several: bool) -> Iterator[pa.Table]:
    """The images that a pattern means, in order of their ids."""
    fixed = _before_magic(pattern)
    others = Others()
    with closing(SortedNames(scratch)) as names:
        for found in glob.iglob(pattern, recursive=True):  # noqa: PTH207  names by the million
            if os.path.isdir(found) or is_litter_path(found.removeprefix(fixed)):  # noqa: PTH112
                continue
            (names if _is_picture(found) else others).append(found.removeprefix(fixed))
        if not len(names):
            shown = ", ".join(f"{number} {suffix or 'without a suffix'}" for suffix, number in others.suffixes.items())
            raise DataError(
                f"{pattern}: no image is called so" + (f"; there are other files: {shown}" if shown else "")
            )
        notices += [f"{pattern}: {words}" for words in others.passed_over()]
        for piece in _pieces(iter(names)):
            yield _files([fixed + name if several else name for name in piece], [fixed + name for name in piece])


def _before_magic(pattern: str) -> str:
    """The folders of a pattern before the first that is one, with a slash at the end; "" for none."""
    plain = ""
    for folder in pattern.split("/")[:-1]:
        if glob.has_magic(folder):
            break
        plain += f"{folder}/"
    return plain


def _listed(stdin: BinaryIO) -> Iterator[pa.Table]:
    """Paths on standard input, ended by zero bytes, where the first block has one, else by line ends."""
    first = stdin.read1(_BLOCK) if hasattr(stdin, "read1") else stdin.read(_BLOCK)
    end = b"\0" if b"\0" in first else b"\n"

    def blocks() -> Iterator[bytes]:
        yield first
        while block := stdin.read(_BLOCK):
            yield block

    listed = 0
    paths = (path.rstrip("\r\n") if end == b"\n" else path for path in split(blocks(), end))
    for piece in _pieces(path for path in paths if path.strip()):
        listed += len(piece)
        yield _files(piece, piece)
    if not listed:
        raise DataError("--data -: nothing was listed on standard input; expected a path a line")


def _files(names: Sequence[str], paths: Sequence[str]) -> pa.Table:
    """Images without labels, under these names. What is not there stays, to be found unreadable."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    bytes_N, mtime_ns_N = stat_files(absolute)
    try:
        ids = nfc_column(pa.array([name.removeprefix("./") for name in names], pa.string()))
    except UnicodeEncodeError as error:
        raise DataError(f"the file name {os.fsencode(error.object)!r} is not UTF-8; rename such files") from None
    empty = [""] * len(names)
    columns = {"id": ids, "path": absolute, "label": empty, "group": empty, "bytes": bytes_N, "mtime_ns": mtime_ns_N}
    return pa.table(columns)


def _pieces(names: Iterator[str]) -> Iterator[list[str]]:
    while piece := list(islice(names, _ROWS)):
        yield piece
