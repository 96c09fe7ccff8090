"""Files set aside: the first word about each stands, in the order in which they were met."""

from __future__ import annotations

from engine.quarantine import Fault, FaultKind, Quarantine

EMPTY = Fault(FaultKind.EMPTY, "is empty (0 bytes)")
DAMAGED = Fault(FaultKind.DAMAGED, "cannot be decoded: premature end")


def test_the_first_word_about_a_file_stands() -> None:
    bad = Quarantine()
    bad.add("b", EMPTY, "/photos/b.jpg")
    bad.add("a", DAMAGED)
    bad.add("b", DAMAGED, "/elsewhere/b.jpg")
    assert list(bad) == ["b", "a"] and bad["b"].fault is EMPTY
    assert [str(entry) for entry in bad.values()] == [
        "/photos/b.jpg: is empty (0 bytes)",
        "a: cannot be decoded: premature end",
    ]


def test_the_first_word_stands_and_several_are_shown_in_short() -> None:
    one = Quarantine()
    one.add("a", EMPTY), one.add("a", DAMAGED), one.add("b", DAMAGED)
    assert {id_: entry.fault for id_, entry in one.items()} == {"a": EMPTY, "b": DAMAGED}
    assert one.some(1) == "a: is empty (0 bytes) and 1 more" and Quarantine().some() == ""
