"""Ids find their counterparts however people spell paths, and are never paired by guess."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.predict.ids import find_ids

names = st.text(st.sampled_from("ab01._/가é"), min_size=1, max_size=6)
unique_ids = st.lists(names, unique_by=lambda text: unicodedata.normalize("NFC", text), max_size=12)


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


@pytest.mark.parametrize(
    "spelling",
    ["test/TEST_1.jpg", "./test/TEST_1.jpg", "test\\TEST_1.jpg", "TEST_1.jpg", "TEST_1", "elsewhere/TEST_1.png"],
)
def test_spellings_of_one_image(spelling: str) -> None:
    assert find_ids([spelling], ["test/TEST_0.jpg", "test/TEST_1.jpg"]) == ["test/TEST_1.jpg"]


def test_the_strictest_way_that_finds_all_counts() -> None:
    assert find_ids(["a/1.jpg", "b/1.jpg"], ["b/1.jpg", "a/1.jpg"]) == ["a/1.jpg", "b/1.jpg"]


def test_what_could_be_two_images_is_none() -> None:
    assert find_ids(["1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "a/2.jpg"]) == [None, "a/2.jpg"]
    assert find_ids(["a/1.jpg", "b/1.jpg"], ["1.jpg"]) == [None, None]
