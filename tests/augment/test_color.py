"""Colour steps follow the recipe's distributions."""

from __future__ import annotations

from typing import Any

import torch
from scipy import stats
from torch import Tensor

from engine.augment.color import color_steps, color_streams
from engine.augment.rng import uniforms
from engine.kernels import Color
from engine.recipe.sections.augment import AugmentSection

COUNT = 4000
KEYS = torch.arange(COUNT) * 15_485_863


def _steps(settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Codes and arguments, (B, K) each."""
    section = AugmentSection(**settings)
    steps = color_steps(section, uniforms(11, 0, KEYS, color_streams(section)))
    return torch.stack([op for op, _ in steps], dim=1), torch.stack([arg for _, arg in steps], dim=1)


def _is_uniform(values: Tensor, low: float, high: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), stats.uniform(low, high - low).cdf).pvalue > 0.01)


def test_color_jitter_draws_each_factor_uniformly_and_every_order_equally() -> None:
    ops, args = _steps({"color": {"p": 1.0, "brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1}})
    ranges = {
        Color.BRIGHTNESS: (0.6, 1.4),
        Color.CONTRAST: (0.7, 1.3),
        Color.SATURATION: (0.8, 1.2),
        Color.HUE: (-0.1, 0.1),
    }
    assert torch.equal(ops.sort(dim=1).values, torch.tensor(sorted(ranges), dtype=torch.int32).expand(COUNT, 4))
    for op, (low, high) in ranges.items():
        assert _is_uniform(args[ops == op], low, high)
    _, counts = ops.unique(dim=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_a_jitter_part_without_strength_is_no_step() -> None:
    ops, _ = _steps({"color": {"p": 0.5, "brightness": 0.0, "hue": 0.0}})
    assert set(ops.unique().tolist()) == {Color.NONE, Color.CONTRAST, Color.SATURATION}
    assert ops.shape[1] == 2


def test_tone_arguments_stay_in_their_ranges() -> None:
    tone = dict.fromkeys(["gamma", "shuffle", "solarize", "posterize"], 1.0)
    ranges = {"posterize_bits": (3, 5), "gamma_range": (0.5, 2.0), "solarize_range": (0.2, 0.6)}
    _, args = _steps({"color": {"p": 0.0}, "tone": {**tone, **ranges}})
    gamma, order, threshold, bits = args.unbind(1)
    assert _is_uniform(gamma, 0.5, 2.0)
    assert _is_uniform(threshold, 0.2, 0.6)
    assert order.unique().tolist() == [1, 2, 3, 4, 5]
    assert bits.unique().tolist() == [3, 4, 5]


def test_what_is_not_asked_for_draws_nothing_and_is_no_step() -> None:
    section = AugmentSection(color={"p": 0.0})
    assert color_streams(section) == {} and color_steps(section, {}) == []
