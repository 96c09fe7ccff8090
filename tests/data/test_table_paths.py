"""What a table's path column may hold, and which file it means."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.data.ingest import ingest
from engine.data.manifest import Manifest
from engine.data.sources.table import find_file
from engine.errors import DataError
from engine.recipe.sections import DataSection

MakePhoto = Callable[..., Path]


def indexed(folder: Path, *paths: str) -> Manifest:
    table = folder / "train.csv"
    table.write_text("path,label\n" + "".join(f'"{path}",{"ab"[i % 2]}\n' for i, path in enumerate(paths)))
    return ingest(str(table), DataSection(train=str(table)))


def test_a_name_without_a_suffix_that_two_files_have_is_refused(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg"), photo("1.png"), photo("2.jpg")
    with pytest.raises(DataError, match=r"line 2: '1' in column 'path' may be any of '1\.jpg', '1\.png'"):
        indexed(tmp_path, "1", "2")
    assert [Path(path).name for path in indexed(tmp_path, "1.png", "2").paths] == ["1.png", "2.jpg"]


def test_two_names_of_one_file_are_no_choice(tmp_path: Path, photo: MakePhoto) -> None:
    one = photo("1.jpg")
    photo("2.jpg")
    os.link(one, tmp_path / "1.jpeg")
    (tmp_path / "1.png").symlink_to(one)
    assert [Path(path).name for path in indexed(tmp_path, "1", "2").paths] == ["1.jpg", "2.jpg"]


def test_ids_have_no_spaces_around_them(tmp_path: Path, photo: MakePhoto) -> None:
    photo("1.jpg"), photo("2.jpg")
    assert indexed(tmp_path, " 1.jpg", "2.jpg ").ids == ["1.jpg", "2.jpg"]


@pytest.mark.parametrize("written", [" a/1.jpg ", "\ta/1", "a\\1.jpg ", " ./a/1.jpg", "\u00a0a/1.jpg\u200b"])
def test_spaces_around_a_path_do_not_hide_its_file(tmp_path: Path, photo: MakePhoto, written: str) -> None:
    there = photo("a/1.jpg")
    assert Path(find_file(str(tmp_path), written)) == there


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("https://example.org/1.jpg", "is an address: download the files"),
        ("s3://bucket/1.jpg", "is an address: download the files"),
        ("file:///data/1.jpg", "write the path alone, without file://"),
        (r"C:\Users\me\1.jpg", "is a path of a Windows machine: write what stands behind the folder"),
        (r"\\server\share\1.jpg", "is a path of a Windows machine"),
        ("~/photos/1.jpg", "begins in a home folder"),
    ],
)
def test_a_path_that_no_table_can_mean_is_told_with_its_remedy(
    tmp_path: Path, photo: MakePhoto, written: str, says: str
) -> None:
    photo("2.jpg")
    with pytest.raises(DataError) as error:
        indexed(tmp_path, written, "2.jpg")
    assert "line 2" in str(error.value) and says in str(error.value)
