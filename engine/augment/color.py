"""Colour operations as steps of the plan's colour program: the jitter, then the tones.

Each operation in use is one step for every sample, NONE where it was not drawn, so that a batch is one tensor; the
jitter's four parts come in an order of each sample's own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from engine.kernels import Color
from engine.recipe.sections.augment import AugmentSection, ColorSection, ToneSection

Steps = list[tuple[Tensor, Tensor]]  # colour steps: int32 codes (B,) and float32 arguments (B,)


def color_streams(section: AugmentSection) -> dict[str, int]:
    """How many uniform numbers each operation in use draws for a sample."""
    color = section.color
    wanted = {
        "color": (1, color.p),
        "color/order": (4, color.p),
        "color/brightness": (1, color.p),
        "color/contrast": (1, color.p),
        "color/saturation": (1, color.p),
        "color/hue": (1, color.p),
    }
    streams = {name: count for name, (count, used) in wanted.items() if used}
    return streams | {tone.stream: 1 if tone.form is Form.GIVEN else 2 for tone in tones(section.tone)}


def color_steps(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    """What the streams of `color_streams` come to; no step for what is not in use."""
    return _jitter(section, draws) + _tones(section, draws)


class Part(NamedTuple):
    """One of the jitter's: its argument lies within `strength` of `middle`; number `order` gives it its place."""

    op: Color
    stream: str
    order: int
    middle: float
    strength: float


def parts(section: ColorSection) -> list[Part]:
    """Those of the jitter in use; one of strength 0 is no step."""
    every = [
        Part(Color.BRIGHTNESS, "color/brightness", 0, 1.0, section.brightness),
        Part(Color.CONTRAST, "color/contrast", 1, 1.0, section.contrast),
        Part(Color.SATURATION, "color/saturation", 2, 1.0, section.saturation),
        Part(Color.HUE, "color/hue", 3, 0.0, section.hue),
    ]
    return [part for part in every if part.strength > 0] if section.p else []


class Form(enum.IntEnum):
    """How a tone's argument comes of a uniform number u. The codes are those of kernels/draws.h."""

    GIVEN = 0  # low
    BETWEEN = 1  # low + span * u
    WHOLE = 2  # low + floor(u * span)


class Tone(NamedTuple):
    """A step with a chance of its own: the first number of its stream says whether, the second how much."""

    op: Color
    stream: str
    chance: float
    form: Form
    low: float
    span: float = 0.0


def tones(section: ToneSection) -> list[Tone]:
    """Those in use, in the order of application."""
    gamma, solarize, bits = section.gamma_range, section.solarize_range, section.posterize_bits
    every = [
        Tone(Color.GAMMA, "tone/gamma", section.gamma, Form.BETWEEN, gamma[0], gamma[1] - gamma[0]),
        Tone(Color.GRAY, "tone/gray", section.gray, Form.GIVEN, 1),
        Tone(Color.SHUFFLE, "tone/shuffle", section.shuffle, Form.WHOLE, 1, 5),  # 0 is the order as it is
        Tone(Color.INVERT, "tone/invert", section.invert, Form.GIVEN, 0),
        Tone(Color.SOLARIZE, "tone/solarize", section.solarize, Form.BETWEEN, solarize[0], solarize[1] - solarize[0]),
        Tone(Color.POSTERIZE, "tone/posterize", section.posterize, Form.WHOLE, bits[0], bits[1] - bits[0] + 1),
    ]
    return [tone for tone in every if tone.chance]


def _jitter(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    """Brightness, contrast, saturation and hue in an order of each sample's own."""
    active = parts(section.color)
    if not active:
        return []
    ops_K = draws["color"].new_tensor([part.op for part in active], dtype=torch.int32)
    args_BK = torch.cat([_around(draws[part.stream], part.middle, part.strength) for part in active], dim=1)
    order_BK = draws["color/order"][:, [part.order for part in active]].argsort(dim=1)
    applied_B = draws["color"][:, 0] < section.color.p
    ops_BK = torch.where(applied_B[:, None], ops_K[order_BK], int(Color.NONE))
    return list(zip(ops_BK.unbind(1), args_BK.gather(1, order_BK).unbind(1), strict=True))


def _tones(section: AugmentSection, draws: Mapping[str, Tensor]) -> Steps:
    steps: Steps = []
    for tone in tones(section.tone):
        draw_BN = draws[tone.stream]
        op_B = torch.where(draw_BN[:, 0] < tone.chance, int(tone.op), int(Color.NONE)).int()
        steps.append((op_B, _argument(tone, draw_BN)))
    return steps


def _argument(tone: Tone, draw_BN: Tensor) -> Tensor:
    if tone.form is Form.GIVEN:
        return torch.full_like(draw_BN[:, 0], tone.low)
    if tone.form is Form.BETWEEN:
        return tone.low + tone.span * draw_BN[:, 1]
    return tone.low + (draw_BN[:, 1] * tone.span).floor()


def _around(draw: Tensor, middle: float, strength: float) -> Tensor:
    low, high = middle - strength, middle + strength
    return low + (high - low) * draw
