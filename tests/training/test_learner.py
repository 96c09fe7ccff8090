"""A learner by itself: no files, no folds, no loader."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from engine.augment.mix import MixedLabels
from engine.errors import RecipeError
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.training.learner import Learner
from engine.training.position import own_randomness, seed_torch

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]


def recipe(**changes: Any) -> Recipe:
    stage = {"size": 32, "batch": 4, "epochs": 3, "lr": 1e-2}
    return parse_recipe(
        {
            "model": {"backbone": "test_convnext", "pretrained": False} | changes.pop("model", {}),
            "train": changes,
            "stage": [stage],
        }
    )


def learner(made: Recipe, seed: int = 1) -> Learner:
    with own_randomness(CPU):
        seed_torch(seed)
        one = Learner(made.model, made.train, 3, (32, 32), Runtime.of(made.train, CPU))
    one.begin_stage(made.stage[0])
    one.begin_epoch(made.stage[0], 0)
    one.set_rate(made.stage[0].lr)
    return one


def batch(number: int, count: int = 4) -> Batch:
    random = torch.Generator().manual_seed(number)
    images_BCHW = torch.randn(count, 3, 32, 32, generator=random)
    own_B = torch.randint(0, 3, (count,), generator=random)
    labels = MixedLabels(own_B, own_B.flip(0), torch.rand(count, generator=random))
    return Batch(images_BCHW, labels, np.arange(count))


def weights(model: torch.nn.Module) -> Weights:
    return copy.deepcopy(model.state_dict())


def same(a: Weights, b: Weights) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_weights_and_their_average_change_with_the_last_part_of_a_step() -> None:
    one = learner(recipe(ema=0.9))
    assert one.average is not None
    before, average = weights(one.model), weights(one.average.model)
    one.take_step(batch(0), part=0, parts=2)
    assert same(before, weights(one.model)) and same(average, weights(one.average.model))
    one.take_step(batch(1), part=1, parts=2)
    assert not same(before, weights(one.model)) and not same(average, weights(one.average.model))
    assert one.average.steps == 1


def test_two_half_batches_make_the_step_of_a_whole_one() -> None:
    whole, halves = learner(recipe(clip=0.0)), learner(recipe(clip=0.0))
    images, labels, rows = batch(0, 8)
    whole.take_step(Batch(images, labels, rows))
    for part, at in enumerate((slice(0, 4), slice(4, 8))):
        halves.take_step(Batch(images[at], MixedLabels(*(each[at] for each in labels)), rows[at]), part, 2)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(tensor, halves.model.state_dict()[name], atol=2e-3, rtol=0)


def test_what_is_scored_is_the_mean_then_the_average_then_the_model() -> None:
    plain, averaged = learner(recipe()), learner(recipe(ema=0.9, swa_epochs=1))
    assert plain.scored is plain.model
    assert averaged.average is not None and averaged.mean is not None
    assert averaged.scored is averaged.average.model
    averaged.take_into_mean()
    assert averaged.scored is averaged.mean.model


def test_going_on_from_a_saved_state_changes_no_bit() -> None:
    made = recipe(ema=0.9, swa_epochs=2)
    one, other = learner(made), learner(made, seed=2)
    one.take_step(batch(0))
    one.take_into_mean()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for going_on in (one, other):
        going_on.set_rate(5e-3)
        going_on.take_step(batch(1))
        going_on.take_into_mean()
    assert same(weights(one.model), weights(other.model)) and same(weights(one.scored), weights(other.scored))


def test_other_weights_come_with_a_new_optimiser() -> None:
    one, other = learner(recipe()), learner(recipe(), seed=2)
    one.take_step(batch(0))
    assert one.optimizer.state_dict()["state"]
    one.start_from(weights(other.model))
    assert same(weights(one.model), weights(other.model)) and not one.optimizer.state_dict()["state"]
    one.begin_epoch(recipe().stage[0], 1)
    one.set_rate(1e-2)
    one.take_step(batch(1))
    assert not same(weights(one.model), weights(other.model))


def test_a_margin_needs_a_head_with_angles() -> None:
    made = recipe(model={"head": "arcface"})
    learner(made).begin_stage(made.stage[0].model_copy(update={"margin": 0.2}))
    with pytest.raises(RecipeError, match="arcface"):
        learner(recipe()).begin_stage(made.stage[0].model_copy(update={"margin": 0.2}))
