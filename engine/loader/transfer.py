"""Decoded batches from the host to a GPU, beside what the model does there.

A copy on the model's own stream waits for the kernels queued before it, and one from pageable memory makes the host
wait, too; a copy a photo is a hundred of them. Here a batch is one copy of the slab that it was decoded into, on a
stream of its own, made by the thread that decoded it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.kernels.upload import upload


class Transfer:
    """Copies to `device`, a GPU, in order."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)

    def send(self, images: Sequence[Tensor], slab: Tensor | None) -> tuple[list[Tensor], torch.cuda.Event]:
        """The images on the device, and the event after which they are there and `slab`, in pinned memory, is free.

        They lie in memory of this transfer's stream: who reads them on another lets go of them when that is done. Those
        that are on the device stay what they are.
        """
        with torch.cuda.stream(self._stream):
            return _moved(images, slab, self.device), self._stream.record_event()


def _moved(images: Sequence[Tensor], slab: Tensor | None, device: torch.device) -> list[Tensor]:
    """What lies in the slab by one copy of it, and others by a second one."""
    if slab is None:
        return upload(images, device)
    starts = [image.data_ptr() - slab.data_ptr() for image in images]
    inside = [0 <= start < len(slab) for start in starts]
    others = iter(upload([image for image, within in zip(images, inside, strict=True) if not within], device))
    ends = [start + image.numel() for start, image, within in zip(starts, images, inside, strict=True) if within]
    there = slab[: max(ends, default=0)].to(device, non_blocking=True)
    return [
        there[start : start + image.numel()].view(image.shape) if within else next(others)
        for start, image, within in zip(starts, images, inside, strict=True)
    ]
