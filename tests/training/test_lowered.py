"""Steps through a bf16 copy of the backbone: what is bf16, what stays float32, and that the model is its masters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import LayerNorm
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.modules.batchnorm import _BatchNorm

from engine.augment.mix import MixedLabels
from engine.errors import RecipeError
from engine.loader.batches import Batch
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.recipe.sections import ModelSection, Recipe
from engine.training.learner import Learner
from engine.training.lowered import Lowered, check_lowered
from engine.training.position import own_randomness, seed_torch

CPU = torch.device("cpu")
SIZE = (32, 32)


def recipe(backbone: str = "test_convnext", stage: dict[str, Any] | None = None, **train: Any) -> Recipe:
    base = {"size": 32, "batch": 4, "epochs": 3, "lr": 1e-3}
    model = {"backbone": backbone, "pretrained": False, "pooling": train.pop("pooling", "avg")}
    return parse_recipe(
        {"model": model, "train": {"precision": "bf16_weights"} | train, "stage": [base | (stage or {})]}
    )


def learner(made: Recipe, epoch: int = 0, seed: int = 1) -> Learner:
    with own_randomness(CPU):
        seed_torch(seed)
        one = Learner(made.model, made.train, 3, SIZE, Runtime.of(made.train, CPU))
    one.begin_stage(made.stage[0])
    one.begin_epoch(made.stage[0], epoch)
    one.set_rate(made.stage[0].lr)
    return one


def batch(number: int) -> Batch:
    random = torch.Generator().manual_seed(number)
    labels_B = torch.randint(0, 3, (4,), generator=random)
    labels = MixedLabels(labels_B, labels_B.flip(0), torch.rand(4, generator=random))
    return Batch(torch.randn(4, 3, *SIZE, generator=random), labels, np.arange(4))


def built(backbone: str, pooling: str = "avg") -> Classifier:
    with own_randomness(CPU):
        seed_torch(1)
        section = ModelSection(backbone=backbone, pretrained=False, pooling=pooling)  # type: ignore[arg-type]
        return build_model(section, 3, SIZE)


@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet", "test_vit"])
def test_the_backbone_is_bf16_but_for_batch_norms_and_all_else_is_the_models_own(backbone: str) -> None:
    model = built(backbone, "gem" if backbone == "test_convnext" else "avg")
    low = Lowered(model).model
    norms = {id(p) for m in low.backbone.modules() if isinstance(m, _BatchNorm) for p in m.parameters()}
    for (name, master), (_, own) in zip(model.named_parameters(), low.named_parameters(), strict=True):
        stays = name.split(".")[0] in ("pool", "head") or id(own) in norms
        assert (own is master) == stays, name
        assert own.dtype == (torch.float32 if stays else torch.bfloat16), name
    for (name, theirs), (_, buffer) in zip(model.named_buffers(), low.named_buffers(), strict=True):
        if "running" in name:
            assert buffer is theirs


def test_maps_are_bf16_from_the_first_to_the_last_and_logits_as_under_autocast() -> None:
    model = built("test_convnext").eval()
    low = Lowered(model).model
    kinds: set[torch.dtype] = set()
    for module in low.backbone.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, made: kinds.add(made.dtype))
    images_BCHW = torch.randn(8, 3, *SIZE)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = low(images_BCHW), model(images_BCHW)
    assert kinds == {torch.bfloat16} and found.dtype == expected.dtype == torch.bfloat16
    with torch.no_grad():
        exact = model(images_BCHW)
    errors = [(answer.float() - exact).abs().mean().item() for answer in (found, expected)]
    assert errors[0] <= 3 * errors[1]


def test_gradients_come_to_the_masters_in_float32_and_weights_go_back() -> None:
    model = built("test_convnext").train()
    lowered = Lowered(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered.model(torch.randn(4, 3, *SIZE)).float().square().sum().backward()
    low = lowered.model.backbone.stem[0].weight
    master = model.backbone.stem[0].weight
    assert low.grad is not None
    once: Tensor = low.grad.float()
    lowered.hand_over()
    assert low.grad is None and master.grad is not None and master.grad.dtype == torch.float32
    assert torch.equal(master.grad, once)
    low.grad = once.to(torch.bfloat16)
    lowered.hand_over()
    torch.testing.assert_close(master.grad, 2 * once)
    with torch.no_grad():
        master.fill_(0.3)
    lowered.take_over()
    assert torch.equal(low, torch.full_like(low, 0.3))


def test_small_changes_add_up_in_the_masters() -> None:
    """Each is below what bf16 can tell, so weights kept in it would never move."""
    made = recipe(optimizer="sgd", momentum=0.5, weight_decay=0.0)
    one = learner(made)
    one.set_rate(1e-6)
    before = copy.deepcopy(one.model.state_dict())
    for number in range(3):
        one.take_step(batch(number))
    moved = [name for name, tensor in one.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(moved) > len(before) / 2
    assert all(
        tensor.dtype == torch.float32 for tensor in one.model.state_dict().values() if tensor.is_floating_point()
    )


@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet"])
def test_it_learns_as_bf16_autocast_does(backbone: str) -> None:
    losses = []
    for precision in ("bf16", "bf16_weights"):
        one = learner(recipe(backbone, precision=precision))
        losses.append([one.take_step(batch(number % 2)).item() for number in range(12)])
    assert losses[1] == pytest.approx(losses[0], rel=0.15)
    assert sum(losses[1][-2:]) < 0.8 * sum(losses[1][:2])


def test_going_on_from_a_saved_state_changes_no_bit() -> None:
    made = recipe(ema=0.9)
    one, other = learner(made), learner(made, seed=2)
    one.take_step(batch(0))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for going_on in (one, other):
        going_on.begin_stage(made.stage[0])
        going_on.begin_epoch(made.stage[0], 0)
        going_on.set_rate(5e-4)
        going_on.take_step(batch(1))
    assert one.average is not None and other.average is not None
    for mine, theirs in ((one.model, other.model), (one.average.model, other.average.model)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_what_is_frozen_stays_and_learns_later() -> None:
    made = recipe(stage={"head_only": 1})
    one = learner(made)
    stem = one.model.backbone.stem[0].weight
    before = stem.detach().clone()
    one.take_step(batch(0))
    assert torch.equal(stem, before)
    one.begin_epoch(made.stage[0], 1)
    one.take_step(batch(0))
    assert not torch.equal(stem, before)


def test_batches_of_a_step_add_up_in_float32() -> None:
    made = recipe(stage={"accumulate": 2}, clip=0.0)
    one = learner(made)
    handed: list[Tensor] = []
    weight = one.model.backbone.stem[0].weight
    for part in range(2):
        one.take_step(batch(part), part, 2)
        if weight.grad is not None:
            handed.append(weight.grad.clone())
    assert len(handed) == 1 and handed[0].dtype == torch.float32
    assert weight.grad is None


def test_weights_that_two_modules_share_stay_shared() -> None:
    model = built("test_convnext")
    blocks: Any = model.backbone.stages[1].blocks
    blocks[1].norm.weight = blocks[0].norm.weight
    low: Any = Lowered(model).model.backbone.stages[1].blocks
    assert low[1].norm.weight is low[0].norm.weight and low[0].norm.weight.dtype == torch.bfloat16


def test_a_backbone_that_cannot_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    section = ModelSection(backbone="test_convnext", pretrained=False)
    check_lowered(section, 3, SIZE)
    monkeypatch.setattr(LayerNorm, "forward", lambda self, maps: maps.float() @ maps)
    with pytest.raises(RecipeError, match=r'"bf16_weights": test_convnext cannot do with bf16 alone \(.*use "bf16"'):
        check_lowered(section, 3, SIZE)


def test_a_compiled_step_is_one_graph_and_learns_as_an_uncompiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compile_ = torch.compile

    def counted(function: Any, **options: Any) -> Any:
        return compile_(function, backend=counter, dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", counted)
    losses = []
    for switch in ("off", "on"):
        one = learner(recipe(compile=switch))
        with own_randomness(CPU):
            seed_torch(1)
            losses.append([one.take_step(batch(number)).item() for number in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert counter.frame_count == 1
