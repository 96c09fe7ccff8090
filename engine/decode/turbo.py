"""JPEG bytes to the regions that are needed, upright RGB, on the CPU, by libjpeg-turbo.

DALI decodes whole photos there; a training crop needs less, and of a large photo far less. Whatever libjpeg-turbo
cannot take to RGB without a warning (another format, CMYK, damage) goes to Pillow, whose word on bad files is final, as
behind DALI: so both decoders take and refuse the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.decode.decoder import Opened, Pixels
from engine.decode.pillow import PillowDecoder
from engine.kernels import Placed, jpeg
from engine.kernels.files import Content
from engine.kernels.jpeg import Header, Region
from engine.quarantine import Fault
from engine.system import cores

Memory = Callable[[int], Tensor]
"""At least so many bytes on the host: uint8, contiguous."""


def fresh(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


class TurboDecoder:
    """Decodes batches of encoded images in `threads` threads (0: one per available core); `others` decodes what is no
    plain JPEG. `fast`: where colours may be a little off, they are, see `jpeg.decode`.

    The pixels of a batch lie side by side in what `memory` is asked for once: fresh memory is mapped and faulted in for
    every batch, so whoever decodes many gives the same again.
    """

    device = torch.device("cpu")

    def __init__(
        self, threads: int = 0, memory: Memory = fresh, others: PillowDecoder | None = None, fast: bool = False
    ) -> None:
        self._threads = threads or cores()
        self._others = others or PillowDecoder(threads)
        self._memory = memory
        self._fast = fast
        self._slab = torch.empty(0, dtype=torch.uint8)

    def open(self, contents: Sequence[Content]) -> list[Opened | Fault]:
        """See `Decoder`."""
        return self._others.open(contents)

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None = None, rough: bool = False
    ) -> list[Pixels | Fault]:
        """See `Decoder`."""
        if regions is None:
            regions = [Region(0, 0, one.width, one.height) for one in opened]
        jpegs = [(i, one.content, one.header) for i, one in enumerate(opened) if one.header is not None]
        found: dict[int, Pixels | Fault] = {}
        for (i, _, header), part in zip(jpegs, self._decoded(jpegs, regions, rough and self._fast), strict=True):
            if part is not None:
                found[i] = Pixels(self._placed(part.pixels_HW3), *header.upright, part.x, part.y, part.reduction)
        others = [i for i in range(len(opened)) if i not in found]
        found |= zip(others, self._others.pixels([opened[i] for i in others]), strict=True)
        return [found[i] for i in range(len(opened))]

    def _decoded(
        self, jpegs: Sequence[tuple[int, Content, Header]], regions: Sequence[Region], fast: bool
    ) -> list[jpeg.Decoded | None]:
        contents, headers = [content for _, content, _ in jpegs], [header for _, _, header in jpegs]
        wanted = [regions[i] for i, _, _ in jpegs]
        return jpeg.decode(contents, headers, wanted, self._threads, self._take, fast)

    def _take(self, count: int) -> np.ndarray:
        self._slab = self._memory(count)
        return self._slab.numpy()

    def _placed(self, part_HW3: np.ndarray) -> Placed:
        """A place in the slab, which it keeps: a tensor for each photo takes longer than all else about it here."""
        height, width, _ = part_HW3.shape
        return Placed(part_HW3.__array_interface__["data"][0], height, width, self._slab)
