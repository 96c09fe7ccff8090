"""Atomic writes: the old file or the new one, never half, and nothing left lying about."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from engine.errors import DataError, StorageError
from engine.files import as_written, atomic_write, expanded, remove_leftovers, storage_errors, write_bytes, write_text


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


# -- what the user calls a file


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("~", "/home/me"),
        ("~/a", "/home/me/a"),
        ("$HOME/a", "/home/me/a"),
        ("${HOME}s/$HOME", "/home/mes//home/me"),
        ("a/~", "a/~"),
        ("~nobody-of-that-name/a", "~nobody-of-that-name/a"),
        ("a$/$1.5 $ 3%", "a$/$1.5 $ 3%"),
        ("$$HOME", "$HOME"),
        ("$TILDE", "/home/me/b"),
        ("", ""),
    ],
)
def test_paths_are_what_a_shell_makes_of_them(written: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TILDE", "~/b")
    assert expanded(written) == path
    assert Path(expanded(as_written(path))) == Path(path)


@pytest.mark.parametrize("path", ["~", "~/$x", "$HOME", "a$$b", "~$", "${a}"])
def test_a_path_that_is_written_out_is_read_as_it_is(path: str) -> None:
    assert Path(expanded(as_written(path))) == Path(path)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCRATCH", raising=False)
    for text in ("$SCRATCH/a", "a${SCRATCH}"):
        with pytest.raises(ValueError, match=r"no variable SCRATCH: .* \$\$ for a dollar sign"):
            expanded(text)


def test_a_home_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # a user of a container, without an entry
    with pytest.raises(ValueError, match="set HOME"):
        expanded("~/a")


# -- a disk that takes no more


def _safetensors(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(LARGE // 4)}, path)


def _torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(LARGE // 4)}, file)


def _parquet(path: Path) -> None:
    pq.write_table(pa.table({"a": np.random.default_rng(0).random(LARGE // 8)}), path)


def _plain(path: Path) -> None:
    path.write_bytes(bytes(LARGE))


LARGE, LIMIT = 2**20, 2**18


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond `LIMIT`: what a full disk is to a writer, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("writer", [_safetensors, _torch, _parquet, _plain])
@pytest.mark.usefixtures("small_disk")
def test_whatever_writes_a_file_that_does_not_fit_is_one_error_and_loses_nothing(
    tmp_path: Path, writer: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(StorageError) as caught, atomic_write(path, LARGE) as temporary:
        writer(temporary)
    assert str(path) in str(caught.value)
    assert "1.0 MiB" in str(caught.value)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.usefixtures("small_disk")
def test_what_is_appended_and_does_not_fit_is_the_same_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(StorageError, match=r"log\.jsonl"), storage_errors(path), path.open("ab") as file:
        file.write(bytes(LARGE))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on / (.*): .*a.bin needs 3.0 MiB, .* MiB are free"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "is read-only"),
        (errno.EACCES, "may not be written to"),
        (errno.EIO, "does not answer (Input/output error)"),
        (errno.ESTALE, "mount it again"),
    ],
)
def test_each_fault_of_a_disk_has_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)  # where a disk that promised room takes it back
    with pytest.raises(StorageError, match=words.replace("(", r"\(").replace(")", r"\)")) as caught:
        write_bytes(tmp_path / "a.bin", bytes(3 * 2**20))
    assert "What was written before is whole" in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_the_words_of_libraries(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StorageError, match="no space left"), storage_errors(tmp_path / "study.db"):
        raise error


def test_other_errors_of_a_writer_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("no such column"), DataError("bad"), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "a"):
            raise error
        assert caught.value is error


# -- who may read


@pytest.mark.parametrize("writer", [_safetensors, _torch, _parquet, _plain])
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read_whatever_wrote_the_file(
    tmp_path: Path, writer: Callable[[Path], None], umask: int
) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a") as temporary:
            writer(temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask
