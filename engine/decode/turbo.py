"""JPEG bytes to the parts that are needed, upright RGB, on the CPU, by libjpeg-turbo.

DALI decodes whole photos there; a training crop needs less, and of a large photo far less. Whatever libjpeg-turbo
cannot take to RGB without a warning (another format, CMYK, damage) goes to DALI, whose word on bad files is final, so
that both decoders take and refuse the same files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from engine.data.headers import jpeg_header
from engine.decode.dali import DaliDecoder
from engine.decode.image import Bad, Image, Want
from engine.errors import RecipeError
from engine.kernels import jpeg
from engine.recipe.sections import DecodeSection


def uses_turbo(section: DecodeSection, device: torch.device) -> bool:
    """Whether libjpeg-turbo decodes, given that decoding happens on `device`.

    Raises RecipeError when the recipe demands what is not to be had.
    """
    if section.decoder != "turbo":
        return section.decoder == "auto" and device.type == "cpu" and jpeg.available()
    if device.type != "cpu":
        raise RecipeError('decode.decoder = "turbo" decodes on the CPU: set decode.device = "cpu", or decoder = "auto"')
    if not jpeg.available():
        raise RecipeError(f'decode.decoder = "turbo": {jpeg.why_not()}; or use "auto"')
    return True


class TurboDecoder:
    """Decodes batches of encoded images in `threads` threads (0: one per available core).

    The pixels of a batch lie in memory that is used again `rounds` batches later: fresh memory would be mapped and
    faulted in for every batch, which takes a tenth of the time.
    """

    def __init__(self, threads: int = 0, rounds: int = 1) -> None:
        self._threads = threads or cores()
        self._slabs = [np.empty(0, dtype=np.uint8)] * rounds
        self._turn = 0
        self._dali: DaliDecoder | None = None

    def __call__(self, encoded: Sequence[bytes], want: Want | None = None) -> tuple[list[Image], list[Bad]]:
        """See `Decoder`."""
        headers = {i: header for i, content in enumerate(encoded) if (header := _header(content)) is not None}
        sizes_n2 = np.array([header.upright for header in headers.values()], dtype=np.int64).reshape(-1, 2)
        if want is None:
            parts = [jpeg.Part(0, 0, width, height) for height, width in sizes_n2.tolist()]
        else:
            parts = list(want(np.array(list(headers), dtype=np.int64), sizes_n2)) if headers else []
        ours = [encoded[i] for i in headers]
        decoded = jpeg.decode(ours, list(headers.values()), parts, self._threads, self._memory)
        images: dict[int, Image] = {}
        for i, part in zip(headers, decoded, strict=True):
            if part is not None:
                pixels_HW3 = torch.from_numpy(part.pixels_HW3)
                images[i] = Image(pixels_HW3, *headers[i].upright, part.x, part.y, part.reduction)
        others = [i for i in range(len(encoded)) if i not in images]
        bad: list[Bad] = []
        if others:
            taken, refused = self._others([encoded[i] for i in others])
            bad = [(others[position], reason) for position, reason in refused]
            still_bad = {position for position, _ in bad}
            images |= zip([i for i in others if i not in still_bad], taken, strict=True)
        return [images[i] for i in sorted(images)], bad

    def _others(self, encoded: Sequence[bytes]) -> tuple[list[Image], list[Bad]]:
        if self._dali is None:  # a second to load, and most data sets never need it
            self._dali = DaliDecoder(torch.device("cpu"), self._threads)
        return self._dali(encoded)

    def _memory(self, count: int) -> np.ndarray:
        self._turn = (self._turn + 1) % len(self._slabs)
        if len(self._slabs[self._turn]) < count:
            self._slabs[self._turn] = np.empty(count + count // 4, dtype=np.uint8)  # batches differ a little
        return self._slabs[self._turn]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _header(content: bytes) -> jpeg.Header | None:
    """None for what is no sound JPEG."""
    if content[:2] != b"\xff\xd8":
        return None
    try:
        header = jpeg.Header(*jpeg_header(content))
    except ValueError:
        return None
    return header if header.height > 0 and header.width > 0 else None
