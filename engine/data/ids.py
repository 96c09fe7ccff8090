"""Which image is meant by a name: one rule for everybody who reads a list that somebody wrote.

People write the same image as TEST_00000 in one table, as test/TEST_00000.jpg in a folder and with backslashes in a
third place. A name means the sample

1. whose id it is, letter for letter; else
2. whose id it is in another Unicode form; else
3. whose id it is as a path; else
4. whose id or file lies at that end of a path: b/1.jpg and 1.jpg mean a/b/1.jpg, and c/1.jpg means 1.jpg where the
   sample's id names no folder; else
5. the same where the one, the other or both lack the suffix of an image: 1 and 1.png mean 1.jpg. Nothing else behind a
   dot is a suffix (P1.left, 1.2.826.0.1), and no more than one is taken off (a.jpg means a.jpg.png, a does not).

The first of these that any sample answers to decides, so an image that is called exactly so is never passed over for
one that is nearly. Folders that contradict each other (a/1.jpg, b/1.jpg) never match, though only one image may be
called so: the other may just not be there any more. What could be several samples is refused, with the name and the
samples. So is a name that no image has but one nearly has: with zeros in front (1, 1.0 and 0001, as spreadsheets and
pandas mangle them), letters in another case, spaces around it. To pass it over would be as much of a guess as to take
it.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from engine.data.manifest import Manifest
from engine.data.sources.local import PICTURE_SUFFIXES
from engine.errors import DataError
from engine.text import nfc, some

_Rows = tuple[int, ...]
_Way = Callable[[Sequence[str], Sequence[str], Sequence[str]], dict[str, _Rows]]
"""(names, ids, paths) -> for each name the rows of the samples that it may mean."""


def find_samples(manifest: Manifest, names: Sequence[str], what: str) -> list[int | None]:
    """For each name the row of the sample it means; None where there is none. Several names may mean one sample.

    Raises DataError, which calls the list `what`, for a name that may mean several samples, or nearly means one.
    """
    return [found and found[0] for found in _meant(names, manifest.ids, manifest.paths, what)]


def find_ids(wanted: Sequence[str], ids: Sequence[str], what: str) -> list[str | None]:
    """For each of `wanted`, which differ, its counterpart in `ids`; None where there is none.

    No two have the same counterpart: the one that is nearer to it has it (1.jpg, where 1.png is wanted, too). Raises
    DataError, which calls the list `what`, where they are equally near, and as `find_samples` does.
    """
    meant = _meant(wanted, ids, (), what)
    nearest: dict[int, int] = {}
    for row, way in filter(None, meant):
        nearest[row] = min(way, nearest.get(row, way))
    has_N = [found if found and nearest[found[0]] == found[1] else None for found in meant]
    claims = Counter(row for row, _ in filter(None, has_N))
    if shared := [row for row, times in claims.items() if times > 1]:
        names = [name for name, found in zip(wanted, has_N, strict=True) if found and found[0] == shared[0]]
        raise DataError(f"{what}: {some(names, 3)} may each be {ids[shared[0]]!r}. Write names as that image is called")
    named = {row: ids[row] for row in sorted(claims)}  # in their order: they may be read from a file
    return [named[found[0]] if found else None for found in has_N]


def without_suffix(name: str) -> str:
    """A path without the suffix of an image, where it has one: P1 of P1.JPG, and P1.left as it is."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in PICTURE_SUFFIXES else name


def _meant(names: Sequence[str], ids: Sequence[str], paths: Sequence[str], what: str) -> list[tuple[int, int] | None]:
    """For each name the row of the sample it means, and the number of the way in which it does, the strictest."""
    meant: dict[str, tuple[int, int]] = {}
    left = dict.fromkeys(names)
    for number, way in enumerate(_WAYS):
        for name, rows in way(list(left), ids, paths).items() if left else ():
            if len(rows) > 1:
                shown = some([ids[row] for row in rows], 3)
                raise DataError(f"{what}: {name!r} may be any of {len(rows)} images: {shown}. Write more of its path")
            if rows:
                meant[name] = (rows[0], number)
        left = dict.fromkeys(name for name in left if name not in meant)
    named = {row for row, _ in meant.values()}
    for name, rows in _by_end(list(left), ids, paths, _blurred).items() if left else ():
        if near := [ids[row] for row in rows if row not in named]:
            raise DataError(
                f"{what}: {name!r} is no image's name, but nearly that of {some(near, 3)}: they "
                "differ in zeros (a spreadsheet or pandas takes 0001 for 1 or 1.0), in capitals or spaces. Write the "
                "list as the images are called, or remove the name"
            )
    return [meant.get(name) for name in names]


def _equal(names: Sequence[str], ids: Sequence[str], _: Sequence[str], form: Callable[[str], str]) -> dict[str, _Rows]:
    forms = {name: form(name) for name in names}
    wanted = set(forms.values()) - {""}
    rows: dict[str, list[int]] = {}
    for row, id_ in enumerate(ids):
        if (own := form(id_)) in wanted:
            rows.setdefault(own, []).append(row)
    return {name: tuple(rows.get(own, ())) for name, own in forms.items()}


def _by_end(
    names: Sequence[str], ids: Sequence[str], paths: Sequence[str], forms: Callable[[str], set[str]]
) -> dict[str, _Rows]:
    whole = {name: forms(name) - {""} for name in names}
    wanted = {path for own in whole.values() for path in own}
    ends = {end for path in wanted for end in _ends(path)}
    longer: dict[str, set[int]] = {}  # rows whose id or path ends with a name
    shorter: dict[str, set[int]] = {}  # rows whose id a name ends with
    for row, id_ in enumerate(ids):
        own = forms(id_)
        for path in own & ends:
            shorter.setdefault(path, set()).add(row)
        for path in own | forms(paths[row]) if paths else own:
            for end in wanted.intersection(_ends(path)):
                longer.setdefault(end, set()).add(row)
    return {
        name: tuple(sorted(set().union(*(_rows_of(path, longer, shorter) for path in own))))
        for name, own in whole.items()
    }


def _rows_of(path: str, longer: dict[str, set[int]], shorter: dict[str, set[int]]) -> set[int]:
    return longer.get(path, set()).union(*(shorter.get(end, set()) for end in _ends(path)))


def _path(text: str) -> str:
    """A path in one spelling: slashes, no empty parts, no `.`; an absolute one without its root."""
    return "/".join(part for part in nfc(text).replace("\\", "/").split("/") if part not in ("", "."))


def _as_written(text: str) -> set[str]:
    return {_path(text)}


def _with_and_without_suffix(text: str) -> set[str]:
    return {_path(text), without_suffix(_path(text))}


def _blurred(text: str) -> set[str]:
    """As somebody may have written it who did not look closely, or a program that took it for a number."""
    path = _path(unicodedata.normalize("NFKC", text).casefold())
    folder, _, name = path.rpartition("/")
    name = re.sub(r"^0*(\d+)(\.0+)?$", r"\1", without_suffix(name.strip()).strip())
    return {f"{folder}/{name}" if folder else name}


def _ends(path: str) -> Iterator[str]:
    """a/b/c, b/c, c."""
    while path:
        yield path
        path = path.partition("/")[2]


_WAYS: tuple[_Way, ...] = (
    partial(_equal, form=str),
    partial(_equal, form=nfc),
    partial(_equal, form=_path),
    partial(_by_end, forms=_as_written),
    partial(_by_end, forms=_with_and_without_suffix),
)
