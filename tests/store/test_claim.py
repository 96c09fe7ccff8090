"""A folder that is in use for one thing is not used for another, and who tries it is told what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RecipeError
from engine.store.claim import FREE_KEYS, Claim, claim

RECIPE = {"seed": 0, "data": {"train": "photos", "cache": "a"}, "stage": [{"lr": 0.1, "size": [32, 32]}]}


def made_with(folder: Path, **content: Any) -> Claim:
    return Claim(folder / "run.json", "a run", {"recipe": RECIPE, "data_fingerprint": "x"} | content, "Go elsewhere")


def test_who_says_the_same_goes_on(tmp_path: Path) -> None:
    claim(made_with(tmp_path, over=("a", "b")))
    claim(made_with(tmp_path, over=("a", "b")))  # a tuple is a list once it is written
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["over"] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"recipe": RECIPE | {"seed": 1}}, "seed: 0 -> 1"),
        ({"recipe": RECIPE | {"stage": [{"lr": 0.2, "size": [32, 48]}]}}, "stage.0.lr: 0.1 -> 0.2; stage.0.size.1: 32"),
        ({"recipe": RECIPE | {"stage": []}}, "stage: "),
        ({"data_fingerprint": "y"}, "the training data (files, labels or contents)"),
        ({"fold": 1}, "fold: null -> 1"),
        ({"classes": ["소"]}, 'classes: null -> ["소"]'),
    ],
)
def test_what_differs_is_named_and_nothing_is_written(tmp_path: Path, content: dict[str, Any], words: str) -> None:
    claim(made_with(tmp_path))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RecipeError) as caught:
        claim(made_with(tmp_path, **content))
    assert str(caught.value).startswith(f"{tmp_path} holds a run that differs in {words}")
    assert ". Go elsewhere" in str(caught.value)
    assert (tmp_path / "run.json").read_bytes() == before


def test_what_a_later_process_no_longer_asks_for_differs_too(tmp_path: Path) -> None:
    claim(made_with(tmp_path, fold=1))
    with pytest.raises(RecipeError, match="fold: 1 -> null"):
        claim(made_with(tmp_path))


def test_of_several_claims_all_are_made_or_none(tmp_path: Path) -> None:
    taken, free = tmp_path / "taken", tmp_path / "free"
    claim(made_with(taken))
    with pytest.raises(RecipeError):
        claim(made_with(free), made_with(taken, data_fingerprint="y"))
    assert not free.exists()


def test_keys_that_touch_no_learning_may_change_and_the_latest_is_written(tmp_path: Path) -> None:
    claim(made_with(tmp_path))
    moved = RECIPE | {"data": {"train": "photos", "cache": "b"}, "name": "another"}
    claim(made_with(tmp_path, recipe=moved))
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["recipe"] == moved


def test_free_keys_are_free_by_their_whole_name_with_all_below_them(tmp_path: Path) -> None:
    assert {"ensemble", "data.cache", "data.missing"} <= set(FREE_KEYS)
    claim(made_with(tmp_path, recipe={"ensemble": {"vote": 1}, "model": {"ensemble": 1}, "cache": 1}))
    with pytest.raises(RecipeError, match=r"differs in model\.ensemble: 1 -> 2; cache: 1 -> 2\."):
        claim(made_with(tmp_path, recipe={"ensemble": {"vote": 2}, "model": {"ensemble": 2}, "cache": 2}))


@pytest.mark.parametrize("content", [b"{", b"3", b"\xff"])
def test_a_damaged_claim_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RecipeError, match=r"run\.json is damaged .*Go elsewhere"):
        claim(made_with(tmp_path))


def test_keys_that_an_older_engine_did_not_know_are_as_their_defaults(tmp_path: Path) -> None:
    claim(made_with(tmp_path))
    claim(made_with(tmp_path, recipe=RECIPE | {"train": {"ema": 0.0, "schedule": {"kind": "cosine"}}}))
    with pytest.raises(RecipeError, match=r"differs in train\.clip: 1.0 -> 2.0\. Go"):
        claim(made_with(tmp_path, recipe=RECIPE | {"train": {"ema": 0.0, "schedule": {"kind": "cosine"}, "clip": 2.0}}))


def test_fingerprints_that_an_older_engine_did_not_write_are_not_held_against_it(tmp_path: Path) -> None:
    claim(made_with(tmp_path))
    claim(made_with(tmp_path, split="a", starting_weights="b"))
    for changed, words in (({"split": "c"}, "division of the images"), ({"starting_weights": "c"}, r"model\.weights")):
        with pytest.raises(RecipeError, match=words):
            claim(made_with(tmp_path, **{"split": "a", "starting_weights": "b"} | changed))


def test_what_is_free_and_changed_is_told(tmp_path: Path) -> None:
    assert claim(made_with(tmp_path)) == []
    moved = RECIPE | {"data": {"train": "photos/", "cache": "a"}, "output": "elsewhere", "decode": {"threads": 2}}
    assert claim(made_with(tmp_path, recipe=moved)) == ['data.train: "photos" -> "photos/"', "decode.threads: 0 -> 2"]
    assert claim(made_with(tmp_path, recipe=moved)) == []


def test_a_run_goes_on_in_smaller_batches_of_as_many_images_a_step(tmp_path: Path) -> None:
    def made(batch: int, accumulate: int) -> Claim:
        stage = {"batch": batch, "accumulate": accumulate, "lr": 0.1}
        return Claim(tmp_path / "run.json", "a run", {"recipe": {"stage": [stage]}}, "Choose another")

    claim(made(32, 1))
    claim(made(16, 2))
    with pytest.raises(RecipeError, match=r"stage\.0\.batch: 16 -> 8"):
        claim(made(8, 2))
