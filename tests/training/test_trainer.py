"""One fold: what is scored is what is saved, and the best of it is kept."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import EngineError
from engine.events import EpochEnded, EpochRecord, Event, Watcher
from engine.inference.member import Member
from engine.inference.members import Members
from engine.inference.scoring import Images, score
from engine.loader.batches import Loader
from engine.metrics import evaluate
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.resume import load_resume
from engine.store.run_folder import FoldFolder
from engine.training import trainer as fold_module
from engine.training.prepare import prepare
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Stage = Callable[..., dict[str, Any]]
Weights = dict[str, torch.Tensor]
CPU = torch.device("cpu")


class Snapshots(Watcher):
    """Keeps the weights at the end of every epoch, those trained and those scored."""

    def __init__(self, trainer: FoldTrainer) -> None:
        self.trainer = trainer
        self.trained: list[Weights] = []
        self.scored: list[Weights] = []
        self.records: list[EpochRecord] = []

    def hear(self, event: Event) -> None:
        if not isinstance(event, EpochEnded):
            return
        self.records.append(event.record)
        self.trained.append(copied(self.trainer.learner.model))
        self.scored.append(copied(self.trainer.learner.scored))


def copied(model: torch.nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(recipe: Recipe, tmp_path: Path) -> tuple[Path, Snapshots]:
    """Fold 0 of the recipe, trained; its folder."""
    prepared = prepare(recipe)
    trainer = FoldTrainer(recipe, 0, prepared.fold_data(0), FoldFolder(tmp_path / "0"), Ranks(0, 1, CPU))
    snapshots = Snapshots(trainer)
    trainer.train(snapshots, lambda: False)
    return tmp_path / "0", snapshots


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_scored_are_the_weights_saved(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, ema: float
) -> None:
    made = recipe(
        model={"backbone": "test_convnext", "head": "arcface", "pooling": "gem2", "dropout": 0.3},
        train={"ema": ema},
        stage=[make_stage(margin=0.1, drop_path=0.2), make_stage(size=(48, 40), epochs=1, batch=5)],
    )
    folder, _ = trained(made, tmp_path)
    saved = checkpoint.load(folder)
    # What `auto` came to is saved: answering must not depend on what it means elsewhere, or one day.
    assert (made.augment.filter, made.train.channels_last) == ("auto", "auto")
    assert (saved.contract["filter"], saved.recipe["train"]["channels_last"]) == ("bicubic", "on")

    # Answered anew from what was saved alone: weights, recipe, contract, classes.
    told = parse_recipe(saved.recipe)
    data = prepare(told).fold_data(0)
    images = Images(Loader(data.samples, told.decode, CPU), data.held_rows_N, 5)
    (answers,) = score(Members([Member.restored(saved, CPU)]), images, Ranks(0, 1, CPU))
    assert len(answers) == len(data.held_rows_N) and answers.classes == saved.classes
    assert evaluate(data.labelled(answers, 0)).metrics == pytest.approx(saved.metrics, abs=1e-5)


def test_with_an_average_it_is_the_average_that_is_saved(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    folder, snapshots = trained(recipe(train={"ema": 0.9}, stage=[make_stage(epochs=1)]), tmp_path)
    saved = dict(checkpoint.load(folder).weights)
    assert same(saved, snapshots.scored[0])
    assert not same(saved, snapshots.trained[0])


SCRIPT = [
    {"log_loss": 0.9, "accuracy": 0.5, "macro_f1": 0.30},
    {"log_loss": 0.5, "accuracy": 0.4, "macro_f1": 0.20},
    {"log_loss": 0.5, "accuracy": 0.9, "macro_f1": 0.40},  # not better than the epoch before: equal
    {"log_loss": float("nan"), "accuracy": 0.8, "macro_f1": 0.45},
]


@pytest.mark.parametrize(("select", "best"), [("log_loss", 1), ("accuracy", 2), ("macro_f1", 3)])
def test_the_best_epoch_by_the_chosen_metric_is_kept(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, best: int
) -> None:
    script = iter(SCRIPT)
    monkeypatch.setattr(fold_module, "score", lambda *_: next(script))
    stages = [make_stage(epochs=3), make_stage(size=40, epochs=1)]
    folder, snapshots = trained(recipe(train={"select": select}, stage=stages), tmp_path)
    saved = checkpoint.load(folder)
    assert same(dict(saved.weights), snapshots.scored[best])
    assert not same(dict(saved.weights), snapshots.scored[best - 1])
    assert json.dumps(saved.metrics) == json.dumps(SCRIPT[best])
    assert (saved.contract["height"], saved.contract["width"]) == ((40, 40) if best == 3 else (32, 32))
    assert max(i for i, record in enumerate(snapshots.records) if record.best) == best


@pytest.mark.parametrize("steps_heard", [1, 16])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_key_to_change(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps_heard: int
) -> None:
    monkeypatch.setattr(fold_module, "HEAR_EVERY", steps_heard)
    made = recipe(
        stage=[make_stage(epochs=1), make_stage(epochs=1, lr=1e30)], train={"schedule": {"warmup_epochs": 0.0}}
    )
    with pytest.raises(EngineError, match=r"the loss is (nan|inf) in fold 0, stage 1, epoch 2, step \d.*stage\.1\.lr"):
        trained(made, tmp_path)
    state = load_resume(FoldFolder(tmp_path / "0").resume)
    assert state is not None and state["position"]["run_epoch"] == 1  # of the last good epoch
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_the_caller_s_random_numbers_are_left_alone(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(recipe(stage=[make_stage(epochs=1)]), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_folds_start_from_different_weights_and_the_same_fold_from_the_same(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path
) -> None:
    made = recipe(stage=[make_stage(epochs=1)])
    data = prepare(made).fold_data(0)

    def first_weights(seed: int, fold: int) -> Weights:
        changed = made.model_copy(update={"seed": seed})
        return copied(FoldTrainer(changed, fold, data, FoldFolder(tmp_path), Ranks(0, 1, CPU)).learner.model)

    assert same(first_weights(1, 0), first_weights(1, 0))
    assert not same(first_weights(1, 0), first_weights(2, 0))
    assert not same(first_weights(1, 0), first_weights(1, 1))


def test_an_epoch_says_how_long_it_waited_for_its_batches(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Loader.train

    def slow(self: Loader, *args: Any) -> Any:
        for batch in begin(self, *args):
            time.sleep(0.2)
            yield batch

    quick = trained(recipe(stage=[make_stage()]), tmp_path / "quick")[1].records[1]
    monkeypatch.setattr(Loader, "train", slow)
    waiting = trained(recipe(stage=[make_stage()]), tmp_path / "slow")[1].records[1]
    assert quick.waited is not None and waiting.waited is not None
    assert 0 <= quick.waited < waiting.waited < 1
    assert waiting.waited * waiting.train_seconds >= 3 * 0.2  # three steps


def test_the_next_epoch_is_decoded_while_this_one_is_scored(
    recipe: MakeRecipe, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    begin, answer = Loader.train, fold_module.score_images

    def begun(self: Loader, *args: Any) -> Any:
        events.append("decode")
        return begin(self, *args)

    def scored(*args: Any) -> Any:
        events.append("score")
        return answer(*args)

    monkeypatch.setattr(Loader, "train", begun)
    monkeypatch.setattr(fold_module, "score_images", scored)
    trained(recipe(stage=[make_stage(), make_stage(size=40, epochs=1)]), tmp_path)
    # Epochs 0 and 1 of the first stage, epoch 2 of the second; nothing is decoded after the last.
    assert events == ["decode", "decode", "score", "decode", "score", "score"]


def test_no_thread_is_left_behind(recipe: MakeRecipe, make_stage: Stage, tmp_path: Path) -> None:
    def decoding() -> int:
        return sum(thread.name == "decode" for thread in threading.enumerate())

    trained(recipe(stage=[make_stage(epochs=1)]), tmp_path / "whole")
    assert decoding() == 0
    made = recipe(stage=[make_stage()])
    trainer = FoldTrainer(made, 0, prepare(made).fold_data(0), FoldFolder(tmp_path / "0"), Ranks(0, 1, CPU))
    asked = iter([False, False, False, True])  # at the end of the first epoch, when the second is being decoded
    with pytest.raises(EngineError):
        trainer.train(Watcher(), lambda: next(asked))
    assert decoding() == 0
