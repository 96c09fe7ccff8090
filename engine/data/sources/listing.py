"""The samples of whatever source the user names."""

from __future__ import annotations

import os

from engine.data.sources.folder import list_folder
from engine.data.sources.local import Listing, Purpose
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
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(f"{source}: no such folder or table (looked for {path})")
    if path.lower().endswith(TABLE_SUFFIXES):
        return list_table(path, section, purpose_of(source, section))
    raise DataError(f"{source}: expected a folder of images, or a table ending in {' or '.join(TABLE_SUFFIXES)}")


def purpose_of(source: str, section: DataSection) -> Purpose:
    """What a source is listed for."""
    if source == section.train:
        return "train"
    return "test" if source == section.test else "look"
