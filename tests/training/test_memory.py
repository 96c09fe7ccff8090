"""The memory estimate: it grows with what takes memory, and takes none itself."""

from __future__ import annotations

import pytest
import torch

from engine.model.build import build_model
from engine.recipe.sections import ModelSection, StageSection
from engine.training.memory import OVERHEAD, step_bytes

MODEL = ModelSection(backbone="test_convnext", pretrained=True)  # no weights are fetched for it

UNTRAINED = ModelSection(backbone="test_convnext", pretrained=False)


def estimate(size: tuple[int, int] = (64, 64), batch: int = 8, bf16: bool = False, average: bool = False) -> int:
    return step_bytes(MODEL, 10, StageSection(size=size, batch=batch, epochs=1, lr=1e-3), bf16, average)


def test_it_grows_with_batch_and_size_as_activations_do() -> None:
    fixed = 2 * estimate(batch=8) - estimate(batch=16)  # what does not depend on the batch
    assert estimate(batch=32) - fixed == pytest.approx(4 * (estimate(batch=8) - fixed), rel=0.02)
    assert estimate((128, 64)) - fixed == pytest.approx(2 * (estimate() - fixed), rel=0.1)
    assert estimate(bf16=True) < 0.8 * estimate()


def test_weights_count_with_gradients_moments_and_average() -> None:
    weights = sum(p.numel() for p in build_model(UNTRAINED, 10, (64, 64)).parameters())
    fixed = 2 * estimate(batch=8) - estimate(batch=16)
    assert fixed == pytest.approx(4 * 4 * weights * OVERHEAD, rel=0.05)
    assert estimate(average=True) - estimate() == pytest.approx(4 * weights * OVERHEAD, rel=0.001)


def test_what_does_not_fit_here_is_estimated_all_the_same() -> None:
    assert estimate((4096, 4096), batch=4096) > 2**41  # terabytes


def test_activations_are_those_that_a_real_step_keeps() -> None:
    model = build_model(UNTRAINED, 10, (64, 64)).train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(torch.zeros(32, 3, 64, 64))
    real = sum(size for address, size in kept.items() if address not in own)
    fixed = 2 * estimate(batch=8) - estimate(batch=16)
    assert answer.shape == (32, 10)
    assert (estimate(batch=32) - fixed) / OVERHEAD == pytest.approx(real, rel=0.1)
