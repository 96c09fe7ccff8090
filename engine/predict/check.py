"""Whether a submission is what its sample asks for, before somebody else refuses it, or takes it and scores it wrongly.

Names are compared letter for letter, as a scorer does that joins two tables. Everything that is wrong is found at once:
there may be few tries.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.data.sources.table import list_labels
from engine.data.tables import UserTable, open_table
from engine.errors import DataError
from engine.recipe.sections import DataSection
from engine.text import count, nfc, some

_SUM_TOLERANCE = 1e-6
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOTHING = ("", "nan", "na", "none", "null", "n/a")


def check(submission: Path, sample: Path, known: Collection[str] = ()) -> list[str]:
    """What is wrong with a submission, in words, one finding each; [] when it fits its sample.

    `known`: the labels that may be answered, where labels are asked for; () where nobody says. Raises DataError for a
    file that cannot be read at all.
    """
    given, wanted = _opened(submission), _opened(sample)
    rows, asked = given.rows(), wanted.rows()
    ids = [row[0] for row in rows]
    found = [f"the file is unlike the sample: {notice}" for notice in _unlike(given, wanted)]
    found += [*_columns(given.written, wanted.written), *_ids(ids, [row[0] for row in asked])]
    place = {name: column for column, name in enumerate(given.written)}
    values = {name: [row[place[name]].strip() for row in rows] for name in wanted.written[1:] if name in place}
    if len(wanted.written) > 2 or _are_fractions([row[1].strip() for row in asked]):
        whole = len(values) == len(wanted.written) - 1 > 1
        return [*found, *_numbers(ids, values, whole)]
    several = max((len(row[1].split()) for row in asked), default=1)
    return [*found, *(each for column in values.values() for each in _labels(ids, column, several, known))]


def labels_in(path: Path) -> list[str]:
    """The labels that a table holds, for `check`. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such table of labels")
    return sorted(set(list_labels(str(path), DataSection()).values()) - {""})


def _opened(path: Path) -> UserTable:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    table = open_table(str(path))
    if len(table.written) < 2:
        raise DataError(f"{path}: expected the ids first and at least one further column")
    return table


def _unlike(given: UserTable, wanted: UserTable) -> list[str]:
    """What the one was read with (semicolons, a header that stands there twice) and the other was not."""

    def said(table: UserTable) -> list[str]:
        return [notice.removeprefix(f"{table.path}: ") for notice in table.notices]

    return [notice for notice in said(given) if notice not in said(wanted)]


def _columns(given: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    if given[0] != wanted[0]:
        yield f"the first column is called {given[0]!r}, in the sample {wanted[0]!r}"
    missing = [name for name in wanted[1:] if name not in given[1:]]
    extra = [name for name in given[1:] if name not in wanted[1:]]
    if missing:
        yield f"{count(missing, 'column')} missing: {some(missing)}"
    if extra:
        yield f"{count(extra, 'column')} that the sample does not have: {some(extra)}"
    if not missing and not extra and given[1:] != wanted[1:]:
        first = next(place for place in range(1, len(wanted)) if given[place] != wanted[place])
        yield f"columns in another order: {given[first]!r} where the sample has {wanted[first]!r}"


def _ids(given: Sequence[str], wanted: Sequence[str]) -> Iterator[str]:
    there, asked = Counter(given), set(wanted)
    missing, extra = [id_ for id_ in wanted if id_ not in there], [id_ for id_ in there if id_ not in asked]
    twice = [id_ for id_, times in there.items() if times > 1]
    if missing:
        yield f"{count(missing, 'id')} missing: {some(missing)}"
    if extra:
        yield f"{count(extra, 'id')} that the sample does not ask for: {some(extra)}"
    if twice:
        yield f"{count(twice, 'id')} more than once: {some(twice)}"
    if not (missing or extra or twice) and list(given) != list(wanted):
        row = next(row for row, id_ in enumerate(wanted) if given[row] != id_)
        yield f"rows in another order: {given[row]!r} where the sample has {wanted[row]!r}"


def _are_fractions(values: Sequence[str]) -> bool:
    filled = [value for value in values if value.casefold() not in _NOTHING]
    return any("." in value for value in filled) and all(map(_NUMBER.fullmatch, filled))


def _numbers(ids: Sequence[str], values: Mapping[str, Sequence[str]], whole: bool) -> Iterator[str]:
    """What is wrong with probabilities; `whole`: rows have all of the columns, so they sum to 1."""
    wrong: dict[str, list[str]] = {}
    for name, column in values.items():
        for id_, value in zip(ids, column, strict=True):
            if what := _fault_of(value):
                wrong.setdefault(what, []).append(f"{value!r} ({id_!r}, column {name!r})")
    for what, cells in wrong.items():
        yield f"{count(cells, 'value')} {what}: {some(cells, 3, str)}"
    if whole and not wrong.keys() - {_BELOW, _ABOVE}:
        sums_N = np.sum([[float(value) for value in column] for column in values.values()], axis=0)
        distance_N = np.abs(sums_N - 1)
        if (far := int((distance_N > _SUM_TOLERANCE).sum())) > 0:
            worst = int(distance_N.argmax())
            yield f"{count(far, 'row')} that do not sum to 1, farthest {ids[worst]!r}: {sums_N[worst]:.8g}"


_BELOW, _ABOVE = "below 0", "above 1"


def _fault_of(value: str) -> str:
    """What is wrong with a probability as it is written; "" for nothing."""
    if value.casefold() in _NOTHING:
        return "empty or NaN"
    if _NUMBER.fullmatch(value):
        number = float(value)
        return _BELOW if number < 0 else _ABOVE if number > 1 else ""
    return "with a decimal comma (write a point)" if re.fullmatch(r"[+-]?\d+,\d+", value) else "that are no numbers"


def _labels(ids: Sequence[str], values: Sequence[str], most: int, known: Collection[str]) -> Iterator[str]:
    """What is wrong with labels, one a cell or, where the sample has several, so many with blanks between them."""
    allowed = {nfc(label) for label in known}
    several = most > 1 and not any(" " in label for label in allowed)
    empty = [
        id_
        for id_, value in zip(ids, values, strict=True)
        if not value or (value.casefold() in _NOTHING and nfc(value) not in allowed)
    ]
    cells = [(id_, value.split() if several else [value]) for id_, value in zip(ids, values, strict=True) if value]
    long = [id_ for id_, words in cells if len(words) > most]
    twice = [id_ for id_, words in cells if len(set(words)) < len(words)]
    strange = sorted({word for _, words in cells for word in words if nfc(word) not in allowed})
    if empty:
        yield f"{count(empty, 'label')} empty: {some(empty)}"
    if long:
        yield f"{count(long, 'row')} with more than {count(most, 'label')}: {some(long)}"
    if twice:
        yield f"{count(twice, 'row')} with a label twice: {some(twice)}"
    if allowed and strange:
        yield f"{count(strange, 'label')} that nobody knows: {some(strange)}; known are {some(sorted(allowed))}"
