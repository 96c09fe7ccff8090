"""Decoded batches from the host to a GPU, beside what the model does there.

A copy on the model's own stream waits for the kernels queued before it, and one from pageable memory makes the host
wait, too; a copy a photo is a hundred of them. Here a batch is one copy of the slab that it was decoded into, on a
stream of its own, made by the thread that decoded it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.kernels import Placed
from engine.kernels.upload import upload

Image = Tensor | Placed


class Transfer:
    """Copies to the device of `stream`, a GPU, in order."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def send(self, images: Sequence[Image], slab: Tensor | None) -> tuple[Sequence[Image], torch.cuda.Event]:
        """The images on the device, and the event after which they are there and `slab`, in pinned memory, is free.

        They lie in memory of this transfer's stream: who reads them on another lets go of them when that is done. Those
        that are on the device stay what they are.
        """
        with torch.cuda.stream(self._stream):
            return _moved(images, slab, self._stream.device), self._stream.record_event()


def _moved(images: Sequence[Image], slab: Tensor | None, device: torch.device) -> list[Image]:
    """What lies in the slab by one copy of it, and others by a second one."""
    placed = [one if isinstance(one, Placed) and one.keep is slab else None for one in images]
    outside = [one for one, place in zip(images, placed, strict=True) if place is None]
    others = iter(_carried(outside, device) if outside else ())
    if slab is None or not any(placed):
        return [*others]
    base = slab.data_ptr()
    end = max(place.address + 3 * place.height * place.width for place in placed if place)
    there = slab[: end - base].to(device, non_blocking=True)
    shift = there.data_ptr() - base
    return [Placed(one.address + shift, one.height, one.width, there) if one else next(others) for one in placed]


def _carried(images: Sequence[Image], device: torch.device) -> list[Image]:
    """Those on the host by one copy."""
    here = [one.tensor() if isinstance(one, Placed) else one for one in images if one.device.type == "cpu"]
    moved = iter(upload(here, device) if here else ())
    return [next(moved) if one.device.type == "cpu" else one for one in images]
