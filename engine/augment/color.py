"""Colour operations as steps of the plan's colour program: the jitter, then the tones.

Each operation in use is one step for every sample, NONE where it was not drawn, so that a batch is one tensor; the
jitter's four parts come in an order of each sample's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels import Color
from engine.recipe.sections.augment import AugmentSection

Steps = list[tuple[Tensor, Tensor]]  # colour steps: int32 codes (B,) and float32 arguments (B,)


def color_streams(section: AugmentSection) -> dict[str, int]:
    """How many uniform numbers each operation in use draws for a sample."""
    color, tone = section.color, section.tone
    wanted = {
        "color": (1, color.p),
        "color/order": (4, color.p),
        "color/brightness": (1, color.p),
        "color/contrast": (1, color.p),
        "color/saturation": (1, color.p),
        "color/hue": (1, color.p),
        "tone/gamma": (2, tone.gamma),
        "tone/gray": (1, tone.gray),
        "tone/shuffle": (2, tone.shuffle),
        "tone/invert": (1, tone.invert),
        "tone/solarize": (2, tone.solarize),
        "tone/posterize": (2, tone.posterize),
    }
    return {name: count for name, (count, used) in wanted.items() if used}


def color_steps(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    """What the streams of `color_streams` come to; no step for what is not in use."""
    return _jitter(section, draws) + _tones(section, draws)


def _jitter(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    """Brightness, contrast, saturation and hue in an order of each sample's own; a part of strength 0 is no step."""
    color = section.color
    parts = [
        (Color.BRIGHTNESS, "color/brightness", 1.0, color.brightness),
        (Color.CONTRAST, "color/contrast", 1.0, color.contrast),
        (Color.SATURATION, "color/saturation", 1.0, color.saturation),
        (Color.HUE, "color/hue", 0.0, color.hue),
    ]
    active = [i for i, (_, _, _, strength) in enumerate(parts) if strength > 0]
    if not color.p or not active:
        return []
    ops_K = draws["color"].new_tensor([parts[i][0] for i in active], dtype=torch.int32)
    args_BK = torch.cat([_around(draws[parts[i][1]], *parts[i][2:]) for i in active], dim=1)
    order_BK = draws["color/order"][:, active].argsort(dim=1)
    applied_B = draws["color"][:, 0] < color.p
    ops_BK = torch.where(applied_B[:, None], ops_K[order_BK], int(Color.NONE))
    return list(zip(ops_BK.unbind(1), args_BK.gather(1, order_BK).unbind(1), strict=True))


def _tones(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    tone = section.tone
    steps: Steps = []

    def step(op: Color, draw_BN: Tensor, chance: float, arg_B: Tensor) -> None:
        steps.append((torch.where(draw_BN[:, 0] < chance, int(op), int(Color.NONE)).int(), arg_B))

    if tone.gamma:
        draw = draws["tone/gamma"]
        step(Color.GAMMA, draw, tone.gamma, _between(draw[:, 1], *tone.gamma_range))
    if tone.gray:
        draw = draws["tone/gray"]
        step(Color.GRAY, draw, tone.gray, torch.ones_like(draw[:, 0]))
    if tone.shuffle:
        draw = draws["tone/shuffle"]
        step(Color.SHUFFLE, draw, tone.shuffle, 1 + (draw[:, 1] * 5).floor())  # 0 is the order as it is
    if tone.invert:
        draw = draws["tone/invert"]
        step(Color.INVERT, draw, tone.invert, torch.zeros_like(draw[:, 0]))
    if tone.solarize:
        draw = draws["tone/solarize"]
        step(Color.SOLARIZE, draw, tone.solarize, _between(draw[:, 1], *tone.solarize_range))
    if tone.posterize:
        draw = draws["tone/posterize"]
        low, high = tone.posterize_bits
        step(Color.POSTERIZE, draw, tone.posterize, low + (draw[:, 1] * (high - low + 1)).floor())
    return steps


def _between(draw: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draw


def _around(draw: Tensor, middle: float, strength: float) -> Tensor:
    return _between(draw, middle - strength, middle + strength)
