"""Steps that are recorded: the same weights as without, whatever is recorded and when. A stand-in for CUDA's graphs,
which does again what it recorded, shows that nothing is read from where it lay before; a real one needs a GPU."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from engine.augment.mix import Labels, MixedLabels, TaughtLabels
from engine.errors import RecipeError
from engine.loader.batches import Batch
from engine.model.runtime import Runtime, check_speed
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe, TrainSection
from engine.training import recording, step
from engine.training.learner import Learner
from engine.training.position import own_randomness, seed_torch
from engine.training.recording import TAKEN_FIRST, Recording

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BASE: dict[str, Any] = {
    "model": {"backbone": "test_convnext", "pretrained": False},
    "stage": [{"size": 32, "batch": 4, "epochs": 3, "lr": 1e-3, "drop_path": 0.2}],
}


class Again:
    """In a graph's place: records by keeping the function, whose result stays where it was at first."""

    made: ClassVar[list[Again]] = []

    def __init__(self) -> None:
        self.runs = self.replays = 0
        Again.made.append(self)

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        self.runs += 1
        return function()

    def record(self, function: Callable[[], Tensor]) -> Tensor:
        self.function, self.result = function, torch.zeros(())
        return self.result

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.function())


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Again]:
    monkeypatch.setattr(Again, "made", [])
    monkeypatch.setattr(step, "Recording", lambda: Recording(Again))
    return Again.made


def recipe(**train: Any) -> Recipe:
    return parse_recipe(BASE | {"train": train})


def learner(made: Recipe, recorded: bool, seed: int = 1) -> Learner:
    runtime = dataclasses.replace(Runtime.of(made.train, CPU), cuda_graphs=recorded)
    with own_randomness(CPU):
        seed_torch(seed)
        return Learner(made.model, made.train, 3, (32, 32), runtime)


def batch(number: int, count: int = 4) -> Batch:
    random = torch.Generator().manual_seed(number)
    labels_B = torch.randint(0, 3, (count,), generator=random)
    labels = MixedLabels(labels_B, labels_B.flip(0), torch.rand(count, generator=random))
    images_BCHW = torch.randn(count, 3, 32, 32, generator=random).to(memory_format=torch.channels_last)
    return Batch(images_BCHW, labels, labels_B.numpy())


def trained(one: Learner, made: Recipe, steps: range) -> list[float]:
    losses = []
    one.begin_stage(made.stage[0])
    one.begin_epoch(made.stage[0], 0)
    with own_randomness(CPU):
        for number in steps:
            seed_torch(number)
            one.set_rate(2**-10 * (1 + number))  # the same in float32, as it lies on a device, and in float64
            losses.append(one.take_step(batch(number)))
    return [loss.item() for loss in losses]  # read at the end, as the trainer does


def same(one: Learner, other: Learner) -> bool:
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("precision", ["fp32", "bf16_weights"])
def test_recorded_steps_train_as_they_do_unrecorded(precision: str, graphs: list[Again]) -> None:
    made = recipe(precision=precision, ema=0.9)
    plain, recorded = learner(made, recorded=False), learner(made, recorded=True)
    losses = [trained(one, made, range(TAKEN_FIRST + 4)) for one in (plain, recorded)]
    assert losses[0] == losses[1] and len(set(losses[0])) == len(losses[0])
    assert same(plain, recorded)
    assert [(each.runs, each.replays) for each in graphs] == [(TAKEN_FIRST, 4)]


def test_rates_and_counters_lie_where_a_recording_sees_them_change() -> None:
    one = learner(recipe(), recorded=True)
    trained(one, recipe(), range(2))
    groups = one.optimizer.param_groups
    assert all(isinstance(group["lr"], Tensor) and group["capturable"] for group in groups)
    before = [group["lr"].data_ptr() for group in groups]
    one.set_rate(0.25)
    assert [group["lr"].data_ptr() for group in groups] == before
    assert all(group["lr"].item() == 0.25 for group in groups)


@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
def test_going_on_recorded_or_not_changes_no_bit(first: bool, then: bool) -> None:
    made = recipe()
    through, begun = learner(made, recorded=first), learner(made, recorded=first)
    going_on = learner(made, recorded=then, seed=2)
    trained(through, made, range(8))
    trained(begun, made, range(4))
    going_on.load_state_dict(begun.state_dict())
    assert all(isinstance(group["lr"], Tensor) == then for group in going_on.optimizer.param_groups)
    trained(going_on, made, range(4, 8))
    assert same(through, going_on)


def test_another_stage_and_another_shape_are_recorded_anew(graphs: list[Again]) -> None:
    made = recipe()
    one = learner(made, recorded=True)
    trained(one, made, range(TAKEN_FIRST + 1))
    trained(one, made, range(TAKEN_FIRST + 1))  # a stage may drop more of the depth, which is no number of the device's
    assert len(graphs) == 2
    for number in range(2):
        one.take_step(batch(number, count=6))
    assert len(graphs) == 3


