"""A name finds the image it means, however people spell paths, and no other: nothing is paired by guess."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.ids import find_ids, find_samples
from engine.data.manifest import Manifest
from engine.errors import DataError

IDS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/아반떼_N_0064.jpg", "07"]

texts = st.text(st.sampled_from("ab01._/가é"), min_size=1, max_size=6)
unique_ids = st.lists(texts, unique_by=lambda text: unicodedata.normalize("NFC", text), max_size=12)


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
        ("2.png", "a/2.jpg"),
        ("./a/1.jpg", "a/1.jpg"),
        ("train/b/1.jpg", "b/1.jpg"),
        ("/data/train/b/1.jpg", "b/1.jpg"),
        ("/elsewhere/b/1.jpg", "b/1.jpg"),
        ("a\\1.jpg", "a/1.jpg"),
        (unicodedata.normalize("NFD", "아반떼_N_0064.jpg"), "b/아반떼_N_0064.jpg"),
        ("07", "07"),
        ("seven.png", "07"),
        ("c/1.jpg", None),
        ("c/2.jpg", None),
        ("2.5", None),
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


def test_a_list_may_name_an_image_twice(manifest: Manifest) -> None:
    assert find_samples(manifest, ["2.jpg", "a/2.jpg", "2.jpg"], "the list") == [1, 1, 1]


def test_the_strictest_way_in_which_a_name_is_one_counts() -> None:
    ids = ["1.jpg", "x/1.jpg", "1", "1.png"]
    manifest = Manifest.build({"id": ids, "path": [f"/data/{id_}" for id_ in ids]})
    assert find_samples(manifest, ["1.jpg", "./1.jpg", "x/1.jpg", "1", "1.png"], "the list") == [0, 0, 1, 2, 3]


@given(unique_ids, st.randoms())
def test_every_id_finds_itself_in_any_order(ids: list[str], random: object) -> None:
    wanted = list(ids)
    random.shuffle(wanted)  # type: ignore[attr-defined]
    assert find_ids(wanted, ids, "the list") == wanted


@given(unique_ids, unique_ids)
def test_what_is_found_is_there_and_found_once_and_both_readers_of_lists_agree(
    wanted: list[str], ids: list[str]
) -> None:
    try:
        found = find_ids(wanted, ids, "the list")
    except DataError:
        return
    there = [name for name in found if name is not None]
    assert set(there) <= set(ids) and len(set(there)) == len(there)
    manifest = Manifest.build({"id": ids, "path": ids})
    for name, counterpart in zip(wanted, found, strict=True):
        if counterpart is not None:
            assert find_samples(manifest, [name], "the list") == [ids.index(counterpart)]


@pytest.mark.parametrize(
    "spelling", ["test/TEST_1.jpg", "./test/TEST_1.jpg", "test\\TEST_1.jpg", "TEST_1.jpg", "TEST_1", "test/TEST_1.png"]
)
def test_spellings_of_one_image(spelling: str) -> None:
    assert find_ids([spelling], ["test/TEST_0.jpg", "test/TEST_1.jpg"], "the list") == ["test/TEST_1.jpg"]
    assert find_ids([spelling], ["TEST_0.jpg", "TEST_1.jpg"], "the list") == ["TEST_1.jpg"]


def test_the_strictest_way_that_finds_all_counts() -> None:
    assert find_ids(["a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"], "the list") == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("wanted", "ids", "refused"),
    [
        (["2.jpg", "1.jpg"], ["a/1.jpg", "b/1.jpg", "a/2.jpg"], "'1.jpg' may be any of 2 images: 'a/1.jpg', 'b/1.jpg'"),
        (["1"], ["1.jpg", "1.png"], "'1' may be any of 2 images: '1.jpg', '1.png'"),
        (["1.webp"], ["1.jpg", "1.png"], "'1.webp' may be any of 2 images"),
        (["a.jpg"], ["a.jpg.png", "a.png"], "'a.jpg' may be any of 2 images"),
        (["./a/1"], ["a/1", "a\\1"], "may be any of 2 images"),
        (["a/1.jpg", "b/1.jpg"], ["1.jpg"], "'a/1.jpg', 'b/1.jpg' may each be '1.jpg'"),
        (["1", "1.png"], ["1.jpg"], "'1', '1.png' may each be '1.jpg'"),
    ],
)
def test_what_could_be_two_images_is_refused_and_they_are_named(
    wanted: list[str], ids: list[str], refused: str
) -> None:
    with pytest.raises(DataError, match=f"^the list: .*{re.escape(refused)}"):
        find_ids(wanted, ids, "the list")


@pytest.mark.parametrize(
    ("wanted", "near"),
    [
        ("1", "0001.jpg"),
        ("1.0", "1.jpg"),
        ("1.0", "0001"),
        ("00", "0.png"),
        ("0001", "t/1.jpg"),
        ("１.jpg", "01.jpg"),
        ("img_1", "IMG_1.JPG"),
        ("Cats/1.jpg", "cats/1.jpg"),
        (" 7 ", "7.jpg"),
        ("7.jpg ", "7.jpg"),
    ],
)
def test_what_is_nearly_an_image_is_neither_taken_for_it_nor_passed_over(wanted: str, near: str) -> None:
    with pytest.raises(DataError, match=f"the list: {re.escape(repr(wanted))} is no image's name, but nearly that of"):
        find_ids([wanted], ["other.jpg", near], "the list")
    assert find_ids([wanted, near], [near], "the list") == [None, near]  # two images, and one of them is not there


@pytest.mark.parametrize(
    ("name", "ids", "id_"),
    [
        ("1.2.826.0.1.1000", ["1.2.826.0.1.1000.jpg", "1.2.826.0.1.1001.jpg"], 0),
        ("1.2.826.0.1", ["1.2.826.0.1.1000.jpg"], None),
        ("P1.left", ["P1.jpg", "P1.left.jpg"], 1),
        ("P1.left", ["P1.jpg"], None),
        ("P1.left", ["P1.right.jpg", "P1.left"], 1),
        ("P1", ["P1.left.jpg", "P1.jpg"], 1),
        ("P1", ["P1.left.jpg"], None),
        ("P1.left.jpg", ["P1.left", "P1.jpg"], 0),
        ("P1.jpg", ["P1.png", "P1.jpg.png", "P1.jpg"], 2),
        ("a.jpg", ["a.jpg.png"], 0),
        ("a.jpg.png", ["a.jpg"], 0),
        ("a", ["a.jpg.png"], None),
        ("a", ["a.tar", "a.txt"], None),
        ("a.tar", ["a.tar.jpg", "a.jpg"], 0),
        ("v1.0", ["v1.0.jpg", "v1.jpg"], 0),
        ("v1.5", ["v1.jpg"], None),
        ("1.5", ["1.jpg", "01.5.jpg"], None),
        ("1", ["1.JPG", "01.jpg"], 0),
        ("0001", ["1.jpg", "0001.jpg"], 1),
        ("x.JPEG", ["x.jpeg.d/x.jpg"], 0),
        ("IMG.HEIC", ["IMG.jpg"], 0),
        ("left\\P1.left", ["right/P1.left.jpg", "left/P1.left.jpg"], 1),
        ("C:\\photos\\1.jpg", ["1.jpg"], 0),
        ("../test/1.jpg", ["test/1.jpg", "train/1.jpg"], 0),
        ("é.jpg", ["e\u0301.jpg", "é.jpg"], 1),
        ("e\u0301.jpg", ["e\u0301.jpg", "é.jpg"], 0),
        ("e\u0301", ["é.jpg"], 0),
        (".jpg", ["a.jpg"], None),
        ("", ["a.jpg"], None),
        ("/", ["a.jpg"], None),
    ],
)
def test_only_the_suffix_of_an_image_is_a_suffix(name: str, ids: list[str], id_: int | None) -> None:
    expected = None if id_ is None else ids[id_]
    assert find_ids([name], ids, "the list") == [expected]


def test_the_nearer_name_has_the_image_and_the_other_has_none() -> None:
    assert find_ids(["1.png", "1.jpg"], ["1.jpg"], "the list") == [None, "1.jpg"]
    assert find_ids(["x/1.jpg", "1.jpg"], ["1.jpg"], "the list") == [None, "1.jpg"]


def test_another_folders_image_of_that_name_is_not_meant() -> None:
    assert find_ids(["a/1.jpg", "a/2.jpg"], ["a/1.jpg", "b/2.jpg"], "the list") == ["a/1.jpg", None]
