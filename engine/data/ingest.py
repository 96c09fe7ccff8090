"""From what the user points at to a manifest, doing again only what changed.

The manifest of the last time is kept as Parquet beside the data (or in a cache folder where the data is read-only). A
file with the path, size and modification time it had then keeps its hash and header; this is rsync's rule, and what
makes the second run a matter of listing alone. Labels, groups and folds are never cached: they are read afresh from
folder names or the table every time, so an edited table counts at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.cache import cache_places, load_table, save_table
from engine.data.headers import FACTS, read_headers
from engine.data.manifest import OK, SCHEMA, Manifest
from engine.data.sources.listing import list_samples
from engine.errors import DataError
from engine.recipe.sections import DataSection

Progress = Callable[[int, int], None]

_FORMAT = "3"  # of the cached facts: raise it when read_header() learns something, and every file is looked at again


def ingest(source: str, section: DataSection, progress: Progress | None = None) -> Manifest:
    """The manifest of a folder of images, or of a table, with bad files in it (see `Manifest.faults`) and with words
    about what was passed over or guessed (`Manifest.notices`).

    `source` is a training source, whose samples must have labels, when it is `section.train`. `progress(done, total)`
    is called with numbers of files as they are indexed, first with those that have not changed. When stopped
    half-way, what was indexed is kept for the next time.

    Raises DataError, saying what to mend, when there is no such source, the table cannot be used, no labels are found
    for training, or not a single file is usable.
    """
    listing = list_samples(source, section)
    listed = Manifest.build(listing.columns)
    manifest = _index(listed, os.path.abspath(source), section.cache, progress)  # noqa: PTH100  not resolved
    if not len(manifest.usable()):
        raise DataError(
            f"{source}: none of its {len(manifest)} images is usable; the first, {manifest.paths[0]}: "
            f"{manifest.faults[0]}"
        )
    return replace(manifest, notices=listing.notices)


def _index(listed: Manifest, source: str, cache: str, progress: Progress | None) -> Manifest:
    """`listed` with the facts of every file filled in, from the cache or the files; the cache is brought up to date."""
    root = source if os.path.isdir(source) else os.path.dirname(source)  # noqa: PTH112, PTH120
    places = cache_places(source, cache, "manifest")
    old = _load(places)
    known_N = _unchanged(listed.table, old, root)
    new_rows = np.flatnonzero(known_N < 0)
    facts = [old.select(FACTS.names)]
    done, total = len(listed) - len(new_rows), len(listed)
    found = listed.take(new_rows).paths
    if progress:
        progress(done, total)
    try:
        with closing(read_headers(found)) as batches:
            for batch in batches:
                facts.append(pa.Table.from_batches([batch]))
                done += batch.num_rows
                if progress:
                    progress(done, total)
    finally:  # also when interrupted: an hour of indexing is not done twice
        known_N[new_rows] = old.num_rows + np.arange(len(new_rows))
        all_facts = pa.concat_tables(facts)
        rows = np.flatnonzero(known_N < all_facts.num_rows)
        taken = all_facts.take(pa.array(known_N[rows]))
        columns = {name: listed.table[name].take(pa.array(rows)) for name in SCHEMA.names if name not in FACTS.names}
        manifest = Manifest.build(columns | {name: taken[name] for name in FACTS.names})
        if not manifest.table.equals(old.select(SCHEMA.names)):
            save_table(manifest.table, places, _FORMAT, {"root": root})
    return manifest


def _load(places: list[Path]) -> pa.Table:
    """The manifest of the last time with a column `key`, the path from its root; empty when there is none."""
    found = load_table(places, SCHEMA, _FORMAT)
    if found is None:
        return SCHEMA.empty_table().append_column("key", pa.array([], pa.string()))
    table, metadata = found
    return table.append_column("key", _below(metadata["root"], table["path"]))


def _unchanged(listed: pa.Table, old: pa.Table, root: str) -> NDArray[np.int64]:
    """For each listed row, the row of `old` that is the same file as it was; -1 for none.

    Files are known by their path from the root, so a data folder may move. What could not be used is looked at again: a
    file whose permissions were mended has neither a new size nor a new time.
    """
    if not old.num_rows:
        return np.full(listed.num_rows, -1, dtype=np.int64)
    match = pc.index_in(_below(root, listed["path"]), value_set=old["key"].combine_chunks())
    row_N = pc.fill_null(match, -1).to_numpy().astype(np.int64)
    same_N = row_N >= 0
    for name in ("bytes", "mtime_ns"):
        same_N &= old[name].to_numpy()[row_N] == listed[name].to_numpy()
    same_N &= pc.equal(old["status"], OK).to_numpy()[row_N]
    return np.where(same_N, row_N, -1)


def _below(root: str, paths: pa.ChunkedArray) -> pa.ChunkedArray:
    prefix = root.rstrip("/") + "/"
    return pc.if_else(pc.starts_with(paths, prefix), pc.utf8_slice_codeunits(paths, start=len(prefix)), paths)
