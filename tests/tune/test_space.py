"""What `--over` can say, and what it is told when that makes no recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
import pytest

from engine.errors import RecipeError
from engine.recipe.sections import Recipe
from engine.tune.space import Choice, Dimension, Range, parse_dimension, parse_space

MakeRecipe = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("stage.*.lr=log:1e-5..1e-3", Range("stage.*.lr", 1e-5, 1e-3, True, False)),
        ("train.label_smoothing=0.0..0.1", Range("train.label_smoothing", 0.0, 0.1, False, False)),
        ("train.label_smoothing = .0 .. .1", Range("train.label_smoothing", 0.0, 0.1, False, False)),
        ("model.subcenters=int:1..5", Range("model.subcenters", 1, 5, False, True)),
        ("model.subcenters=1..5", Range("model.subcenters", 1, 5, False, True)),  # it takes nothing else
        ("stage.0.batch=int:log:8..64", Range("stage.0.batch", 8, 64, True, True)),
        ("train.ema=0.99|0.995", Choice("train.ema", ["0.99", "0.995"])),
        ("stage.0.size=[32, 48] | 32", Choice("stage.0.size", ["[32, 48]", "32"])),
        ("model.pooling=avg|gem", Choice("model.pooling", ["avg", "gem"])),
    ],
)
def test_a_dimension_is_read(text: str, dimension: Dimension) -> None:
    assert parse_dimension(text) == dimension


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("train.ema", "expected key="),
        ("train.ema=", "expected key="),
        ("train.ema=0.9", "--set"),
        ("train.ema=0.9|", "expected key="),
        ("train.ema=0.9|0.9", "twice"),
        ("train.ema=0.99..0.9", "lower end first"),
        ("stage.0.lr=log:0..1", "above 0"),
        ("model.subcenters=int:1..2.5", "whole"),
        ("output=a|b", "sweep's own"),
        ("data.folds.count=2..5", "sweep's own"),
    ],
)
def test_what_is_no_dimension_is_refused(text: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        parse_dimension(text)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["train.emma=0.9|0.99"], ["--over train.emma=0.9", "did you mean train.ema"]),
        (["train.ema=0.5..1.0"], ["train.ema=1.0", "below 1"]),
        (["train.ema=0.9|0.99", "train.ema=0.5..0.6"], ["train.ema", "twice"]),
        (["stage.3.lr=0.1|0.2"], ["the entries of stage are 0"]),
        (["model.head=linear|arcfase"], ['did you mean "arcface"']),
        ([], ["--over is not given"]),
    ],
)
def test_each_value_must_make_a_recipe(recipe: MakeRecipe, texts: Sequence[str], words: Sequence[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_space(texts, recipe().model_dump(exclude_none=True), "r.toml")
    for word in words:
        assert word in str(caught.value)


def test_what_is_drawn_lies_in_the_range_and_stands_in_a_recipe() -> None:
    texts = ["stage.*.lr=log:1.23456e-5..1e-3", "model.subcenters=1..3", "train.ema=0.9|0.99"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: dict[str, set[str]] = {}
    for _ in range(40):
        trial = study.ask()
        for text in texts:
            dimension = parse_dimension(text)
            seen.setdefault(dimension.key, set()).add(dimension.suggest(trial))
    assert seen["train.ema"] == {"0.9", "0.99"}
    assert seen["model.subcenters"] == {"1", "2", "3"}
    rates = [float(text) for text in seen["stage.*.lr"]]
    assert all(1.23456e-5 <= rate <= 1e-3 for rate in rates)
    assert sum(rate < 1.2e-4 for rate in rates) > 12  # half of them, by the logarithm
