"""Checkpoints are asked as a recipe says: its views, its batches, its decoding. Out-of-fold predictions and those of
new images come from here, so what is fitted and scored on the first holds for the second."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.augment.views import View, views_of
from engine.errors import RecipeError
from engine.exhausted import Where, told_when_exhausted
from engine.inference.members import Members
from engine.inference.scoring import Blend, Extra, Images, score, score_each
from engine.loader.batches import Loader, Samples
from engine.model.build import why_not_size
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.ranks import Ranks
from engine.recipe.sections import ModelSection, Recipe
from engine.store.checkpoint import Checkpoint


def check_views(
    views: Sequence[View], model: ModelSection, built_for: tuple[int, int], scored: tuple[int, int]
) -> None:
    """Raise RecipeError, naming the view, unless the model takes images as each of the views shows them.

    Sizes are (height, width): `built_for` of the first stage, `scored` of the contract.
    """
    for view in views:
        size = view.size(*scored)
        if size != scored and (reason := why_not_size(model, built_for, size)):
            raise RecipeError(
                f"predict.views: view {view.name} shows images of {size[0]} x {size[1]} in place of {scored[0]} x "
                f"{scored[1]}, which {model.backbone} cannot take ({reason}). Leave it out"
            )


def members_for(checkpoints: Sequence[Checkpoint], recipe: Recipe, device: torch.device) -> Members:
    """The models of these checkpoints on `device`, to be asked with the recipe's views."""
    return Members.restored(checkpoints, device, views_of(recipe.predict), recipe.augment.executor)


def ask(
    members: Members,
    samples: Samples,
    rows_N: NDArray[np.int64],
    recipe: Recipe,
    blend: Blend,
    ranks: Ranks,
    told: Callable[[int], None] = lambda done: None,
    extras: Collection[Extra] = (),
) -> tuple[list[Predictions], Quarantine]:
    """What each model answers about these rows of the samples, and the files that could not be read, whose rows are
    missing. All ranks take a share and get everything.

    Of the recipe `decode`, `augment.executor` and `predict.batch` are followed; all else is as the models were trained.
    `blend` makes one answer of the views, `extras` asks for more than answers, as `score` does. `told` hears after each
    batch how many rows this rank is done with.
    """
    loader = Loader(samples, recipe.decode, ranks.device, recipe.augment.executor, members[0].runtime.dtype)
    images = Images(loader, rows_N, recipe.predict.batch)
    with told_when_exhausted(f"answering in batches of {images.batch}", lambda where: smaller_answers(recipe, where)):
        return score(members, images, ranks, blend, extras, _counting(loader, told)), loader.quarantine


def ask_each(
    members: Members,
    samples: Samples,
    rows_N: NDArray[np.int64],
    recipe: Recipe,
    ranks: Ranks,
    told: Callable[[int], None] = lambda done: None,
) -> tuple[list[list[Predictions]], Quarantine]:
    """As `ask`, of each view by itself: a list of predictions, one a view, for each model."""
    loader = Loader(samples, recipe.decode, ranks.device, recipe.augment.executor, members[0].runtime.dtype)
    images = Images(loader, rows_N, recipe.predict.batch)
    with told_when_exhausted(f"answering in batches of {images.batch}", lambda where: smaller_answers(recipe, where)):
        return score_each(members, images, ranks, _counting(loader, told)), loader.quarantine


def _counting(loader: Loader, told: Callable[[int], None]) -> Callable[[int], None]:
    """Hears of the images of each batch, and tells how many of this rank's are done with."""
    answered = 0

    def count(images: int) -> None:
        nonlocal answered
        answered += images
        told(answered + len(loader.quarantine))

    return count


def smaller_answers(recipe: Recipe, where: Where) -> str:
    """What to change when there is too little memory to answer."""
    batch, keys = recipe.predict.batch, []
    if batch > 1:
        keys.append(f"predict.batch = {batch // 2}")
    if where == "main memory" and recipe.decode.prefetch > 1:
        keys.append("decode.prefetch = 1")
    ways = f"Set {' and '.join(keys)} (the answers stay the same)" if keys else "Give it a larger machine"
    return f"{ways}, or keep fewer models (train.keep_last, train.keep_best)"
