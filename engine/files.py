"""Files that are either the old one or the new one, never half of each.

Written to a hidden temporary name in the same folder (a rename across file systems would be a copy), synced, renamed,
and then the folder is synced too, because the rename lives there. Writing in place would be simpler and would lose the
previous checkpoint when the power goes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = ".writing-"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error it becomes `path`, synced to the disk.

    The folder is made when missing. On an error the temporary file is removed and `path` stays as it was. The
    temporary name ends like `path` does, for writers that look at the extension.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105  the one place, by the name tests can break
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8 with \\n line ends."""
    write_bytes(path, content.encode("utf-8"))


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that a killed process left behind. Only for the one process that writes it."""
    for leftover in path.parent.glob(f"{_PREFIX}*-{path.name}"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
