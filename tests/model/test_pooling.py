"""GeM is the mean at p = 1, nears the maximum for large p, and stays finite where the textbook form does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.pooling import GeM, MapPooling


def positive_map(seed: int, batch: int = 2, channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.rand(batch, channels, side, side, generator=torch.Generator().manual_seed(seed)) + 0.01


def test_p_of_one_is_the_mean() -> None:
    x = positive_map(0)
    torch.testing.assert_close(GeM(p=1.0)(x), x.mean((2, 3)))


def test_large_p_nears_the_maximum() -> None:
    x = positive_map(1)
    torch.testing.assert_close(GeM(p=2000.0)(x), x.amax((2, 3)), rtol=2e-3, atol=0)


def test_p_of_three_is_the_cubic_mean() -> None:
    x = positive_map(2)
    torch.testing.assert_close(GeM()(x), x.pow(3).mean((2, 3)).pow(1 / 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(1.0, 20.0), st.floats(0.1, 20.0))
def test_it_lies_between_mean_and_maximum_and_rises_with_p(seed: int, p: float, more: float) -> None:
    x = positive_map(seed)
    low, high = GeM(p)(x), GeM(p + more)(x)
    tolerance = 1e-5
    assert (low >= x.mean((2, 3)) - tolerance).all()
    assert (high >= low - tolerance).all()
    assert (high <= x.amax((2, 3)) + tolerance).all()


@pytest.mark.parametrize("p", [3.0, 8.0, 50.0])
def test_values_and_gradients_stay_finite_for_maps_without_a_positive_value(p: float) -> None:
    x = -positive_map(3)
    x[0, 0] = 0
    x[1] = 1e4
    x.requires_grad_()
    gem = GeM(p)
    gem(x).sum().backward()
    assert torch.isfinite(gem(x)).all()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(gem.p.grad).all()


def test_under_bf16_autocast_it_computes_in_fp32() -> None:
    x = positive_map(4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = GeM(9.0)(x)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, x.double().pow(9).mean((2, 3)).pow(1 / 9).float())


def test_p_is_learned() -> None:
    gem = GeM()
    gem(positive_map(5)).sum().backward()
    assert gem.p.grad.abs().item() > 0


def test_tokens_pool_like_the_map_they_came_from() -> None:
    x = positive_map(6)
    torch.testing.assert_close(GeM()(x.flatten(2)), GeM()(x))


def test_maps_of_different_depth_are_brought_to_one_scale_and_joined() -> None:
    shallow, deep = positive_map(7, channels=8, side=8) * 1000, positive_map(8, channels=16, side=4)
    joined = MapPooling([8, 16])([shallow, deep])
    assert joined.shape == (2, 24)
    torch.testing.assert_close(joined[:, :8].std(1, correction=0), torch.ones(2), rtol=1e-2, atol=0)
    torch.testing.assert_close(joined[:, 8:].std(1, correction=0), torch.ones(2), rtol=1e-2, atol=0)
