"""Activations that are computed again instead of kept: the same step in less memory, and whom it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import RecipeError
from engine.model.build import Classifier, build_model, build_shapes, set_checkpointing, set_drop_path
from engine.recipe.sections import ModelSection, StageSection, TrainSection
from engine.training.memory import step_memory
from engine.training.position import own_randomness, seed_torch

CPU = torch.device("cpu")
SECTION = ModelSection(backbone="test_convnext", pretrained=False)


def built(backbone: str = "test_convnext") -> Classifier:
    with own_randomness(CPU):
        seed_torch(1)
        return build_model(SECTION.model_copy(update={"backbone": backbone}), 3, (32, 32))


def kept_and_gradients(model: Classifier, on: bool) -> tuple[int, list[Tensor]]:
    """Bytes of maps that wait for the gradients, and these."""
    set_checkpointing(model, on)
    set_drop_path(model, 0.3)
    model.train().zero_grad()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images_BCHW = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with own_randomness(CPU):
        seed_torch(2)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(images_BCHW).square().sum()
        loss.backward()
    return sum(kept.values()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_gradients_are_the_same_bits_of_which_less_was_kept(backbone: str) -> None:
    model = built(backbone)
    (all_, expected), (less, found) = (kept_and_gradients(model, on) for on in (False, True))
    assert less < all_ / 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert kept_and_gradients(model, False)[0] == all_  # another stage keeps them again


def test_it_compiles_as_one_graph_with_the_same_gradients() -> None:
    torch._dynamo.reset()
    model = built()
    set_checkpointing(model, True)
    images_BCHW = torch.randn(2, 3, 32, 32)
    found = []
    for forward in (model, torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)):
        model.zero_grad()
        forward(images_BCHW).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "words"), [("test_efficientnet", "take in every batch twice"), ("vgg11", "timm has no way to do so")]
)
def test_batch_norms_and_backbones_without_a_way_are_refused(backbone: str, words: str) -> None:
    model = build_shapes(SECTION.model_copy(update={"backbone": backbone}), 3, (224, 224))
    set_checkpointing(model, False)  # which all can do
    with pytest.raises(RecipeError, match=f"checkpoint_activations: .*{words}"):
        set_checkpointing(model, True)


def test_the_estimate_counts_what_goes_into_blocks_and_one_block_again() -> None:
    def memory(on: bool) -> Any:
        stage = StageSection(size=64, batch=4, epochs=1, lr=1e-3, checkpoint_activations=on)
        return step_memory(SECTION, TrainSection(), 3, stage, bf16=False)

    plain, saved = memory(False), memory(True)
    assert plain.again == 0 < saved.again
    assert saved.activations < plain.activations / 2
    assert saved.peak < plain.peak and saved.fixed == plain.fixed


def test_the_estimate_counts_the_copy_of_the_weights() -> None:
    stage = StageSection(size=64, batch=4, epochs=1, lr=1e-3)
    one, other = (step_memory(SECTION, TrainSection(precision=p), 3, stage, True) for p in ("bf16", "bf16_weights"))
    assert other.weights == one.weights * 3 // 2 and other.optimizer == one.optimizer
