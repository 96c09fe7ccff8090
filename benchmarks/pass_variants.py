"""Launches of the one pass for `count_instructions.py`: what a plan of each kind makes its kernels do."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from count_instructions import GPUS, Launch, Variant, bound, launches
from engine.bench.envelope import Envelope
from engine.kernels import Border, Color, Fill, Filter, Plan, Ragged, triton_pass

SIZE = 256  # of the output
TAPS = {2: 0.95, 3: 1.4, 4: 1.9, 8: 3.8}  # an axis, and the source pixels an output pixel spans there
INSIDE = ((1, 4), (2, 10), (1, 20))  # tiles, as columns and rows, that read nothing but the source
BORDER = ((1, 0), (2, 0), (3, 0))  # and some that look beyond it, if moved there
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Instructions a pixel on any target: what they were when this was written, and a tenth.
MOST = {"2 taps, alone": 230, "3 taps, alone": 345, "4 taps, alone": 430, "2 taps, mixed": 440, "3 taps, mixed": 680}
REGISTERS, SPILLED = 128, 16  # bytes: sm_80 spills 8 with everything on


def counted_variants() -> Iterator[Variant]:
    """Bilinear with full colour jitter and a rectangle, alone and with a partner, by the taps an axis."""
    for taps, mixed in itertools.product(TAPS, (False, True)):
        images, plan = drawn(taps, mixed)
        name = f"{taps} taps, {'mixed' if mixed else 'alone'}"
        before, launch = passed(images, plan)
        yield variant(name, launch, INSIDE, [before], images, MOST.get(name, math.inf))
    images, plan = drawn(2, False)
    plan.matrix_B33[:, 1, 2] -= plan.matrix_B33[:, 1, 2].mean() + 24  # the first rows look beyond the source
    before, launch = passed(images, plan)
    yield variant("2 taps, alone, at a border", launch, BORDER, [before], images)


def sentence(result: Envelope) -> str:
    """What the docstring of kernels/triton_pass.py says of the pass's cost, from `count_instructions.py`'s result."""
    rows = {row["variant"]: row for row in result.rows if row["target"] == "sm_90"}
    taps = [rows[f"{taps} taps, alone"] for taps in (2, 3, 4)]
    counts = [f"{row['instructions']:.0f}" for row in taps]
    shares = [f"{bound(row, GPUS['H100'])[1]:.0%}" for row in taps]
    mixed = f"{rows['2 taps, mixed']['instructions']:.0f}"
    return (
        f"A pixel takes an H100 {counts[0]}, {counts[1]} and {counts[2]} instructions at 2, 3 and 4 taps an axis, with "
        f"full colour jitter and a rectangle, and {mixed} at 2 with a partner; to do them takes so long that "
        f"{shares[0]}, {shares[1]} and {shares[2]} of the rate at which it copies memory can be reached at most."
    )


def all_variants() -> Iterator[Variant]:
    """Every way to launch the two kernels, none of them followed."""
    images, plan = drawn(2, True)
    plan = dataclasses.replace(plan, box_B4=plan.rect_BR4[:, 0]) if plan.rect_BR4 is not None else plan
    mixes: dict[str, tuple[str, ...]] = {"alone": ("partner_B", "weight_B", "box_B4")}
    mixes |= {"weight": ("box_B4",), "box": ("weight_B",), "weight, box": ()}
    colors, rects = ("color_op_BK", "color_arg_BK"), ("rect_BR4", "rect_fill_BR", "rect_color_BR3", "noise_seed_B")
    kinds = [torch.bfloat16, torch.float32]
    for filter, mix, with_colors, with_rects, kind in itertools.product(Filter, mixes, (1, 0), (1, 0), kinds):
        left_out = mixes[mix] + colors * (1 - with_colors) + rects * (1 - with_rects)
        changed = dataclasses.replace(plan, filter=filter, **without(left_out))
        parts = [mix, *["colours"] * with_colors, *["rectangles"] * with_rects, str(kind)[6:]]
        name = f"pass, {filter.name.lower()}, {', '.join(parts)}"
        yield Variant(name, passed(images, changed, kind)[1], (), 1, most_registers=REGISTERS, most_spilled=SPILLED)
    narrow = dataclasses.replace(plan, width=SIZE - 1)
    yield Variant("pass, bilinear, odd width", passed(images, narrow)[1], (), 1, most_registers=REGISTERS)
    for filter, antialias, borders in itertools.product(Filter, (True, False), (1, 0)):
        left_out = ("border_B", "border_color_B3") * (1 - borders)
        changed = dataclasses.replace(plan, filter=filter, antialias=antialias, **without(left_out))
        name = f"prepare, {filter.name.lower()}{', antialias' * antialias}{', borders' * borders}"
        yield Variant(name, passed(images, changed)[0], (), 1, most_registers=REGISTERS, most_spilled=SPILLED)


def without(names: Sequence[str]) -> dict[str, Any]:
    return dict.fromkeys(names)


def passed(images: Ragged, plan: Plan, kind: torch.dtype = torch.bfloat16) -> list[Launch]:
    """The launches of one pass."""
    shape = (len(images), 3, plan.height, plan.width)
    out = torch.empty(shape, dtype=kind, memory_format=torch.channels_last)
    return launches(partial(triton_pass.triton_pass, images, plan, out))


def variant(
    name: str,
    launch: Launch,
    tiles: Sequence[tuple[int, int]],
    before: Sequence[Launch],
    images: Ragged,
    most: float = math.inf,
) -> Variant:
    wide, high = (int(launch.arguments[side]) for side in ("TILE_X", "TILE_Y"))  # type: ignore[arg-type]
    blocks: list[tuple[int, ...]] = [(column, row * 8 // high, 0) for column, row in tiles]
    if len(launch.grid) == 2:  # of an older pass, whose tiles have one number
        blocks = [(row * (SIZE // wide) + column, 0) for column, row, _ in blocks]
    taps = int(name[0])
    partners = 2 if "mixed" in name else 1
    read = partners * 3 * TAPS[taps] ** 2
    limits: dict[str, Any] = {"most_registers": REGISTERS, "most_spilled": SPILLED, "most_instructions": most}
    return Variant(name, launch, blocks, wide * high * len(blocks), before, images.tensors, read + 6, **limits)


def drawn(taps: int, mixed: bool, size: int = SIZE, turned: float = 7.0) -> tuple[Ragged, Plan]:
    """Two photos and a plan that reads `taps` pixels an axis of each, turned by some degrees, with full colour jitter
    and a rectangle."""
    side = int(size * TAPS[taps] * 1.6) + 8
    seeded = torch.Generator().manual_seed(taps)
    images = [torch.randint(0, 256, (side + i, side + 8 - i, 3), dtype=torch.uint8, generator=seeded) for i in range(2)]
    steps = [Color.BRIGHTNESS, Color.CONTRAST, Color.SATURATION, Color.HUE]
    more: dict[str, Any] = {
        "border_B": torch.tensor([Border.REFLECT, Border.CONSTANT], dtype=torch.int32),
        "border_color_B3": torch.tensor([[0.1, 0.2, 0.3]] * 2),
        "color_op_BK": torch.tensor([steps] * 2, dtype=torch.int32),
        "color_arg_BK": torch.tensor([[1.2, 0.8, 1.3, 0.1]] * 2),
        "rect_BR4": torch.tensor([[[10, 10, 90, 60]]] * 2, dtype=torch.int32),
        "rect_fill_BR": torch.tensor([[Fill.CONSTANT], [Fill.NOISE]], dtype=torch.int32),
        "rect_color_BR3": torch.tensor([[[0.5, 0.4, 0.3]]] * 2),
        "noise_seed_B": torch.tensor([1, 2]),
    }
    if mixed:
        more |= {"partner_B": torch.tensor([1, 0]), "weight_B": torch.tensor([0.7, 0.4])}
    matrix_B33 = turned_about(TAPS[taps], turned, side, size).repeat(2, 1, 1)
    return Ragged(images), Plan(size, size, matrix_B33, MEAN, STD, **more)


def turned_about(scale: float, degrees: float, side: int, size: int) -> Tensor:
    """A scale and a turn that take the middle of the output to that of the source."""
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    half = size / 2
    left, top = side / 2 - (cos - sin) * half, side / 2 - (sin + cos) * half
    return torch.tensor([[cos, -sin, left], [sin, cos, top], [0, 0, 1]])
