"""Lists that are too long for memory: names in order, and names that come twice."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa

from engine.data.spill import Hashes, SortedNames, hashes_of, split
from engine.text import nfc

NAMES = [f"{folder}/{i}\n.jpg" for i in range(40) for folder in ("b", "\uac00", "\u1100\u1161", "a b", "\udce9")]


def test_names_come_in_order_however_many_are_in_memory_and_leave_nothing_behind(tmp_path: Path) -> None:
    expected = sorted(NAMES, key=lambda name: (nfc(name), name))
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    for run in (7, len(NAMES), 10_000):
        names = SortedNames(tmp_path / str(run), run)
        for name in shuffled:
            names.append(name)
        assert list(names) == expected and list(names) == expected and len(names) == len(NAMES)
        assert (tmp_path / str(run)).exists() == (run <= len(NAMES))  # few stay in memory
        names.close()
        assert not list(tmp_path.glob("*/*"))


def test_blocks_of_any_length_are_the_same_names() -> None:
    text = "a.jpg\n\n가/b c.jpg\nd".encode()
    for size in (1, 3, 100):
        blocks = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(split(blocks, b"\n")) == ["a.jpg", "", "가/b c.jpg", "d"]


def test_hashes_that_come_twice_are_found_in_any_bucket(tmp_path: Path, monkeypatch: object) -> None:
    hashes = Hashes(tmp_path / "hashes")
    hashes.add(pa.array([str(i) for i in range(1000)]))
    assert hashes.repeated() == set()
    hashes.add(pa.array(["17", "new", "999", "17"]))
    for rows in (64, 10_000):
        import engine.data.spill

        monkeypatch.setattr(engine.data.spill, "_HASHES", rows)  # type: ignore[attr-defined]
        assert hashes.repeated() == set(hashes_of(pa.array(["17", "999"])).tolist())
    hashes.close()
    assert not list(tmp_path.iterdir())
