"""Sources of bytes: what a row holds, or why it cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from engine.kernels import files
from engine.kernels.files import Content
from engine.loader.source import Files, Memory, Source
from engine.quarantine import Fault, FaultKind

EMPTY = Fault(FaultKind.EMPTY, "is empty (0 bytes)")


@pytest.fixture(params=["C++", "Python"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled reader of files and without."""
    if request.param == "Python":
        monkeypatch.setattr(files, "available", lambda: False)
    elif not files.available():
        pytest.skip(files.why_not())


def held(contents: Sequence[Content | Fault]) -> list[bytes | Fault]:
    return [one if isinstance(one, Fault) else bytes(one) for one in contents]


def test_files_are_read_by_row_in_any_order(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(b"photo %d" % i)
    source: Source = Files([str(tmp_path / f"{i}") for i in range(3)])
    assert len(source) == 3 and source.where(1) == str(tmp_path / "1")
    assert held(source.read(np.array([2, 0, 2]))) == [b"photo 2", b"photo 0", b"photo 2"]


def test_what_cannot_be_read_is_a_fault_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"good")
    (tmp_path / "empty").touch()
    source = Files([str(tmp_path / name) for name in ("good", "empty", "missing", ".")])
    good, empty, missing, folder = source.read(np.arange(4))
    assert held([good]) == [b"good"] and empty == EMPTY
    assert missing == Fault(FaultKind.UNREADABLE, "cannot be read: No such file or directory")
    assert folder == Fault(FaultKind.UNREADABLE, "cannot be read: Is a directory")


def test_images_in_memory_are_a_source_that_lies_nowhere() -> None:
    source: Source = Memory([b"one", b"", b"three"])
    assert len(source) == 3 and source.where(2) == ""
    assert source.read(np.array([2, 1])) == [b"three", EMPTY]


def test_a_row_that_is_not_there_is_no_fault_of_a_file() -> None:
    with pytest.raises(IndexError):
        Memory([b"one"]).read(np.array([1]))
