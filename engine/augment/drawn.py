"""A batch's plan, or its extras, drawn by C++ into one block of memory: tensors one by one would cost more than drawing
them. `engine.augment.policy` asks for it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from engine.augment.extras import Extras
from engine.augment.program import Program, mixing
from engine.augment.rng import address
from engine.kernels import Filter, Plan, draws
from engine.kernels.block import Layout
from engine.recipe.sections.augment import MixSection

_EXTRAS = ("extra_op_BE", "extra_arg_BE", "extra_seed_B")


class Look(NamedTuple):
    """What a plan holds besides tensors."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    filter: Filter


class Asked(NamedTuple):
    """For which samples, at which address of randomness, and of which size."""

    keys_B: NDArray[np.int64]
    seed: int
    epoch: int
    height: int = 0  # of the output; extras alone have none
    width: int = 0
    sizes_B2: NDArray[np.int32] | None = None  # (height, width) of the photos; extras alone need none
    mix: MixSection | None = None


class Parts(NamedTuple):
    """What is to be drawn: a plan with so many colour steps and rectangles, mixed; so many extras."""

    plan: bool = False
    steps: int = 0
    rects: int = 0
    noisy: bool = False
    mixed: bool = False
    extras: int = 0


def draw_plan(program: Program, look: Look, asked: Asked) -> Plan:
    """A plan alone, by C++."""
    mix = None if asked.mix is None else mixing(asked.mix)
    layout = layout_of(Parts(True, program.steps, program.rects, program.noisy, mix is not None), len(asked.keys_B))
    return Plan(
        look.height,
        look.width,
        mean=look.mean,
        std=look.std,
        filter=look.filter,
        **_filled(program, asked, mix, layout),
    )


def draw_extras(program: Program, asked: Asked) -> Extras:
    """Extras alone, of a recipe that has some, by C++."""
    layout = layout_of(Parts(extras=program.extras), len(asked.keys_B))
    return Extras(*_filled(program, asked, None, layout).values())


@lru_cache(maxsize=256)
def layout_of(parts: Parts, batch: int) -> Layout:
    """In the order of a plan's fields; then extras."""
    i32, i64, f32 = torch.int32, torch.int64, torch.float32
    tensors: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
    if parts.plan:
        tensors += [("matrix_B33", f32, (3, 3)), ("border_B", i32, ()), ("border_color_B3", f32, (3,))]
    if parts.steps:
        tensors += [("color_op_BK", i32, (parts.steps,)), ("color_arg_BK", f32, (parts.steps,))]
    if parts.rects:
        tensors += [("rect_BR4", i32, (parts.rects, 4)), ("rect_fill_BR", i32, (parts.rects,))]
        tensors += [("rect_color_BR3", f32, (parts.rects, 3))]
    if parts.noisy:
        tensors += [("noise_seed_B", i64, ())]
    if parts.mixed:
        tensors += [("partner_B", i64, ()), ("weight_B", f32, ()), ("box_B4", i32, (4,))]
    if parts.extras:
        tensors += list(zip(_EXTRAS, (i32, f32, i64), ((parts.extras,), (parts.extras,), ()), strict=True))
    return Layout.of((name, dtype, (batch, *shape)) for name, dtype, shape in tensors)


def _filled(program: Program, asked: Asked, mix: draws.Mixing | None, layout: Layout) -> dict[str, Any]:
    """Tensors by name, in a block of their own."""
    block = torch.empty(layout.bytes, dtype=torch.uint8)
    arrays = {
        "key_B": _host(asked.keys_B, np.int64),
        "size_B2": _host(asked.sizes_B2, np.int32),
    }
    call = draws.Call(program=program.pointer, epoch_address=address(f"{asked.seed}/{asked.epoch}"))
    call.batch, call.height, call.width = len(asked.keys_B), asked.height, asked.width
    if mix is not None:
        call.mixing = draws.pointer(mix)
    for name, array in arrays.items():
        if array is not None:
            setattr(call, name, array.ctypes.data)
    start = block.data_ptr()
    for name, byte in layout.starts:
        setattr(call, name, start + byte)
    draws.draw(call)
    return layout.views(block)


def _host(values: NDArray[Any] | None, dtype: type[np.generic]) -> NDArray[Any] | None:
    return None if values is None else np.ascontiguousarray(values, dtype)
