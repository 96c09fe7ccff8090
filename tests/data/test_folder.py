"""What a walk through a folder passes over, what it tells of, and what it never waits for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.errors import DataError
from engine.quarantine import Fault, FaultKind, read_file
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]


def training(tmp_path: Path, **keys: object) -> Manifest:
    source = str(tmp_path / "set")
    return ingest(source, DataSection(train=source, **keys))  # type: ignore[arg-type]


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called closed cannot be listed: root, who may run the tests, can list all."""
    scandir = os.scandir

    def refused(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)


@pytest.mark.usefixtures("closed")
def test_a_folder_that_cannot_be_listed_is_told_and_passed_over(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("set/b/2.jpg"), photo("set/b/closed/3.jpg"), photo("set/closed/4.jpg")
    manifest = training(tmp_path)
    assert manifest.ids == ["a/1.jpg", "b/2.jpg"]
    root = tmp_path / "set"
    assert set(manifest.notices) == {
        f"{root}: folder passed over: 'closed': Permission denied",
        f"{root}: folder passed over: 'b/closed': Permission denied",
    }


@pytest.mark.usefixtures("closed")
def test_folders_that_cannot_be_listed_are_the_error_when_there_is_nothing_else(
    tmp_path: Path, photo: MakePhoto
) -> None:
    photo("set/closed/1.jpg")
    with pytest.raises(DataError, match=r"no images here .*; cannot list 'closed': Permission denied"):
        training(tmp_path)
    photo("closed/1.jpg")
    with pytest.raises(DataError, match="closed: cannot list this folder: Permission denied"):
        ingest(str(tmp_path / "closed"), DataSection())


def test_only_regular_files_are_images(tmp_path: Path, photo: MakePhoto, monkeypatch: pytest.MonkeyPatch) -> None:
    photo("set/a/1.jpg"), photo("set/b/2.jpg"), photo("elsewhere/3.jpg")
    folder = tmp_path / "set" / "a"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "to pipe.jpg").symlink_to(folder / "pipe.jpg")
    (folder / "to device.png").symlink_to("/dev/zero")
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere" / "3.jpg")
    monkeypatch.chdir(folder)  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        manifest = training(tmp_path)
    assert manifest.ids == ["a/1.jpg", "a/link.jpg", "b/2.jpg"]
    assert "4 names passed over, no regular files" in manifest.notices[0]
    assert read_file(str(folder / "pipe.jpg")) == Fault(FaultKind.UNREADABLE, "cannot be read: no regular file")
    assert read_file("/dev/zero") == Fault(FaultKind.UNREADABLE, "cannot be read: no regular file")


@pytest.mark.parametrize("missing", ["error", "leave_out"])
def test_a_table_does_not_wait_for_a_pipe(tmp_path: Path, photo: MakePhoto, missing: str) -> None:
    photo("1.jpg"), photo("2.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    table = tmp_path / "train.csv"
    table.write_text("path,label\n1.jpg,a\n2.jpg,b\npipe.jpg,a\n")
    section = DataSection(train=str(table), missing=missing)  # type: ignore[arg-type]
    if missing == "error":
        with pytest.raises(DataError, match=r"line 4: 'pipe\.jpg'.*, which is no regular file"):
            ingest(str(table), section)
    else:
        assert ingest(str(table), section).usable().ids == ["1.jpg", "2.jpg"]


def test_folders_without_an_image_are_named(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("set/b/deep/2.jpg")
    for name in ("New folder", "Untitled Folder", "c/deeper", "a/empty", ".hidden", "@eaDir"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (said,) = training(tmp_path).notices
    assert said.endswith("set: 3 folders without an image, no class: 'New folder', 'Untitled Folder', 'c'")


def test_files_that_may_have_been_wanted_are_told(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/a/1.jpg"), photo("set/b/2.jpg"), photo("set/b/.3.jpg")
    (tmp_path / "set" / "a" / ".IMG_1.jpg.icloud").write_bytes(b"")
    said = training(tmp_path).notices
    assert any("1 photo that is only in iCloud passed over, such as 'a/.IMG_1.jpg.icloud'" in text for text in said)
    assert any("1 hidden image passed over, such as 'b/.3.jpg'" in text for text in said)


def test_a_folder_without_images_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/2.mp4", "b/3.CR2", "README"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"other files: 2 \.mp4, 1 .*; 2 videos passed over, such as 'a/.\.mp4'; 1 camera"
    ):
        training(tmp_path)


def test_a_folder_name_with_what_nobody_sees_is_told(tmp_path: Path, photo: MakePhoto) -> None:
    photo("set/cat/1.jpg"), photo("set/cat\u00a0/2.jpg"), photo("set/dog/3.jpg")
    manifest = training(tmp_path)
    assert manifest.labels == ["cat", "cat", "dog"]
    assert manifest.notices == (r"folder 'cat\xa0' is class 'cat'",)
