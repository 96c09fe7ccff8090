"""A name finds the image it means, however people spell paths, and no other: nothing is paired by guess."""

from __future__ import annotations

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
        ("7", None),
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
    assert find_ids(wanted, ids) == wanted


@given(unique_ids, unique_ids)
def test_what_is_found_is_there_and_found_once(wanted: list[str], ids: list[str]) -> None:
    found = [name for name in find_ids(wanted, ids) if name is not None]
    assert set(found) <= set(ids)
    assert len(set(found)) == len(found)


@given(unique_ids, unique_ids)
def test_both_readers_of_lists_agree(wanted: list[str], ids: list[str]) -> None:
    manifest = Manifest.build({"id": ids, "path": ids})
    for name, counterpart in zip(wanted, find_ids(wanted, ids), strict=True):
        if counterpart is not None:
            assert find_samples(manifest, [name], "the list") == [ids.index(counterpart)]


@pytest.mark.parametrize(
    "spelling", ["test/TEST_1.jpg", "./test/TEST_1.jpg", "test\\TEST_1.jpg", "TEST_1.jpg", "TEST_1", "test/TEST_1.png"]
)
def test_spellings_of_one_image(spelling: str) -> None:
    assert find_ids([spelling], ["test/TEST_0.jpg", "test/TEST_1.jpg"]) == ["test/TEST_1.jpg"]
    assert find_ids([spelling], ["TEST_0.jpg", "TEST_1.jpg"]) == ["TEST_1.jpg"]


def test_the_strictest_way_that_finds_all_counts() -> None:
    assert find_ids(["a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"]) == ["a/1.jpg", "b/1.jpg"]


def test_what_could_be_two_images_is_none() -> None:
    assert find_ids(["1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "a/2.jpg"]) == [None, "a/2.jpg"]
    assert find_ids(["a/1.jpg", "b/1.jpg"], ["1.jpg"]) == [None, None]


def test_another_folders_image_of_that_name_is_not_meant() -> None:
    assert find_ids(["a/1.jpg", "a/2.jpg"], ["a/1.jpg", "b/2.jpg"]) == ["a/1.jpg", None]
