"""Which samples somebody means by a name: an id, a file name, or the end of a path."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from engine.data.manifest import Manifest
from engine.data.names import nfc
from engine.errors import DataError


def find_samples(manifest: Manifest, names: Sequence[str], what: str) -> list[int | None]:
    """For each name the row of the sample it means; None where there is none.

    A name is an id, or the last part or parts of a sample's id or path, with or without the file's suffix; backslashes
    count as slashes. Raises DataError, which calls the list `what`, for a name that means several samples.
    """
    if not names:
        return []
    wanted = {_plain(name) for name in names}
    rows: dict[str, list[int]] = {}
    ids: dict[str, int] = {}
    for row, (id_, path) in enumerate(zip(manifest.ids, manifest.paths, strict=True)):
        if nfc(id_) in wanted:
            ids[nfc(id_)] = row
        for end in {*_ends(_plain(id_)), *_ends(_plain(path))} & wanted:
            rows.setdefault(end, []).append(row)
    found = []
    for name in names:
        plain = _plain(name)
        several = [] if plain in ids else rows.get(plain, [])
        if len(several) > 1:
            shown = ", ".join(repr(manifest.ids[row]) for row in several[:3])
            raise DataError(
                f"{what}: {name!r} may be any of {len(several)} images: {shown}{', ...' if len(several) > 3 else ''}. "
                "Write more of its path"
            )
        found.append(ids[plain] if plain in ids else several[0] if several else None)
    return found


def _plain(text: str) -> str:
    return nfc(text).replace("\\", "/").removeprefix("./")


def _ends(path: str) -> Iterator[str]:
    """a/b/c.jpg, b/c.jpg, c.jpg, and the same without .jpg."""
    while path:
        yield path
        yield posixpath.splitext(path)[0]
        path = path.partition("/")[2]
