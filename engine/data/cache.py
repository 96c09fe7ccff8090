"""Where what was found out about files is kept, so that it is found out once.

Beside the data, so that it goes with it, or in the user's own cache folder where the data is read-only. A cache that
cannot be read is made again and one that cannot be written is done without: it only ever saves time.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.files import atomic_write
from engine.system import cache_folder

log = logging.getLogger(__name__)


def cache_places(source: str, cache: str, what: str) -> list[Path]:
    """Where the table `what` about a folder or table `source` (absolute) may be, best first: in the folder asked for,
    or beside the data, then in the user's own cache folder."""
    key = hashlib.blake2b(source.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    elsewhere = f"{Path(source).name}-{key}.{what}.parquet"
    if cache:
        return [Path(cache).absolute() / elsewhere]
    if Path(source).is_dir():
        beside = Path(source) / ".engine" / f"{what}.parquet"
    else:
        beside = Path(source).parent / ".engine" / f"{Path(source).name}.{what}.parquet"
    user = cache_folder() / elsewhere
    # root could write to a folder that is marked read-only, and should not
    marked_read_only = not beside.parent.parent.stat().st_mode & 0o222
    return [user] if marked_read_only else [beside, user]


def load_table(places: list[Path], schema: pa.Schema, format_: str) -> tuple[pa.Table, dict[str, str]] | None:
    """The newest of the tables there that can be read and is of this schema and format, and its metadata."""
    existing = sorted((place for place in places if place.is_file()), key=lambda place: -place.stat().st_mtime_ns)
    for place in existing:
        try:
            table = pq.read_table(place)
        except (OSError, pa.ArrowException) as error:
            log.warning("%s: cannot read this cache (%s); it is made again", place, error)
            continue
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("format") == format_ and table.schema.equals(schema):
            return table.replace_schema_metadata(), metadata
    return None


def save_table(table: pa.Table, places: list[Path], format_: str, metadata: dict[str, str] | None = None) -> None:
    """Write the table to the first place that takes it, whole or not at all."""
    table = table.replace_schema_metadata({"format": format_, **(metadata or {})})
    for place in places:
        try:
            with atomic_write(place) as temporary:
                pq.write_table(table, temporary, compression="zstd")
        except OSError as error:
            log.info("%s: cannot keep what was found out here (%s)", place, error)
        else:
            return
    log.warning("what was found out could be kept in none of %s; set data.cache", ", ".join(map(str, places)))
