"""All that is drawn for a batch, in one block of memory: the plan, the extras, the labels as they are mixed.

Whoever gives the block may have pinned it: it then goes to a GPU as it is, in one copy, and the same tensors are read
there (`at`). `engine.augment.policy` draws it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.augment.extras import Extras
from engine.augment.mix import MixedLabels
from engine.augment.program import Program, mixing
from engine.augment.regions import fit_to_regions
from engine.augment.rng import address
from engine.kernels import Filter, Plan, draws
from engine.kernels.block import LINE, Layout
from engine.recipe.sections.augment import MixSection

Memory = Callable[[int], Tensor]
"""For a count of bytes at least so many: a block of uint8 on the host, its first byte on a multiple of 64."""

_LABELS = ("own_B", "partner_label_B", "share_B")
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
    labels_B: NDArray[np.int64] | None = None


class Parts(NamedTuple):
    """What is to be drawn: a plan with so many colour steps and rectangles, mixed, and labels; so many extras."""

    plan: bool = False
    steps: int = 0
    rects: int = 0
    noisy: bool = False
    mixed: bool = False
    labelled: bool = False
    extras: int = 0


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Tensors of the plan, of extras (None: the recipe has none) and labels (None: they were not asked for) are views
    of `block`: uint8, `used` bytes of them and then those that the caller has to spare.

    `regions_B5` (int32, an array of its own; None: not asked for) says what is to be decoded of each photo: x0, y0, x1,
    y1, reduction, as `engine.kernels.jpeg.Region`.
    """

    plan: Plan
    extras: Extras | None
    labels: MixedLabels | None
    block: Tensor
    layout: Layout
    regions_B5: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, look: Look, layout: Layout, block: Tensor) -> Self:
        views = layout.views(block)
        extras = Extras(*(views.pop(name) for name in _EXTRAS)) if _EXTRAS[0] in views else None
        labels = MixedLabels(*(views.pop(name) for name in _LABELS)) if _LABELS[0] in views else None
        return cls(_plan(look, views), extras, labels, block, layout)

    @property
    def used(self) -> int:
        """Bytes of the block that are drawn, a multiple of 64."""
        return self.layout.bytes

    def at(self, block: Tensor) -> Drawn:
        """The same in another block, into which this one was copied, on any device."""
        plan = self.plan
        made = type(self).of(Look(plan.height, plan.width, plan.mean, plan.std, plan.filter), self.layout, block)
        return dataclasses.replace(made, regions_B5=self.regions_B5)

    def fit(self, frame_B5: Tensor | NDArray[np.int32]) -> None:
        """Make the plan, in place, that of the parts of photos which were decoded: `frame_B5` (int32, on the host) are
        the photo's height and width, the part's x and y in it and its reduction. A second call would fit it twice."""
        matrix_B33, frame_B5 = self.plan.matrix_B33, torch.as_tensor(frame_B5)
        if frame_B5.shape != (len(matrix_B33), 5) or frame_B5.dtype != torch.int32:
            raise ValueError(
                f"frames of {len(matrix_B33)} images: expected int32 ({len(matrix_B33)}, 5), got {frame_B5.dtype} "
                f"{tuple(frame_B5.shape)}"
            )
        frame_B5 = frame_B5.contiguous()
        if matrix_B33.device.type == "cpu" and draws.available():
            draws.fit(matrix_B33.data_ptr(), frame_B5.data_ptr(), len(matrix_B33))
        else:
            matrix_B33.copy_(fit_to_regions(self.plan, frame_B5[:, 2:4], frame_B5[:, 4]).matrix_B33)


def draw(program: Program, look: Look, asked: Asked, memory: Memory | None = None, spare: int = 0) -> Drawn:
    """All of a batch, by C++."""
    mix = None if asked.mix is None else mixing(asked.mix)
    steps, rects = program.steps, program.rects
    parts = Parts(True, steps, rects, program.noisy, mix is not None, asked.labels_B is not None, program.extras)
    layout = layout_of(parts, len(asked.keys_B))
    block = block_of(layout, memory, spare)
    _fill(program, asked, mix, layout, block)
    return Drawn.of(look, layout, block)


def draw_plan(program: Program, look: Look, asked: Asked) -> Plan:
    """A plan alone, by C++."""
    mix = None if asked.mix is None else mixing(asked.mix)
    layout = layout_of(Parts(True, program.steps, program.rects, program.noisy, mix is not None), len(asked.keys_B))
    block = block_of(layout)
    _fill(program, asked, mix, layout, block)
    return _plan(look, layout.views(block))


def draw_extras(program: Program, asked: Asked) -> Extras:
    """Extras alone, of a recipe that has some, by C++."""
    layout = layout_of(Parts(extras=program.extras), len(asked.keys_B))
    block = block_of(layout)
    _fill(program, asked, None, layout, block)
    return Extras(*layout.views(block).values())


def packed(
    plan: Plan, extras: Extras | None, labels: MixedLabels | None, memory: Memory | None = None, spare: int = 0
) -> Drawn:
    """What was drawn by torch, put into one block."""
    named = plan.tensors
    if labels is not None:
        named |= dict(zip(_LABELS, labels, strict=True))
    if extras is not None:
        named |= dict(zip(_EXTRAS, (extras.op_BE, extras.arg_BE, extras.seed_B), strict=True))
    layout = Layout.of((name, tensor.dtype, tuple(tensor.shape)) for name, tensor in named.items())
    block = block_of(layout, memory, spare)
    for name, view in layout.views(block).items():
        view.copy_(named[name])
    return Drawn.of(Look(plan.height, plan.width, plan.mean, plan.std, plan.filter), layout, block)


@lru_cache(maxsize=256)
def layout_of(parts: Parts, batch: int) -> Layout:
    """In the order of a plan's fields; then labels, then extras."""
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
    if parts.labelled:
        tensors += list(zip(_LABELS, (i64, i64, f32), ((), (), ()), strict=True))
    if parts.extras:
        tensors += list(zip(_EXTRAS, (i32, f32, i64), ((parts.extras,), (parts.extras,), ()), strict=True))
    return Layout.of((name, dtype, (batch, *shape)) for name, dtype, shape in tensors)


def block_of(layout: Layout, memory: Memory | None = None, spare: int = 0) -> Tensor:
    """Memory for what is drawn and `spare` bytes. Raises ValueError when that which `memory` gives will not do."""
    count = layout.bytes + spare
    if memory is None:
        return torch.empty(count, dtype=torch.uint8)
    given = memory(count)
    if given.dtype != torch.uint8 or given.ndim != 1 or len(given) < count or given.data_ptr() % LINE:
        raise ValueError(
            f"memory for what is drawn: expected {count} bytes of uint8 that begin on a multiple of {LINE}, got "
            f"{given.dtype} {tuple(given.shape)} at {given.data_ptr():#x}"
        )
    return given[:count]


def _fill(program: Program, asked: Asked, mix: draws.Mixing | None, layout: Layout, block: Tensor) -> None:
    arrays = {
        "key_B": _host(asked.keys_B, np.int64),
        "size_B2": _host(asked.sizes_B2, np.int32),
        "label_B": _host(asked.labels_B, np.int64),
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


def _host(values: NDArray[Any] | None, dtype: type[np.generic]) -> NDArray[Any] | None:
    return None if values is None else np.ascontiguousarray(values, dtype)


def _plan(look: Look, views: dict[str, Any]) -> Plan:
    return Plan(look.height, look.width, mean=look.mean, std=look.std, filter=look.filter, **views)
