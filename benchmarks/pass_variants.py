"""Launches of the one pass for `count_instructions.py`: what a plan of each kind makes the kernels do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from count_instructions import Variant, launches
from engine.kernels import Color, Fill, Plan, Ragged, triton_pass

SIZE = 256  # of the output
BLOCKS = ((2, 0), (20, 1), (30, 2))  # rows and columns of tiles that are followed


def variants() -> Iterator[Variant]:
    for taps in (2, 3, 4, 8):
        for mixed in (False, True):
            images, plan = drawn(taps, mixed)
            out = torch.empty((2, 3, SIZE, SIZE), dtype=torch.bfloat16, memory_format=torch.channels_last)
            launch = launches(partial(triton_pass.triton_pass, images, plan, out))[-1]
            wide, high = int(launch.arguments["TILE_X"]), int(launch.arguments["TILE_Y"])  # type: ignore[arg-type]
            blocks = [(SIZE // wide * row + column, 0) for row, column in BLOCKS]
            name = f"{taps} taps, {'mixed' if mixed else 'alone'}"
            yield Variant(name, launch, blocks, wide * high * len(blocks), images.tensors)


def drawn(taps: int, mixed: bool, size: int = SIZE) -> tuple[Ragged, Plan]:
    """Two photos and a plan that reads `taps` pixels an axis of each, with full colour jitter and a rectangle."""
    scale = taps / 2 * 0.95
    side = int(size * scale * 1.6)
    seeded = torch.Generator().manual_seed(taps)
    images = [torch.randint(0, 256, (side + i, side + 8 - i, 3), dtype=torch.uint8, generator=seeded) for i in range(2)]
    cos, sin = scale * math.cos(math.radians(7)), scale * math.sin(math.radians(7))
    matrix_33 = torch.tensor([[cos, -sin, 0.22 * side], [sin, cos, 0.15 * side], [0, 0, 1]])
    steps = [Color.BRIGHTNESS, Color.CONTRAST, Color.SATURATION, Color.HUE]
    more: dict[str, Any] = {
        "color_op_BK": torch.tensor([steps] * 2, dtype=torch.int32),
        "color_arg_BK": torch.tensor([[1.2, 0.8, 1.3, 0.1]] * 2),
        "rect_BR4": torch.tensor([[[10, 10, 90, 60]]] * 2, dtype=torch.int32),
        "rect_fill_BR": torch.full((2, 1), int(Fill.CONSTANT), dtype=torch.int32),
    }
    if mixed:
        more |= {"partner_B": torch.tensor([1, 0]), "weight_B": torch.tensor([0.7, 0.4])}
    return Ragged(images), Plan(
        size, size, matrix_33.repeat(2, 1, 1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), **more
    )
