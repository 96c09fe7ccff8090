"""Runs with the ways of taking a step that change how it is computed: they end, go on where they were stopped, and what
they save is read without them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.errors import Interrupted, RecipeError
from engine.inference.member import Member
from engine.predictions import Predictions
from engine.recipe.sections import Recipe
from engine.store import checkpoint

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]

WAYS: dict[str, Any] = {
    "model": {"backbone": "test_convnext", "pretrained": False, "fused": "all", "pooling": "gem", "dropout": 0.1},
    "train": {"precision": "bf16_weights", "cuda_graphs": False, "ema": 0.9, "compile": "off"},
}


def ways(make_stage: Stage) -> dict[str, Any]:
    stages = [
        make_stage(drop_path=0.1, accumulate=2, batch=4, epochs=1),
        make_stage(epochs=1, checkpoint_activations=True),
    ]
    return WAYS | {"stage": stages}


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "0" / "weights.safetensors")


def test_a_run_stopped_and_gone_on_saves_what_a_whole_one_saves(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path
) -> None:
    whole, told = run(recipe(output=str(tmp_path / "whole"), **ways(make_stage)))
    assert any('model.fused = "all" changes nothing on the CPU' in line for line in told.notices)
    pieces, asked = 0, itertools.count(1)
    while True:
        pieces += 1
        try:
            run(recipe(output=str(tmp_path / "pieces"), **ways(make_stage)), stop=lambda: next(asked) % 4 == 0)
        except Interrupted:
            continue
        break
    assert pieces > 2
    expected, found = saved(whole.folder), saved(tmp_path / "pieces")
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert {tensor.dtype for tensor in expected.values() if tensor.is_floating_point()} == {torch.float32}

    kept = checkpoint.load(whole.folder / "0")
    member = Member.restored(kept, torch.device("cpu"))
    plain = {**kept.recipe, "model": {**kept.recipe["model"], "fused": "off"}}
    other = Member.restored(checkpoint.Checkpoint(**{**vars(kept), "recipe": plain}), torch.device("cpu"))
    images_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(member.model.eval()(images_BCHW), other.model.eval()(images_BCHW))
    held = Predictions.read(whole.folder / "oof.parquet")
    assert np.isfinite(held.probabilities_NC).all()


def test_a_recipe_that_the_backbone_cannot_follow_is_refused_before_training(
    recipe: MakeRecipe, run: Run, make_stage: Stage
) -> None:
    lite = {"backbone": "test_efficientnet", "pretrained": False}
    with pytest.raises(RecipeError, match=r"model.fused = .norm.: test_efficientnet has no LayerNorms"):
        run(recipe(model=lite | {"fused": "norm"}))
    with pytest.raises(RecipeError, match=r"checkpoint_activations: EfficientNet has .* batch norms"):
        run(recipe(model=lite, stage=[make_stage(checkpoint_activations=True)]))
