"""Columns that say what belongs together are found by their names and in the pictures, others are left alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.advice.groups import GroupColumn, group_columns

ROWS, SENDERS = 240, 40
IDS = [str(i) for i in range(ROWS)]
RANDOM = np.random.default_rng(0)
LABELS = [str(value) for value in RANDOM.integers(0, 4, ROWS)]
SENDER = RANDOM.integers(0, SENDERS, ROWS)


def hashes(noise: float, of_sender: NDArray[np.int64] = SENDER) -> NDArray[np.uint8]:
    """256 bits for each picture: its sender's, of which a share is drawn anew."""
    bits = RANDOM.integers(0, 2, (SENDERS, 256), dtype=np.uint8)[of_sender]
    drawn = RANDOM.random(bits.shape) < noise
    bits[drawn] = RANDOM.integers(0, 2, int(drawn.sum()), dtype=np.uint8)
    return np.packbits(bits, axis=1)


def found(columns: dict[str, list[object]], hash_NB: NDArray[np.uint8]) -> tuple[list[GroupColumn], list[GroupColumn]]:
    by_id = {name: dict(zip(IDS, map(str, values), strict=True)) for name, values in columns.items()}
    return group_columns(by_id, IDS, LABELS, hash_NB)


def test_an_unknown_name_is_found_in_the_pictures() -> None:
    ((column,), others) = found({"qx": SENDER.tolist()}, hashes(0.5))
    assert (column.name, column.values, column.named, column.sure) == ("qx", SENDERS, False, True)
    assert column.lift > 5 and not others


def test_an_unknown_name_that_no_picture_shows_is_only_mentioned() -> None:
    believed, (column,) = found({"qx": SENDER.tolist()}, hashes(1.0))
    assert not believed and column.name == "qx" and not column.sure


def test_a_name_is_enough() -> None:
    for name in ("sender_id", "patientId", "user", "Device", "촬영자"):
        (column,), _ = found({name: SENDER.tolist()}, hashes(1.0))
        assert column.name == name and column.named


def test_of_two_the_coarser_is_taken() -> None:
    sessions = [f"{sender}-{i % 2}" for i, sender in enumerate(SENDER)]
    believed, _ = found({"session": sessions, "user": SENDER.tolist()}, hashes(0.5))
    assert [column.name for column in believed] == ["user", "session"]


def test_what_is_no_group_is_left_alone() -> None:
    columns = {
        "user_note": IDS,  # another value in every row
        "kids": [i % 2 for i in range(ROWS)],  # fewer values than classes
        "super_class": [label in "01" for label in LABELS],
        "source": [0] * 200 + list(range(ROWS - 200)),  # nearly all of one
        "device": [""] * ROWS,
    }
    assert found(columns, hashes(0.5)) == ([], [])


def test_the_class_does_not_count_as_likeness() -> None:
    """Pictures of a class look alike, and a column that goes with the class must not profit from that."""
    of_class = np.array([int(label) for label in LABELS])
    column = [f"{label}{i % 3}" for i, label in enumerate(LABELS)]
    believed, (mentioned,) = found({"qx": column}, hashes(0.5, of_class))
    assert not believed and mentioned.lift < 1.5
