"""Bytes of any picture to upright RGB pixels by Pillow, in threads: for what faster decoders cannot take, and what they
are not asked about.

The rules of what is a picture, and how it looks, are those of `engine.pictures`, which the data check and the pages go
by as well. Its word is final: with it in the last place, all decoders take and refuse the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch

from engine import pictures
from engine.decode.decoder import Opened, Pixels, whole
from engine.kernels.files import Content, Encoded
from engine.kernels.jpeg import Header, Region
from engine.pictures import RGB, WHITE
from engine.quarantine import Fault
from engine.system import cores


class PillowDecoder:
    """Decodes whole pictures in `threads` threads (0: one per available core).

    `background` lies under transparent ones; files that promise more than `most_megapixels` million pixels are refused.
    """

    device = torch.device("cpu")

    def __init__(self, threads: int = 0, background: RGB = WHITE, most_megapixels: float = 250.0) -> None:
        self._count = threads or cores()
        self._background = background
        self._most_megapixels = most_megapixels

    def open(self, contents: Sequence[Content]) -> list[Opened | Fault]:
        """See `Decoder`. No memory is taken for pixels."""
        return [self._opened(content) for content in contents]

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None = None, rough: bool = False
    ) -> list[Pixels | Fault]:
        """See `Decoder`. Whole pictures, whatever the regions."""
        return [*self._threads.map(self._decoded, opened)] if opened else []

    def _opened(self, content: Content) -> Opened | Fault:
        known = content.header if isinstance(content, Encoded) else None
        if known is not None and known.height * known.width <= self._most_megapixels * 1e6:
            # Whoever read the file has looked. A batch is some hundred of these: no detours.
            stored_height, stored_width, orientation, plain, _ = known
            header = Header(stored_height, stored_width, orientation) if plain else None
            if orientation >= 5:
                return Opened(content, stored_width, stored_height, header)
            return Opened(content, stored_height, stored_width, header)
        found = pictures.read_header(bytes(content))
        if isinstance(found, Fault):
            return found
        height, width = found.upright
        jpeg = Header(found.height, found.width, found.orientation) if found.plain else None
        return pictures.too_large(height, width, self._most_megapixels) or Opened(content, height, width, jpeg)

    def _decoded(self, opened: Opened) -> Pixels | Fault:
        pixels_HW3 = pictures.read_pixels(bytes(opened.content), self._background)
        return pixels_HW3 if isinstance(pixels_HW3, Fault) else whole(torch.from_numpy(pixels_HW3))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._count, thread_name_prefix="pillow")
