"""A name in a list finds the image it means, and no other."""

from __future__ import annotations

import unicodedata

import pytest

from engine.data.ids import find_samples
from engine.data.manifest import Manifest
from engine.errors import DataError

IDS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/아반떼_N_0064.jpg", "07"]


@pytest.fixture
def manifest() -> Manifest:
    paths = [f"/data/train/{id_}" for id_ in IDS[:-1]] + ["/data/other/seven.png"]
    return Manifest.build({"id": IDS, "path": paths})


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("a/2.jpg", "a/2.jpg"),
        ("2.jpg", "a/2.jpg"),
        ("2", "a/2.jpg"),
        ("./a/1.jpg", "a/1.jpg"),
        ("train/b/1.jpg", "b/1.jpg"),
        ("/data/train/b/1.jpg", "b/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        (unicodedata.normalize("NFD", "아반떼_N_0064.jpg"), "b/아반떼_N_0064.jpg"),
        ("07", "07"),
        ("seven.png", "07"),
        ("7", None),
        ("c/1.jpg", None),
        ("", None),
    ],
)
def test_a_name_may_be_an_id_a_file_name_or_the_end_of_a_path(manifest: Manifest, name: str, id_: str | None) -> None:
    assert find_samples(manifest, [name], "the list") == [None if id_ is None else IDS.index(id_)]


def test_a_name_of_several_images_is_refused(manifest: Manifest) -> None:
    with pytest.raises(
        DataError, match=r"the list: '1\.jpg' may be any of 2 images: 'a/1\.jpg', 'b/1\.jpg'\. Write more"
    ):
        find_samples(manifest, ["2.jpg", "1.jpg"], "the list")
