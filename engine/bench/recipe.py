"""What is measured: the stages of the user's recipe, one of them, or a stage made for the bench where there is no
recipe."""

from __future__ import annotations

from typing import Any

import torch

from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe

FULL_POLICY: dict[str, Any] = {
    "crop": {"kind": "random_resized"},
    "flip": 0.5,
    "affine": {"p": 1.0},
    "color": {"p": 1.0},
    "erase": {"p": 1.0},
}
"""What is measured without a recipe: every common operation on every image."""


def default_recipe(device: torch.device, sets: tuple[str, ...] = ()) -> Recipe:
    """A model and a batch of the size that `device` is used for, every common operation, one stage of 256 pixels, two
    views; then changed by `sets` (texts "key=value"). Raises RecipeError for one that cannot be applied."""
    on_gpu = device.type == "cuda"
    values = {
        "model": {"backbone": "convnext_base" if on_gpu else "convnext_atto", "pretrained": False},
        "augment": FULL_POLICY,
        "stage": [{"size": 256, "batch": 64 if on_gpu else 16, "epochs": 1, "lr": 1e-4}],
        "predict": {"tta": 2},
    }
    return parse_recipe(values, sets, "engine bench")


def bench_recipe(recipe: Recipe, size: tuple[int, int] | None, batch: int | None) -> Recipe:
    """`recipe` with the stages that are measured: all of them; with a `size` the one of that size, else the first at
    it. All at `batch`, if that is given. Weights are not fetched: they do not change how long anything takes."""
    stages = recipe.stage
    if size is not None:
        stage = next((stage for stage in stages if stage.size == size), stages[0])
        stages = (stage.model_copy(update={"size": size}),)
    if batch is not None:
        stages = tuple(stage.model_copy(update={"batch": batch}) for stage in stages)
    model = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
    return recipe.model_copy(update={"stage": stages, "model": model})
