"""Words about things: each rule of writing, at its edges."""

from __future__ import annotations

import pytest

from engine.text import count, nearest, nfc, nfd, similar, some, words


def test_composed_and_decomposed_names_meet() -> None:
    assert nfc(nfd("아반떼 é")) == "아반떼 é" != nfd("아반떼 é")


@pytest.mark.parametrize(
    ("names", "shown"),
    [((), ""), (("a",), "'a'"), (("a", "b"), "'a', 'b'"), (("a", "b", "c"), "'a', 'b' and 1 more")],
)
def test_a_long_list_is_cut_and_says_by_how_much(names: tuple[str, ...], shown: str) -> None:
    assert some(names, 2) == shown


def test_a_list_may_be_a_set_or_a_dict_and_be_shown_otherwise() -> None:
    assert some({"b": 1, "a": 2}, show=str) == "b, a"


def test_a_number_agrees_with_its_noun() -> None:
    assert [count(n, "image") for n in (0, 1, 1234)] == ["0 images", "1 image", "1,234 images"]
    assert count(["x", "y"], "copy", "copies") == "2 copies"


def test_a_mistyped_name_finds_what_was_meant() -> None:
    known = ("accuracy", "log_loss", "entropy")
    assert similar("acuracy", known)[0] == nearest("acuracy", known)[0] == "accuracy"
    assert similar("zzz", known) == [] and nearest("zzz", known, most=2) == ["accuracy", "log_loss"]


def test_words_are_without_capitals_and_signs() -> None:
    assert words("Don't_know!") == words("dont KNOW") == ["dont", "know"] and words("알 수 없음") == [
        "알",
        "수",
        "없음",
    ]
    assert words("-") == []
