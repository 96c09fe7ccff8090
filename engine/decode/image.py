"""What decoders answer, and what they are asked.

A decoder is asked for parts because a batch's plan needs only the sizes of its photos: the plan can be drawn between
reading the headers and decoding, and then says which pixels will be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from engine.kernels.jpeg import Part

# (positions, sizes_N2) -> a part for each: what is needed of the upright photos at these positions of the batch
# (int64), whose (height, width) are sizes_N2 (int64).
Want = Callable[[np.ndarray, np.ndarray], Sequence[Part]]

Bad = tuple[int, str]  # position in the batch, and why it cannot be decoded


class Image(NamedTuple):
    """A photo, or the part of it that was asked for.

    The pixel in row i, column j covers the photo's [x + j r, x + (j + 1) r) times [y + i r, y + (i + 1) r), r the
    reduction.
    """

    pixels_HW3: Tensor  # uint8 RGB, upright
    height: int  # of the whole photo
    width: int
    x: int = 0
    y: int = 0
    reduction: int = 1


def whole(pixels_HW3: Tensor) -> Image:
    return Image(pixels_HW3, pixels_HW3.shape[0], pixels_HW3.shape[1])


class Decoder(Protocol):
    """Makes images of the contents of files. Belongs to the thread that made it."""

    def __call__(self, encoded: Sequence[bytes], want: Want | None = None) -> tuple[list[Image], list[Bad]]:
        """The good images in order, and the bad ones. An image holds at least the part that was wanted; a decoder
        may give more, up to all of it, and not ask. Raises nothing for a bad image."""
        ...
