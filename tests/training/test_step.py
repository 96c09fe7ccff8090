"""The optimiser step: compiled or not it does the same, one graph for each shape."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from engine.augment.mix import MixedLabels, mixed_labels, with_mix
from engine.kernels import Plan
from engine.model.build import Classifier, build_model, set_drop_path
from engine.model.losses import build_loss
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection, TrainSection
from engine.recipe.sections.augment import MixSection
from engine.training.optim import build_optimizer
from engine.training.step import TrainStep

ARCFACE = ModelSection(backbone="test_convnext", pretrained=False, head="arcface", pooling="gem")
CPU = torch.device("cpu")


def batch(size: int) -> tuple[torch.Tensor, MixedLabels]:
    generator = torch.Generator().manual_seed(size)
    labels_B = torch.arange(6) % 3
    share_B = torch.rand(6, generator=generator)
    return torch.randn(6, 3, size, size, generator=generator), MixedLabels(labels_B, labels_B.flip(0), share_B)


def step_for(model: Classifier, section: ModelSection, compiled: bool) -> TrainStep:
    train = TrainSection(compile="on" if compiled else "off", weight_decay=0.01, label_smoothing=0.05)
    loss = build_loss(section, train)
    loss.set_margin(0.1 if section.head == "arcface" else 0.0)
    optimizer = build_optimizer(model, train)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    return TrainStep(model.train(), loss, optimizer, 1.0, Runtime.of(train, CPU))


def fresh(section: ModelSection) -> Classifier:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build_model(section, 3, (32, 32))


def test_a_stage_is_one_graph_and_trains_as_without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=counter, **options))
    plain, compiled = fresh(ARCFACE), fresh(ARCFACE)
    steps = [step_for(plain, ARCFACE, False), step_for(compiled, ARCFACE, True)]
    for stage, (size, drop_path) in enumerate([(32, 0.0), (40, 0.1)]):
        for model in (plain, compiled):
            set_drop_path(model, drop_path)
        for _ in range(3):
            losses = []
            for step in steps:
                torch.manual_seed(stage)
                losses.append(step(*batch(size)).item())
            assert losses[1] == pytest.approx(losses[0], rel=1e-3)
        assert counter.frame_count == stage + 1  # one graph a stage, without a break
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_goes_with_the_last_who_uses_it(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend="eager", **options))
    model = fresh(ARCFACE)
    step = step_for(model, ARCFACE, compiled)
    step(*batch(32))
    gone = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model, step
        assert gone() is None
    finally:
        gc.enable()


def test_many_stages_stay_compiled_and_another_fold_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=counter, **options))
    sizes = range(32, 32 + 10 * 4, 4)
    for _fold in range(2):
        step = step_for(fresh(ARCFACE), ARCFACE, True)
        for size in sizes:
            step(*batch(size))
        assert counter.frame_count == len(sizes)


def test_the_step_runs_as_it_is_compiled_on_a_cpu() -> None:
    """For real, by torch's own compiler; a model of one layer, because compiling is what takes the time."""
    torch._dynamo.reset()
    linear = ModelSection(backbone="test_convnext", pretrained=False)

    def tiny() -> Classifier:
        torch.manual_seed(0)
        return Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), None, nn.Linear(12, 3))

    with torch.random.fork_rng([]):
        plain, compiled = tiny(), tiny()
    steps = [step_for(plain, linear, False), step_for(compiled, linear, True)]
    losses = [[step(*batch(16)).item() for _ in range(2)] for step in steps]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][1] < losses[0][0]
    torch.testing.assert_close(compiled.head.weight, plain.head.weight)


def test_when_mixing_ends_nothing_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_(function, backend=counter, **options))
    step = step_for(fresh(ARCFACE), ARCFACE, compiled=True)
    images_BCHW, _ = batch(32)
    plan = Plan(32, 32, torch.eye(3).repeat(6, 1, 1), (0.5,) * 3, (0.2,) * 3)
    plans = (with_mix(plan, MixSection(cutmix=1.0, p=1.0), torch.arange(6), 0, 0), plan)
    for each in plans:
        for _ in range(2):
            step(images_BCHW, mixed_labels(each, torch.arange(6) % 3))
    assert counter.frame_count == 1
