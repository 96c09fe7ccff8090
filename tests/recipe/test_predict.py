"""Views in a recipe: so many of a family, or a list of names that counts itself."""

from __future__ import annotations

from typing import Any

import pytest

from engine.augment.views import VIEWS, names_of, sets_of, view_named, views_of
from engine.errors import RecipeError
from engine.recipe.load import dump_recipe, parse_recipe
from engine.recipe.sections import PredictSection, Recipe
from engine.recipe.sections.predict import CROPS, VIEW_NAMES, ZOOMS

STAGE = {"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}


def with_predict(**keys: Any) -> Recipe:
    return parse_recipe({"stage": [STAGE], "predict": keys})


def test_every_name_is_a_view_and_every_view_has_its_mirror_image() -> None:
    assert sorted(VIEW_NAMES) == sorted(VIEWS)
    for name, view in VIEWS.items():
        assert view.name == name == view_named(name).name
        if not name.endswith("_flip"):
            assert view.flipped() == VIEWS[f"{name}_flip"]


def test_old_recipes_answer_by_the_views_that_they_answered_by() -> None:
    zooms = ["plain", "plain_flip", "zoom_in", "zoom_in_flip", "zoom_out", "zoom_out_flip"]
    zooms += ["closer", "closer_flip", "farther", "farther_flip"]
    for count in range(1, 11):
        assert names_of(with_predict(tta=count).predict) == tuple(zooms[:count])
    five = ("center", "upper_left", "upper_right", "lower_left", "lower_right")
    assert names_of(with_predict(tta=5, views="crops").predict) == five
    ten = names_of(with_predict(tta=10, views="crops").predict)
    assert ten[::2] == five and ten[1] == "center_flip"


def test_a_list_sets_the_number_of_views_and_keeps_their_order() -> None:
    predict = with_predict(views=["turn_90", "flip", "plain", "vflip"]).predict
    assert predict.views == ("turn_90", "plain_flip", "plain", "turn_180_flip") and predict.tta == 4
    assert [view.name for view in views_of(predict)] == [*predict.views]
    assert with_predict(views=["plain", "flip"], tta=2).predict.tta == 2


def test_a_list_is_written_out_and_read_again() -> None:
    recipe = with_predict(views=["scale_1.25", "plain"])
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert parse_recipe({"stage": [STAGE]}, ['predict.views=["scale_1.25","plain"]']).predict == recipe.predict


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"views": ["plain", "zoomin"]}, "predict.views = .*no view 'zoomin'; nearest: zoom_in"),
        ({"views": ["plain", "flip", "plain_flip"]}, "plain_flip is named twice"),
        ({"views": []}, "an empty list"),
        ({"views": ["plain", "flip"], "tta": 3}, "predict.tta = 3: views is a list of 2, got 3; set tta = 2"),
        ({"views": "zoom"}, 'did you mean "zooms"'),
        ({"views": ["plain", 3]}, "predict.views"),
        ({"tta": 11}, 'predict.tta = 11: views = "zooms" has 10'),
        ({"tta": 3, "views": "crops"}, "5 or 10"),
    ],
)
def test_what_names_no_views_is_refused_with_the_remedy(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_predict(**keys)


@pytest.mark.parametrize("names", [ZOOMS[:1], ZOOMS[:7], CROPS, CROPS[::2], ("plain", "turn_90"), ("center",)])
def test_changes_of_a_recipe_make_it_predict_with_any_views(names: tuple[str, ...]) -> None:
    for before in ({}, {"tta": 5, "views": "crops"}, {"views": ["turn_180", "plain", "flip"]}):
        recipe = parse_recipe({"stage": [STAGE], "predict": before}, sets_of(names))
        assert names_of(recipe.predict) == names
    family = PredictSection(tta=5).views
    assert (sets_of(ZOOMS[:5])[0] == f"predict.views={family}") and sets_of(CROPS)[0] == "predict.views=crops"
