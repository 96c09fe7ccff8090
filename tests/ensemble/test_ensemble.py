"""How answers become one is written down, and read as it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import Specialist
from engine.errors import CheckpointError
from engine.recipe.load import parse_recipe

STAGE = [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    assert Ensemble.load(path) is None
    specialists = (Specialist("끝", ("나", "가")), Specialist("b", ("c",), 0.25))
    ensemble = Ensemble(5, "crops", "logit", asks_specialists=False, specialists=specialists)
    ensemble.save(path)
    assert Ensemble.load(path) == ensemble


def test_a_recipe_that_it_changes_says_the_same() -> None:
    recipe = parse_recipe({"stage": STAGE, "predict": {"tta": 3}, "ensemble": {"vote": "logit"}})
    ensemble = Ensemble.of(recipe, ())
    assert ensemble == Ensemble(3, "zooms", "logit")
    other = parse_recipe({"stage": STAGE}, Ensemble(10, "crops", "soft", asks_specialists=False).sets)
    assert (other.predict.tta, other.predict.views, other.predict.specialists) == (10, "crops", False)
    assert parse_recipe({"stage": STAGE}, ensemble.sets) == recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format 99"),
        ({"specialists": [{"name": "x"}]}, "is damaged"),
        ({"vote": "loudest"}, "damaged .*loudest"),
        ({"tta": None}, "damaged .*engine train"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "ensemble.json"
    Ensemble(1, "zooms", "soft").save(path)
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | change), "utf-8")
    with pytest.raises(CheckpointError, match=words) as error:
        Ensemble.load(path)
    assert str(path) in str(error.value)
    path.write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="is damaged"):
        Ensemble.load(path)
