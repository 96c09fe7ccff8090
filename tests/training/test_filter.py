"""A backbone is trained and scored with the filter it was pretrained with, unless the recipe names one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.training.feed import Feed
from engine.training.prepare import prepare

MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")


def first_batch(made: Recipe) -> tuple[Tensor, str]:
    """The first training images, and the filter of scoring."""
    feed = Feed(made, prepare(made).fold_data(0), Ranks(0, 1, CPU), torch.float32)
    with closing(feed.epoch(made.stage[0], 0)) as batches:
        return next(batches).images_BCHW.clone(), feed.contract(made.stage[0]).filter


def test_auto_is_the_backbones_own_in_training_and_in_scoring(recipe: MakeRecipe) -> None:
    own_BCHW, saved = first_batch(recipe())
    bicubic_BCHW, _ = first_batch(recipe(augment={"filter": "bicubic"}))
    bilinear_BCHW, chosen = first_batch(recipe(augment={"filter": "bilinear"}))
    assert torch.equal(own_BCHW, bicubic_BCHW)
    assert not torch.equal(own_BCHW, bilinear_BCHW)
    assert (saved, chosen) == ("bicubic", "bilinear")
