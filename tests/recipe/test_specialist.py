"""[[specialist]] tables: what they inherit, and what is refused."""

from __future__ import annotations

import pytest

from engine.errors import RecipeError
from engine.recipe.load import dump_recipe, parse_recipe

RECIPE = """\
[model]
backbone = "large"
head = "arcface"
[train]
ema = 0.9
schedule.kind = "constant"
[augment]
color.p = 0.25
[[stage]]
size = 64
batch = 8
epochs = 2
lr = 1e-3
margin = 0.1
[[specialist]]
name = "edges"
classes = ["a", "b"]
model.backbone = "small"
train.schedule.warmup_epochs = 2.0
[[specialist]]
name = "끝.2"
classes = ["a"]
"""


def test_keys_that_a_specialist_leaves_out_are_the_recipes() -> None:
    recipe = parse_recipe(RECIPE, ["train.ema=0.99", "specialist.1.augment.erase.p=0.5"])
    first, second = recipe.specialist
    assert first.model is not None and first.train is not None
    assert (first.model.backbone, first.model.head) == ("small", "arcface")
    assert (first.train.ema, first.train.schedule.kind, first.train.schedule.warmup_epochs) == (0.99, "constant", 2.0)
    assert first.augment is None and first.stage == ()
    assert second.augment is not None and (second.augment.color.p, second.augment.erase.p) == (0.25, 0.5)
    assert recipe.train.schedule.warmup_epochs == 0.5 and recipe.augment.erase.p != 0.5

    learnt = recipe.of_specialist(first)
    assert (learnt.model, learnt.train, learnt.augment, learnt.stage, learnt.specialist) == (
        first.model,
        first.train,
        recipe.augment,
        recipe.stage,
        (),
    )
    assert recipe.of_specialist(second).model == recipe.model


def test_a_recipe_with_specialists_is_read_again_as_it_was_kept() -> None:
    recipe = parse_recipe(RECIPE)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe
    # What was inherited stays when the recipe it came from changes afterwards.
    later = parse_recipe(recipe.model_dump(mode="json"), ["train.ema=0.5"])
    assert later.specialist[0].train == recipe.specialist[0].train


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("specialist.0.name=a/b", "specialist.0.name"),
        ("specialist.0.name=.hidden", "specialist.0.name"),
        ("specialist.0.name=끝.2", "끝.2 is the name of another one"),
        ('specialist.0.classes=["a", "b", "a"]', "a class is named twice"),
        ("specialist.0.classes=[]", "not empty"),
        ("specialist.0.blend=1.5", "0 to 1"),
        ("specialist.0.model.head=linear", "specialist edges: stage.0.margin needs a head with angles"),
        ("specialist.1.stage=[{size=64,batch=1,epochs=1,lr=1.0,start_from='best'}]", "no stage before the first"),
        ("specialist.0.train.emma=0.5", "did you mean specialist.0.train.ema"),
        ("specialist=[1]", "specialist.0"),
    ],
)
def test_what_makes_no_specialist_is_refused(change: str, words: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse_recipe(RECIPE, [change])
    assert words in str(error.value)
