"""Many small tensors in one block of memory, each on a line of its own: made together, kept together, copied as one.

What is drawn for a batch is two dozen tensors of some kilobytes. Allocated one by one they cost more than drawing them,
and packing them for the way to a GPU costs it again. So whoever makes them asks for one block first (pinned, where a
GPU copies from it), and what is copied is read through the same layout on the other side.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

LINE = 64  # bytes: where a tensor may begin, aligned for any dtype and for compiled kernels


class Place(NamedTuple):
    """One tensor: `start` in elements of its dtype."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each tensor lies, by name, in a block of `bytes`, a whole number of lines."""

    places: Mapping[str, Place]
    bytes: int

    @cached_property
    def starts(self) -> list[tuple[str, int]]:
        """The byte at which each tensor begins."""
        return [(name, place.start * place.dtype.itemsize) for name, place in self.places.items()]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, torch.dtype, tuple[int, ...]]]) -> Layout:
        """One after the other, in this order."""
        places, end = {}, 0
        for name, dtype, shape in tensors:
            strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
            places[name] = Place(dtype, shape, strides, end // dtype.itemsize)
            end += -(-math.prod(shape) * dtype.itemsize // LINE) * LINE
        return cls(places, end)

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors in a block (uint8, of at least so many bytes, its first on a line), on any device."""
        used, views = block[: self.bytes], {}
        bases: dict[torch.dtype, Tensor] = {}
        for name, (dtype, shape, strides, start) in self.places.items():
            base = bases.get(dtype)
            if base is None:
                base = bases[dtype] = used.view(dtype)
            views[name] = base.as_strided(shape, strides, base.storage_offset() + start)
        return views
