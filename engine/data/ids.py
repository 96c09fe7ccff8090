"""Which image is meant by a name: one rule for everybody who reads a list that somebody wrote.

People write the same image as TEST_00000 in one table, as test/TEST_00000.jpg in a folder and with backslashes in a
third place. A name means the sample

1. whose id it is (in any Unicode form); else
2. whose id it is as a path; else
3. whose id or file lies at that end of a path: b/1.jpg and 1.jpg mean a/b/1.jpg, and c/1.jpg means 1.jpg where the
   sample's id names no folder; else
4. the same without image suffixes: 1 and 1.png mean 1.jpg.

The first of these that any sample answers to decides. Folders that contradict each other (a/1.jpg, b/1.jpg) never
match, though only one image may be called so: the other may just not be there any more. What could be several samples
is never guessed at: a list to act by is refused, with the name (`find_samples`); where two lists are put side by side,
each image to at most one name, it finds none (`find_ids`).
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence

from engine.data.manifest import Manifest
from engine.data.sources.local import PICTURE_SUFFIXES
from engine.errors import DataError
from engine.text import nfc, some

_Rows = tuple[int, ...]


def find_samples(manifest: Manifest, names: Sequence[str], what: str) -> list[int | None]:
    """For each name the row of the sample it means; None where there is none. Several names may mean one sample.

    Raises DataError, which calls the list `what`, for a name that may mean several samples.
    """
    found: list[int | None] = []
    for name, rows in zip(names, _meant(names, manifest.ids, manifest.paths), strict=True):
        if len(rows) > 1:
            shown = some([manifest.ids[row] for row in rows], 3)
            raise DataError(f"{what}: {name!r} may be any of {len(rows)} images: {shown}. Write more of its path")
        found.append(rows[0] if rows else None)
    return found


def find_ids(wanted: Sequence[str], ids: Sequence[str]) -> list[str | None]:
    """For each of `wanted` its counterpart in `ids`; None where there is none or more than one, and for names of which
    two mean the same."""
    rows = [rows[0] if len(rows) == 1 else None for rows in _meant(wanted, ids)]
    claims = Counter(rows)
    return [ids[row] if row is not None and claims[row] == 1 else None for row in rows]


def _meant(names: Sequence[str], ids: Sequence[str], paths: Sequence[str] = ()) -> list[_Rows]:
    """For each name the rows of the samples it may mean, by the strictest way in which there are any."""
    meant: dict[str, _Rows] = {}
    left = dict.fromkeys(names)
    for rows_of in (_by_text, _by_path, _by_end, _by_stem):
        if not left:
            break
        meant |= {name: rows for name, rows in rows_of(list(left), ids, paths).items() if rows}
        left = dict.fromkeys(name for name in left if name not in meant)
    return [meant.get(name, ()) for name in names]


def _by_text(names: Sequence[str], ids: Sequence[str], _: Sequence[str]) -> dict[str, _Rows]:
    return _equal([nfc(name) for name in names], names, map(nfc, ids))


def _by_path(names: Sequence[str], ids: Sequence[str], _: Sequence[str]) -> dict[str, _Rows]:
    return _equal([_path(name) for name in names], names, map(_path, ids))


def _equal(keys: Sequence[str], names: Sequence[str], known: Iterator[str]) -> dict[str, _Rows]:
    wanted = set(keys) - {""}
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(known):
        if key in wanted:
            rows.setdefault(key, []).append(row)
    return {name: tuple(rows.get(key, ())) for name, key in zip(names, keys, strict=True)}


def _by_end(names: Sequence[str], ids: Sequence[str], paths: Sequence[str], stems: bool = False) -> dict[str, _Rows]:
    form = _stem if stems else _path
    whole = {name: form(name) for name in names}
    ends = {end for path in whole.values() for end in _ends(path)}
    wanted = set(whole.values()) - {""}
    longer: dict[str, set[int]] = {}  # rows whose id or path ends with a name
    shorter: dict[str, list[int]] = {}  # rows whose id a name ends with
    for row, id_ in enumerate(ids):
        own = form(id_)
        if own in ends:
            shorter.setdefault(own, []).append(row)
        for path in (own, form(paths[row])) if paths else (own,):
            for end in wanted.intersection(_ends(path)):
                longer.setdefault(end, set()).add(row)
    return {
        name: tuple(sorted({*longer.get(path, ()), *(row for end in _ends(path) for row in shorter.get(end, ()))}))
        for name, path in whole.items()
    }


def _by_stem(names: Sequence[str], ids: Sequence[str], paths: Sequence[str]) -> dict[str, _Rows]:
    return _by_end(names, ids, paths, stems=True)


def _path(text: str) -> str:
    """A path in one spelling: slashes, no empty parts, no `.`; an absolute one without its root."""
    return "/".join(part for part in nfc(text).replace("\\", "/").split("/") if part not in ("", "."))


def _stem(text: str) -> str:
    path = _path(text)
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in PICTURE_SUFFIXES else path


def _ends(path: str) -> Iterator[str]:
    """a/b/c, b/c, c."""
    while path:
        yield path
        path = path.partition("/")[2]
