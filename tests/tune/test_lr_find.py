"""The range test takes a run's own steps, at its own rates, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.events import EpochEnded, EpochRecord, Event, ImagesDone, Watcher
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.training.prepare import prepare
from engine.training.run import train
from engine.tune.curve import Curve
from engine.tune.lr_find import range_test

MakeRecipe = Callable[..., Recipe]


class Diary(Watcher):
    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.images: list[int] = []

    def hear(self, event: Event) -> None:
        match event:
            case EpochEnded(record=record):
                self.records.append(record)
            case ImagesDone(count=count):
                self.images.append(count)


def fill(recipe: Recipe, ranks: Ranks, curve: Curve, stage: int = 0) -> list[int]:
    """Fill the curve; the images of each step."""
    diary = Diary()
    range_test(prepare(recipe), stage, curve, ranks, diary)
    return diary.images


def test_its_first_loss_is_that_of_a_runs_first_step(recipe: MakeRecipe, ranks: Ranks) -> None:
    """The same images in the same order, augmented and mixed alike, in a model with the same start."""
    one_step = recipe("stage.0.batch=8", "stage.0.epochs=1", "data.folds.run=[1]", "train.label_smoothing=0.1")
    diary = Diary()
    train(prepare(one_step), ranks, diary, lambda: False)
    curve = Curve(1e-6, 1e-3, 2)
    fill(one_step, ranks, curve)
    assert curve.losses[0] == diary.records[0].train_loss


def test_it_goes_on_beyond_an_epoch_and_writes_nothing(recipe: MakeRecipe, ranks: Ranks, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    curve = Curve(1e-6, 1e-3, 11)
    assert fill(recipe(), ranks, curve) == [4] * 11  # an epoch has two steps
    assert len(curve.losses) == 11
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_rate_rises_until_the_loss_runs_away(recipe: MakeRecipe, ranks: Ranks) -> None:
    sgd = recipe("train.optimizer=sgd", "train.clip=0")
    calm, wild = Curve(1e-9, 1e-8, 20), Curve(1e-3, 1e6, 20)
    fill(sgd, ranks, calm)
    fill(sgd, ranks, wild)
    assert not calm.diverged and len(calm.losses) == 20
    assert wild.diverged and len(wild.losses) < 20


def test_the_heads_multiplier_counts(recipe: MakeRecipe, ranks: Ranks) -> None:
    """A head that learns alone at five times the rate is one that learns at a rate five times as high."""
    multiplied, higher, plain = Curve(1e-5, 1e-2, 10), Curve(5e-5, 5e-2, 10), Curve(1e-5, 1e-2, 10)
    fill(recipe("stage.0.head_only=2", "train.head_lr_multiplier=5.0"), ranks, multiplied)
    fill(recipe("stage.0.head_only=2"), ranks, higher)
    fill(recipe("stage.0.head_only=2"), ranks, plain)
    assert multiplied.losses == pytest.approx(higher.losses, rel=1e-5)
    assert multiplied.losses != pytest.approx(plain.losses, rel=1e-5)


def test_another_stage_has_its_own_batch_and_accumulation(recipe: MakeRecipe, ranks: Ranks) -> None:
    second = '{size = [32, 48], batch = 2, epochs = 1, lr = 1e-3, accumulate = 2, start_from = "best"}'
    two = recipe(f"stage=[{{size = 32, batch = 8, epochs = 3, lr = 1e-3}}, {second}]")
    curve = Curve(1e-6, 1e-3, 3)
    assert fill(two, ranks, curve, stage=1) == [4] * 3
    assert len(curve.losses) == 3