def test_what_layers_learn_is_recorded_anew(graphs: list[Again]) -> None:
    made = recipe()
    frozen = made.stage[0].model_copy(update={"head_only": 1})
    one = learner(made, recorded=True)
    one.begin_stage(frozen)
    for epoch in range(2):
        one.begin_epoch(frozen, epoch)
        one.set_rate(1e-3)
        for number in range(TAKEN_FIRST + 1):
            one.take_step(batch(number))
    assert len(graphs) == 2


def test_a_teachers_labels_are_copied_too_and_its_temperature_is_part_of_the_shape(graphs: list[Again]) -> None:
    heard: list[tuple[float, float]] = []

    def take(images_BCHW: Tensor, labels: Labels) -> Tensor:
        assert isinstance(labels, TaughtLabels)
        heard.append((labels.answer_BC.sum().item(), labels.temperature))
        return images_BCHW.sum()

    recorded = Recording(Again)
    for number, temperature in enumerate([2.0] * 5 + [3.0]):
        shares_B = torch.full((4,), float(number))
        classes_B = torch.zeros(4, dtype=torch.int64)
        labels = TaughtLabels(classes_B, classes_B, shares_B, shares_B, torch.full((4, 3), number / 12), temperature)
        recorded(take, torch.ones(4, 3, 8, 8), labels)
    assert heard == [(pytest.approx(n), 2.0) for n in range(5)] + [(pytest.approx(5), 3.0)]
    assert len(graphs) == 2


def test_a_recording_does_not_keep_the_model() -> None:
    one = learner(recipe(), recorded=True)
    trained(one, recipe(), range(1))
    gone = weakref.ref(one.model)
    gc.collect()
    gc.disable()
    try:
        del one
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("train", "stage", "words"),
    [
        ({"cuda_graphs": True, "optimizer": "sgd"}, {}, "counts its steps on the host"),
        ({"cuda_graphs": True, "compile_mode": "reduce-overhead"}, {}, "records what is compiled already"),
        ({"compile": "off", "compile_mode": "max-autotune"}, {}, "nothing is compiled"),
        ({"cuda_graphs": True}, {"accumulate": 2}, "train.cuda_graphs records steps of one batch"),
        ({"compile_mode": "reduce-overhead"}, {"accumulate": 2}, '"reduce-overhead" records steps of one batch'),
        ({"cuda_graphs": True}, {"checkpoint_activations": True}, "state of the random numbers"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_words(train: dict[str, Any], stage: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe(BASE | {"train": train, "stage": [BASE["stage"][0] | stage]})


def test_what_may_stand_together_does() -> None:
    stage = BASE["stage"][0]
    for train in (
        {"cuda_graphs": True, "compile": "on", "compile_mode": "max-autotune-no-cudagraphs"},
        {"cuda_graphs": True, "precision": "bf16_weights", "ema": 0.9},
        {"compile_mode": "reduce-overhead"},
    ):
        parse_recipe(BASE | {"train": train, "stage": [stage]})
    parse_recipe(BASE | {"stage": [stage | {"accumulate": 2, "checkpoint_activations": True}]})


def test_several_processes_are_refused_and_a_cpu_is_told() -> None:
    recorded, lowered = TrainSection(cuda_graphs=True), TrainSection(precision="bf16_weights")
    with pytest.raises(RecipeError, match="the step of one process"):
        check_speed(recorded, GPU, 2, accumulates=False)
    with pytest.raises(RecipeError, match="gradients up in bf16"):
        check_speed(lowered, GPU, 2, accumulates=True)
    assert check_speed(lowered, GPU, 2, accumulates=False) == []
    assert check_speed(recorded, CPU, 1, accumulates=False) == [
        "train.cuda_graphs changes nothing on the CPU: it is for GPUs"
    ]
    assert not Runtime.of(recorded, CPU).cuda_graphs and Runtime.of(recorded, GPU).cuda_graphs
    (told,) = check_speed(TrainSection(compile_mode="max-autotune"), CPU, 1, accumulates=False)
    assert "the step is not compiled here" in told


@pytest.mark.gpu
def test_a_real_graph_trains_as_the_steps_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "Recording", recording.Recording)
    made = parse_recipe(BASE | {"train": {"cuda_graphs": True, "compile": "off"}})
    found = []
    for recorded in (False, True):
        runtime = dataclasses.replace(Runtime.of(made.train, GPU), cuda_graphs=recorded)
        with own_randomness(GPU):
            seed_torch(1)
            one = Learner(made.model, made.train, 3, (32, 32), runtime)
            one.begin_stage(made.stage[0])
            one.begin_epoch(made.stage[0], 0)
            for number in range(TAKEN_FIRST + 4):
                seed_torch(number)
                one.set_rate(1e-3)
                images_BCHW, labels, rows = batch(number)
                images_BCHW = images_BCHW.to(GPU, runtime.dtype)
                loss = one.take_step(Batch(images_BCHW, MixedLabels(*(each.to(GPU) for each in labels)), rows))
        found.append((loss.item(), one.model.state_dict()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-2)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(tensor, found[1][1][name], rtol=1e-2, atol=1e-3)
