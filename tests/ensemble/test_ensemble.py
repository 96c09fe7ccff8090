"""How answers become one is written down, and read as it was written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.ensemble.calibrate import Calibration
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.join import Join
from engine.ensemble.neighbours import Neighbours
from engine.ensemble.parts import NOTHING, Parts
from engine.ensemble.specialist import Specialist
from engine.errors import CheckpointError, RecipeError
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_recipe

CLASSES = ("a", "b", "c")
STAGE = [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}]


def ensemble(specialists: tuple[Specialist, ...] = (), parts: Parts = NOTHING, **sections: dict[str, Any]) -> Ensemble:
    return Ensemble.of(parse_recipe({"stage": STAGE, **sections}), specialists, parts)


def answers(count: int = 60) -> LabelledPredictions:
    random = np.random.default_rng(count)
    labels = [CLASSES[number % 3] for number in range(count)]
    p_NC = random.dirichlet([1.0] * 3, count)
    return Predictions(tuple(map(str, range(count))), CLASSES, p_NC).labelled(labels)


def everything() -> Parts:
    one, other = answers(), answers()
    return Parts(
        Join.fit([one, other], ["epoch_003", "epoch_004"], "logistic"),
        Neighbours((5, 20), 10.0, 0.25),
        Calibration.fit("isotonic", one),
    )


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    assert Ensemble.load(path) is None
    made = ensemble(
        (Specialist("끝", ("나", "가")), Specialist("b", ("c",), 0.25)),
        everything(),
        ensemble={"vote": "logit", "weights": "score"},
        predict={"tta": 5, "views": "crops", "prior": {"a.b": 0.3, "c d": 0.7}},
    )
    made.save(path)
    read = Ensemble.load(path)
    assert read is not None
    assert read.parts.to_dict() == made.parts.to_dict() and read.parts.names == ["join", "neighbours", "calibration"]
    assert dataclasses.replace(read, parts=NOTHING) == dataclasses.replace(made, parts=NOTHING)
    assert len(read.views) == 5
    asked = answers(7)
    before, after = (parts.joined([asked, asked], "soft") for parts in (made.parts, read.parts))
    assert before.probabilities_NC.tolist() == after.probabilities_NC.tolist()
    both = [one.calibration.apply(asked) for one in (made.parts, read.parts) if one.calibration]
    assert both[0].probabilities_NC.tolist() == both[1].probabilities_NC.tolist()


def test_a_recipe_that_it_changes_says_the_same() -> None:
    sections: dict[str, dict[str, Any]] = {
        "predict": {"tta": 10, "views": "crops", "specialists": False, "prior": {"a b": 0.3, 'q"': 0.7}, "risk": 0.01},
        "ensemble": {"vote": "logit", "stack": "boosting", "neighbours_k": [3]},
    }
    recipe = parse_recipe({"stage": STAGE, **sections})
    assert parse_recipe({"stage": STAGE}, ensemble(**sections).sets) == recipe


def test_a_file_of_format_1_answers_as_before(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    old = {
        "format": 1,
        "tta": 3,
        "views": "zooms",
        "vote": "logit",
        "asks_specialists": False,
        "specialists": [{"name": "pair", "classes": ["a", "b"], "blend": 0.5}],
    }
    path.write_text(json.dumps(old), "utf-8")
    read = Ensemble.load(path)
    assert read is not None and read.views == ("plain", "plain_flip", "zoom_in")
    assert read.specialists == (Specialist("pair", ("a", "b"), 0.5),) and read.parts == NOTHING
    recipe = parse_recipe({"stage": STAGE}, read.sets)
    assert (recipe.predict.tta, recipe.predict.views, recipe.predict.specialists) == (3, "zooms", False)
    assert recipe.ensemble.vote == "logit" and read.followed(recipe) == NOTHING


def test_a_part_is_left_out_where_the_recipe_does_without_it_and_never_taken_for_another() -> None:
    made = ensemble((), everything(), ensemble={"stack": "logistic", "neighbours": "auto"})

    def followed(*sets: str) -> list[str]:
        return made.followed(parse_recipe({"stage": STAGE}, (*made.sets, *sets))).names

    assert followed() == followed("ensemble.vote=logit") == ["join", "neighbours", "calibration"]
    assert followed("ensemble.calibrate=off") == ["join", "neighbours"]
    assert followed("ensemble.stack=off", "ensemble.neighbours=off") == ["calibration"]
    with pytest.raises(RecipeError, match=r'calibrate="vector": calibration was fitted with .*"auto".*engine ensemble'):
        followed("ensemble.calibrate=vector")
    with pytest.raises(RecipeError, match=r"ensemble.neighbours_k=\[3\]: neighbours was fitted with"):
        followed("ensemble.neighbours_k=[3]")
    with pytest.raises(RecipeError, match=r"engine ensemble RUN --set ensemble.stack=\"boosting\""):
        followed("ensemble.stack=boosting")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format 99"),
        ({"specialists": [{"name": "x"}]}, "is damaged"),
        ({"keys": {"ensemble.vote": "loudest"}}, "damaged .*loudest"),
        ({"keys": None}, "damaged .*engine train"),
        ({"parts": {"wisdom": {}}}, "damaged .*wisdom"),
        ({"parts": {"calibration": {"kind": "prayer"}}}, "is damaged"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "ensemble.json"
    ensemble().save(path)
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | change), "utf-8")
    with pytest.raises(CheckpointError, match=words) as error:
        Ensemble.load(path)
    assert str(path) in str(error.value)
    path.write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        Ensemble.load(path)
