"""Atomic writes: the old file or the new one, never half, and nothing left lying about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.files import atomic_write, remove_leftovers, write_bytes, write_text


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_it_writes_makes_the_folder_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "가.txt"
    write_text(path, "한\n")
    write_text(path, "글\n")
    assert path.read_bytes() == "글\n".encode()
    assert names(path.parent) == ["가.txt"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_rename_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail(*args: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_the_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        events.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path.resolve() else "file")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_bytes(tmp_path / "a.bin", b"x")
    assert events == ["file", "rename", "folder"]


def test_the_temporary_name_keeps_the_extension(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.parquet") as temporary:
        assert temporary.suffix == ".parquet"
        assert temporary.parent == tmp_path
        temporary.touch()


def test_leftovers_of_a_killed_process_are_removed_and_only_those(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"x")
    write_bytes(tmp_path / "other-a.bin", b"x")
    with atomic_write(tmp_path / "b.bin") as temporary:
        temporary.touch()
        (tmp_path / temporary.name.replace("b.bin", "a.bin")).touch()  # as a kill in the middle would
        remove_leftovers(tmp_path / "a.bin")
        assert names(tmp_path) == sorted(["a.bin", "other-a.bin", temporary.name])
