"""The next stage's step is compiled by another process while the stage before it is learnt, for the very batches that
will come."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from engine.errors import Interrupted
from engine.events import Watcher
from engine.model.runtime import Runtime
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection
from engine.store.run_folder import FoldFolder
from engine.training import ahead, step, trainer
from engine.training.ahead import Ahead, Task, compile_step, made_up_batch, worth_it
from engine.training.feed import Feed
from engine.training.learner import Learner
from engine.training.prepare import prepare
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Stage = Callable[..., dict[str, Any]]
HERE = Ranks(0, 1, torch.device("cpu"))


class Compiling:
    """In place of a process: what it was asked for, and what became of it."""

    made: ClassVar[list[Compiling]] = []

    def __init__(self, task: Task) -> None:
        self.task, self.waited, self.closed = task, False, False
        Compiling.made.append(self)

    def wait(self) -> bool:
        self.waited = True
        return True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> list[Compiling]:
    """Nothing is compiled, here or elsewhere."""
    monkeypatch.setattr(step.torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(trainer, "Ahead", Compiling)
    monkeypatch.setattr(trainer, "_COMPILED", set())
    monkeypatch.setattr(Compiling, "made", [])
    return Compiling.made


def train(made: Recipe, folder: Path, stop: Callable[[], bool] = lambda: False) -> FoldTrainer:
    trained = FoldTrainer(made, 0, prepare(made).fold_data(0), FoldFolder(folder), HERE)
    trained.train(Watcher(), stop)
    return trained


def test_each_stage_is_compiled_beside_the_one_before(
    recipe: MakeRecipe, make_stage: Stage, compiling: list[Compiling], tmp_path: Path
) -> None:
    stages = [make_stage(), make_stage(size=48, epochs=1), make_stage(size=48, epochs=1, lr=1e-4)]
    made = recipe(train={"compile": "on"}, stage=stages)
    train(made, tmp_path / "a")
    (one,) = compiling  # the third stage's step is the second's
    assert (one.task.stage, one.waited) == (made.stage[1], True)
    train(made, tmp_path / "b")
    assert len(compiling) == 1  # a second fold has it from the first


def test_nothing_is_compiled_ahead_where_nothing_is_compiled(
    recipe: MakeRecipe, make_stage: Stage, compiling: list[Compiling], tmp_path: Path
) -> None:
    train(recipe(stage=[make_stage(epochs=1), make_stage(size=48, epochs=1)]), tmp_path)
    assert not compiling


def test_a_run_that_ends_early_ends_the_process(
    recipe: MakeRecipe, make_stage: Stage, compiling: list[Compiling], tmp_path: Path
) -> None:
    made = recipe(train={"compile": "on"}, stage=[make_stage(epochs=1), make_stage(size=48, epochs=1)])
    with pytest.raises(Interrupted):
        train(made, tmp_path, stop=lambda: bool(compiling))
    (one,) = compiling
    assert one.closed and not one.waited


@pytest.mark.parametrize(("changes", "expected"), [({}, False), ({"lr": 1e-5}, False), ({"size": (48, 48)}, True)])
def test_only_what_changes_the_step_is_worth_compiling(changes: dict[str, Any], expected: bool) -> None:
    stage = StageSection(size=(32, 32), batch=4, epochs=1, lr=1e-3)
    assert StageSection.model_fields.keys() >= ahead.NOT_COMPILED
    runtime = Runtime(HERE.device, bf16=False, channels_last=True, compile=True)
    assert worth_it(runtime, HERE, stage, stage.model_copy(update=changes)) is expected
    assert not worth_it(runtime, Ranks(0, 2, HERE.device), stage, stage.model_copy(update=changes))


def test_what_is_compiled_for_is_what_the_loader_brings(recipe: MakeRecipe, make_stage: Stage) -> None:
    """Guards of compiled code look at type, shape, strides and dtype; anything else there is compiled anew."""
    made = recipe(stage=[make_stage(size=(32, 40))], augment={"mix": [{"mixup": 0.2}]})
    data = prepare(made).fold_data(0)
    feed = Feed(made, data, HERE, torch.float32)
    batches = feed.epoch(made.stage[0], 0)
    real = next(batches)
    runtime = Runtime.of(made.train, HERE.device)
    made_up = made_up_batch(made.stage[0], runtime, None, len(data.classes))
    assert type(real.labels) is type(made_up.labels)
    for one, other in zip((real.images_BCHW, *real.labels), (made_up.images_BCHW, *made_up.labels), strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert one.requires_grad == other.requires_grad
    assert len({tensor.data_ptr() for tensor in made_up.labels}) == len({tensor.data_ptr() for tensor in real.labels})
    batches.close()


def test_a_task_survives_its_way_to_the_other_process(recipe: MakeRecipe, make_stage: Stage) -> None:
    made = recipe(stage=[make_stage(), make_stage(size=(48, 40), drop_path=0.2)], train={"ema": 0.9})
    labels = made_up_batch(made.stage[0], Runtime.of(made.train, HERE.device), 2.0, 3).labels
    task = Task.of(made, made.stage[1], (4, 5, 6), labels, HERE.device)
    assert Task.read(task.text()) == task
    assert (task.temperature, task.built_for, task.train.ema) == (2.0, (32, 32), 0.0)


def test_the_other_process_builds_what_training_builds_and_runs_none_of_it(
    recipe: MakeRecipe, make_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(stage=[make_stage(), make_stage(size=(48, 40), drop_path=0.2)])
    seen: list[tuple[torch.Size, int, bool]] = []

    def loss_of(self: Learner, batch: Any) -> None:
        drops = [m.drop_prob for m in self.model.modules() if hasattr(m, "drop_prob")]
        seen.append((batch.images_BCHW.shape, len(self.loss.state_dict()), max(drops) == pytest.approx(0.2)))
        raise ahead._Compiled

    monkeypatch.setattr(Learner, "loss_of", loss_of)
    monkeypatch.setattr(ahead, "_run_nothing", lambda: None)
    labels = made_up_batch(made.stage[0], Runtime.of(made.train, HERE.device), None, 3).labels
    compile_step(Task.of(made, made.stage[1], (4, 5, 6), labels, HERE.device))
    assert [shape for shape, _, drops in seen if drops] == [torch.Size([8, 3, 48, 40])]


def test_a_process_that_fails_is_told_from_one_that_did_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return started([sys.executable, "-c", "import sys; sys.exit('lr' not in sys.stdin.read())"], **options)

    monkeypatch.setattr(ahead.subprocess, "Popen", popen)
    for text, expected in ((json.dumps({"lr": 1}), True), ("{}", False)):
        monkeypatch.setattr(Task, "text", lambda self, text=text: text)
        assert Ahead(object.__new__(Task)).wait(30) is expected


def test_where_no_process_can_be_started_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(Task, "text", lambda self: "{}")
    monkeypatch.setattr(ahead.subprocess, "Popen", popen)
    none = Ahead(object.__new__(Task))
    assert none.done and not none.wait(30)
    none.close()


def test_a_process_that_ends_before_it_has_read_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of many classes is longer than a pipe holds."""
    started = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return started([sys.executable, "-c", "raise SystemExit(1)"], **options)

    monkeypatch.setattr(ahead.subprocess, "Popen", popen)
    monkeypatch.setattr(Task, "text", lambda self: "1" * 2_000_000)
    assert not Ahead(object.__new__(Task)).wait(30)
