"""What decoders take and what they answer: files are opened, then the pixels of regions of them are asked for.

Two steps and no question in between: a batch's plan needs the sizes of its photos and not one of their pixels, so it is
drawn after `open` and says which regions `pixels` is to bring. A decoder knows neither plans nor batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from engine.kernels import Placed
from engine.kernels.files import Content
from engine.kernels.jpeg import Header, Region
from engine.quarantine import Fault


class Opened(NamedTuple):
    """A file whose header is known. The size is what the header promises; `Pixels` say what the photo really is."""

    content: Content
    height: int  # upright, in pixels
    width: int
    header: Header | None = None  # of a plain JPEG, see `pictures.Header`


class Pixels(NamedTuple):
    """A photo, or the region of it that was asked for.

    The pixel in row i, column j covers the photo's [x + j r, x + (j + 1) r) times [y + i r, y + (i + 1) r), r the
    reduction.
    """

    image: Tensor | Placed  # uint8 RGB (height, width, 3), upright
    height: int  # of the whole photo
    width: int
    x: int = 0
    y: int = 0
    reduction: int = 1

    @property
    def pixels_HW3(self) -> Tensor:
        """The image as a tensor, which for a batch of them is worth avoiding."""
        return self.image.tensor() if isinstance(self.image, Placed) else self.image


def whole(pixels_HW3: Tensor) -> Pixels:
    return Pixels(pixels_HW3, pixels_HW3.shape[0], pixels_HW3.shape[1])


class Decoder(Protocol):
    """Makes pixels of the contents of files. Belongs to the thread that first uses it.

    Raises nothing for a bad file, and one bad file never costs its neighbours: a Fault stands in its place. What is
    bad, and how a picture looks, is settled in `engine.pictures` for all decoders. EngineError: no memory, a broken
    device.
    """

    @property
    def device(self) -> torch.device:
        """Where the pixels lie."""
        ...

    def open(self, contents: Sequence[Content]) -> list[Opened | Fault]:
        """Each file's header, or why it is no image."""
        ...

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None = None, rough: bool = False
    ) -> list[Pixels | Fault]:
        """Of each photo at least its region, upright, or why there are no pixels. A decoder may bring more than the
        region, up to all of the photo, and at any smaller reduction. None: whole photos. `rough`: for training, where
        colours may be a little off if that is faster."""
        ...
