"""Which column of a table says what belongs together: a person, a session, a source.

Photos of one sender resemble each other beyond their class. Split between training and validation they make every
score too good, and who sees a table for the first time does not think of it. Names give some such columns away
(sender_id); the pictures tell of the rest: if the most similar picture of the same class shares a column's value far
more often than any picture of that class does, what the column says can be seen in the pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.advice.columns import words_of

LEAST_GROUPS = 10  # of fewer, a fold would be a few people
FEWEST_ROWS = 1.5  # rows a value, on average
LARGEST = 0.5  # share of the rows that the largest value may have
LIFT, SURE = 2.0, 5.0  # how many times as often as by chance, and standard deviations above it
_COMPARED = 6_000  # pictures, and of one class
_OF_A_CLASS = 1_500

_HINTS = (
    *("sender", "user", "patient", "subject", "person", "people", "participant", "session", "source", "author"),
    *("device", "camera", "photographer", "owner", "uploader", "seller", "customer", "client", "account", "site"),
    *("hospital", "video", "clip", "sequence", "burst", "lesion", "individual", "vehicle", "product", "item", "album"),
    *("group", "study", "series", "slide", "specimen", "identity", "scene", "trip", "donor", "worker", "annotator"),
    *("환자", "사용자", "작성자", "촬영자", "보낸", "세션", "기기", "카메라", "출처", "그룹"),
)


@dataclass(frozen=True)
class GroupColumn:
    """A column that may say what belongs together. `lift`: how many times as often as by chance the most similar
    picture of the same class has the same value, 0 where there are too few to say."""

    name: str
    values: int
    largest: int  # rows of the commonest value
    named: bool  # as groups are called
    lift: float
    sure: bool  # that the lift is no chance


def group_columns(
    columns: Mapping[str, Mapping[str, str]], ids: Sequence[str], labels: Sequence[str], hash_NB: NDArray[np.uint8]
) -> tuple[list[GroupColumn], list[GroupColumn]]:
    """Of columns (values by id), those to split by, the best first, and others that might be meant.

    Of several, that of the fewest values comes first: a user's sessions are all the user's.
    """
    classes = len(set(labels))
    found = []
    for name, value_of in columns.items():
        values = [value_of.get(id_, "").strip() for id_ in ids]
        counts = Counter(value for value in values if value)
        filled = sum(counts.values())
        if not counts or filled < FEWEST_ROWS * len(counts) or counts.most_common(1)[0][1] > LARGEST * filled:
            continue
        named = any(word.startswith(hint) for word in words_of(name) for hint in _HINTS)
        if len(counts) > classes or (named and len(counts) >= LEAST_GROUPS):
            lift, sure = _lift(values, labels, hash_NB)
            found.append(GroupColumn(name, len(counts), counts.most_common(1)[0][1], named, lift, sure))
    found.sort(key=lambda column: (not column.named, column.values))
    believed = [c for c in found if c.values >= LEAST_GROUPS and (c.named or (c.sure and c.lift >= LIFT))]
    return believed, [column for column in found if column not in believed]


def _lift(values: Sequence[str], labels: Sequence[str], hash_NB: NDArray[np.uint8]) -> tuple[float, bool]:
    """How many times as often as by chance a picture and the most similar one of its class have one value, and whether
    that can be relied on. Pictures are as similar as their hashes have bits in common."""
    words_NW = np.ascontiguousarray(hash_NB).view(np.uint64)
    rows_of: dict[str, list[int]] = {}
    for row in range(0, len(values), max(1, len(values) // _COMPARED)):
        if values[row]:
            rows_of.setdefault(labels[row], []).append(row)
    same, expected = 0, 0.0
    for rows in rows_of.values():
        rows = rows[:_OF_A_CLASS]
        if len(rows) < 2:
            continue
        apart_nn = sum(np.bitwise_count(word[:, None] ^ word).astype(np.int16) for word in words_NW[rows].T)
        np.fill_diagonal(apart_nn, np.iinfo(np.int16).max)
        nearest_n = apart_nn.argmin(1).tolist()
        same += sum(values[row] == values[rows[near]] for row, near in zip(rows, nearest_n, strict=True))
        counts = Counter(values[row] for row in rows)
        expected += sum(count * (count - 1) for count in counts.values()) / (len(rows) - 1)
    if not expected:
        return 0.0, False
    return same / expected, same - expected > SURE * np.sqrt(expected)
