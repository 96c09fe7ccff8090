"""Where samples are listed: folders and tables, each turned into the same columns of a manifest before anybody has
opened a file.

All names are brought to Unicode form NFC (a zip made on macOS holds NFD, where the same Korean name is other code
points), so that one class is one class and ids join with the user's tables; only `path` keeps the spelling on disk,
since that is what opens the file.
"""

from __future__ import annotations

import os

from engine.data.sources.folder import list_folder
from engine.data.sources.local import Columns
from engine.data.sources.table import list_table
from engine.data.tables import TABLE_SUFFIXES
from engine.errors import DataError
from engine.recipe.sections import DataSection


def list_samples(source: str, section: DataSection) -> Columns:
    """The samples of a folder of images, or of a .csv or .parquet table, as columns of the manifest.

    `source` is a training source, whose samples must have labels, when it is `section.train`. Raises DataError, saying
    what to mend, when there is no such source or it cannot be used.
    """
    training = source == section.train
    if not source:
        raise DataError("no data: set data.train, or data.test, to a folder or a .csv or .parquet table")
    path = os.path.abspath(source)  # noqa: PTH100  not resolved: the user's own spelling stands in messages and paths
    if os.path.isdir(path):  # noqa: PTH112
        return list_folder(path, training)
    if not os.path.exists(path):  # noqa: PTH110
        raise DataError(f"{source}: no such folder or table (looked for {path})")
    if path.lower().endswith(TABLE_SUFFIXES):
        return list_table(path, section, training)
    raise DataError(f"{source}: expected a folder of images, or a table ending in {' or '.join(TABLE_SUFFIXES)}")
