"""The samples of whatever source the user names."""

from __future__ import annotations

import os
import re
import shlex

from engine.data.sources.folder import list_folder
from engine.data.sources.local import PICTURE_SUFFIXES, Listing, Purpose
from engine.data.sources.table import list_table
from engine.data.tables import TABLE_SUFFIXES
from engine.errors import DataError
from engine.recipe.sections import DataSection


def list_samples(source: str, section: DataSection) -> Listing:
    """The samples of a folder of images, or of a .csv, .tsv or .parquet table, as columns of the manifest.

    `source` is a training source, whose samples must have labels, when it is `section.train`. What `section` leaves out
    is left out of any source but `section.test`. Raises DataError or RecipeError, saying what to mend, when there is no
    such source or it cannot be used.
    """
    if not source:
        raise DataError("no data: set data.train, or data.test, to a folder or a .csv, .tsv or .parquet table")
    path = os.path.abspath(source)  # noqa: PTH100  not resolved: the user's own spelling stands in messages and paths
    if os.path.isdir(path):  # noqa: PTH112
        return list_folder(path, section, purpose_of(source, section))
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise DataError(f"{source}: an address. Download the data, and name the folder or table where it lies")
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(f"{source}: no such folder or table (looked for {path})")
    if path.lower().endswith(TABLE_SUFFIXES):
        return list_table(path, section, purpose_of(source, section))
    found = f", and this is {what}" if (what := _remedy(path)) else f" ending in {' or '.join(TABLE_SUFFIXES)}"
    raise DataError(f"{source}: expected a folder of images, or a table{found}")


_ARCHIVES = {
    (".zip",): "unzip -d {folder} {file}",
    (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst"): "tar -C {folder} -xf {file}",
    (".7z",): "7z x -o{folder} {file}",
    (".rar",): "unrar x {file} {folder}",
}
_PACKED_TABLES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}


def _remedy(path: str) -> str:
    """What a file is that is neither a folder nor a table, and what to do with it; "" where its name tells nothing."""
    name, quoted = path.lower(), shlex.quote(path)
    for suffixes, command in _ARCHIVES.items():
        if suffix := max((s for s in suffixes if name.endswith(s)), key=len, default=""):
            folder = shlex.quote(path[: -len(suffix)] or ".")
            made = f"mkdir -p {folder} && " if "-C" in command or "unrar" in command else ""
            return f"an archive. Unpack it, and name the folder: {made}{command.format(folder=folder, file=quoted)}"
    stem, suffix = os.path.splitext(path)  # noqa: PTH122
    if suffix.lower() in _PACKED_TABLES and stem.lower().endswith(TABLE_SUFFIXES):
        program = _PACKED_TABLES[suffix.lower()]
        return f"a compressed table. Unpack it, and name that: {program} -dc {quoted} > {shlex.quote(stem)}"
    if suffix.lower() in (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers", ".gsheet"):
        return "a workbook of a spreadsheet. Save its sheet as CSV (UTF-8), and name that"
    if suffix.lower() in PICTURE_SUFFIXES:
        return "one image. Name the folder that it lies in, or a table of images"
    if suffix.lower() in (".txt", ".dat", ".tab", ".psv"):
        return "text. If it is a table, let its name end in .csv, whatever stands between its columns"
    return ""


def purpose_of(source: str, section: DataSection) -> Purpose:
    """What a source is listed for."""
    if source == section.train:
        return "train"
    return "test" if source == section.test else "look"
