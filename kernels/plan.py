"""The plan: everything one pass does to a batch, as numbers instead of images.

Augmentations compose as parameters. A policy draws a `Plan`; an executor turns (ragged uint8 images, plan) into one
normalised channels-last batch, reading each source pixel it needs once and writing each output pixel once. The
obvious other way, a chain of image operations, reads and writes the whole batch once per operation.

Conventions, the same for every executor (`reference.py` is the definition):

* Coordinates are continuous: pixel (row i, column j) covers [j, j+1) x [i, i+1), its centre is (j + 0.5, i + 0.5).
* `matrix_B33` maps an output point (x, y, 1) to a source point (u, v, w); the sample is read at (u / w, v / w).
* Colours are RGB in [0, 1] until normalisation. Each step of the colour program clamps to [0, 1].
* Order for one sample: read (matrix, filter, border) -> colour program -> rectangles -> normalise -> mix with the
  partner, whose own matrix, colours and rectangles apply to it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .upload import upload


class Filter(enum.IntEnum):
    """How a source is read between its pixels. Triangle and cubic (a = -0.5) kernels widen when shrinking."""

    NEAREST = 0
    BILINEAR = 1
    BICUBIC = 2


class Border(enum.IntEnum):
    """What lies outside the source. REFLECT mirrors about the edge pixel's outer side (dcba|abcd|dcba).

    CONSTANT blends readings near the edge with the border colour, so a plain resize wants EDGE.
    """

    CONSTANT = 0
    EDGE = 1
    REFLECT = 2


class Color(enum.IntEnum):
    """One step of the colour program; `arg` is its number. Definitions are Kornia's and torchvision's."""

    NONE = 0
    BRIGHTNESS = 1  # x * arg
    CONTRAST = 2  # m + (x - m) * arg, m = mean luma of the image as it is before this step
    SATURATION = 3  # luma + (x - luma) * arg
    HUE = 4  # hue shifted by arg turns (0.5 = opposite colour), in HSV
    GRAY = 5  # luma in all three channels when arg > 0
    SHUFFLE = 6  # channel order: arg 0..5 indexes the permutations of RGB in lexicographic order
    INVERT = 7  # 1 - x
    SOLARIZE = 8  # 1 - x where x >= arg
    POSTERIZE = 9  # keep the arg highest bits of 8
    GAMMA = 10  # x ** arg


class Fill(enum.IntEnum):
    """What a rectangle is filled with."""

    NONE = 0
    CONSTANT = 1  # rect_color
    MEAN = 2  # the normalisation mean, so 0 after it
    NOISE = 3  # uniform RGB per pixel, hashed from (noise_seed, pixel, channel): see reference.noise


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL, Kornia and torchvision use
LOOK = 32  # contrast's mean is taken over a LOOK x LOOK grid of output points, read without antialiasing


class Placed(NamedTuple):
    """An image in memory that is somebody else's: uint8 RGB, rows without gaps. A tensor of it is made where one is
    asked for: for each photo of a batch that takes longer than all else that the host does about it."""

    address: int  # of the first byte
    height: int  # in pixels
    width: int
    keep: Any  # a tensor of bytes in whose memory it lies, and which it keeps there

    @property
    def device(self) -> torch.device:
        device: torch.device = self.keep.device
        return device

    def tensor(self) -> Tensor:
        """(height, width, 3), in the same memory."""
        start = self.address - self.keep.data_ptr()
        part: Tensor = self.keep[start : start + self.height * self.width * 3]
        return part.view(self.height, self.width, 3)


class Ragged:
    """A batch of images of different sizes, on one device: places, or uint8 tensors (height, width, 3), contiguous.

    Raises ValueError when an image is not uint8 HWC RGB, has no pixels, or the devices differ.
    """

    def __init__(self, images: Sequence[Tensor | Placed]) -> None:
        self._images = images
        first: object = None
        for i, image in enumerate(images):
            if isinstance(image, Placed):
                own: object = image.keep
                if own is first:
                    continue
            else:
                own = image
                _check_image(i, image)
            if image.device != images[0].device:
                raise ValueError(f"image {i} is on {image.device}, image 0 on {images[0].device}; use one device")
            first = own

    def __len__(self) -> int:
        return len(self._images)

    @property
    def images(self) -> Sequence[Tensor | Placed]:
        """As they were given."""
        return self._images

    @cached_property
    def tensors(self) -> Sequence[Tensor]:
        """The images as tensors, contiguous. Not for what is done to every batch: see `Placed`."""
        return [image.tensor() if isinstance(image, Placed) else image for image in self._images]

    @property
    def device(self) -> torch.device:
        return self._images[0].device

    @property
    def bytes(self) -> int:
        """Of all pixels."""
        return int(self.sizes_B2.long().prod(1).sum()) * 3

    @cached_property
    def sizes_B2(self) -> Tensor:
        """(height, width) of each image, int32, on the host."""
        sizes = [one[1:3] if isinstance(one, Placed) else one.shape[:2] for one in self._images]
        return torch.from_numpy(np.array(sizes, dtype=np.int32).reshape(-1, 2))

    @cached_property
    def pointers_B(self) -> Tensor:
        """Address of each image's first byte, int64, on the host. Valid while this object lives."""
        addresses = [one.address if isinstance(one, Placed) else one.data_ptr() for one in self._images]
        return torch.from_numpy(np.array(addresses, dtype=np.int64))

    def take(self, places: Sequence[int]) -> Ragged:
        """The images at these places, which may come again."""
        return Ragged([self._images[place] for place in places])


def _check_image(number: int, image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.is_contiguous():
        raise ValueError(
            f"image {number} of the batch: expected a contiguous uint8 tensor (height, width, 3), "
            f"got {image.dtype} {tuple(image.shape)}; decode to RGB first"
        )
    if image.numel() == 0:
        raise ValueError(f"image {number} of the batch has no pixels: {tuple(image.shape)}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Per-sample parameters of one pass. Suffixes: B batch, K colour steps, R rectangles.

    All tensors live on one device. Empty programs have K = 0 or R = 0. Colour codes come with their arguments, and
    rectangles with their fills. `dispatch.check_plan` checks shapes and dtypes against a batch.
    """

    height: int  # of the output, pixels
    width: int
    matrix_B33: Tensor  # float32, output point -> source point; w must be > 0 where there is a source
    mean: tuple[float, float, float]  # normalisation, of RGB in [0, 1]
    std: tuple[float, float, float]
    filter: Filter = Filter.BILINEAR
    antialias: bool = True
    border_B: Tensor | None = None  # int32 of Border; None: CONSTANT
    border_color_B3: Tensor | None = None  # float32 in [0, 1]; None: black
    color_op_BK: Tensor | None = None  # int32 of Color
    color_arg_BK: Tensor | None = None  # float32
    rect_BR4: Tensor | None = None  # int32 (B, R, 4): x0, y0, x1, y1 in output pixels, half-open
    rect_fill_BR: Tensor | None = None  # int32 of Fill
    rect_color_BR3: Tensor | None = None  # float32 in [0, 1]; None: black
    noise_seed_B: Tensor | None = None  # int64, the lower 32 bits count; None: 0
    partner_B: Tensor | None = None  # int64 index into the batch; None: no mixing
    weight_B: Tensor | None = None  # float32, the sample's own weight outside the box; None: 1
    box_B4: Tensor | None = None  # int32 x0, y0, x1, y1: inside, the partner alone; None: empty

    @property
    def batch(self) -> int:
        return self.matrix_B33.shape[0]

    @property
    def device(self) -> torch.device:
        return self.matrix_B33.device

    def own_share_B(self) -> Tensor:
        """The share of its own label each sample keeps, float32 in [0, 1]: its weight, outside the box's true area."""
        share = torch.ones(self.batch, device=self.device)
        if self.partner_B is None:
            return share
        if self.weight_B is not None:
            share = share * self.weight_B
        if self.box_B4 is not None:
            x0, x1 = self.box_B4[:, 0::2].clamp(0, self.width).unbind(1)
            y0, y1 = self.box_B4[:, 1::2].clamp(0, self.height).unbind(1)
            area = (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)
            share = share * (1 - area / (self.height * self.width))
        return share

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by their names."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> Plan:
        """The same plan with its tensors on `device` and contiguous, as the executors read them."""
        return self.along((), device)[0]

    def along(self, others: Sequence[Tensor], device: torch.device | str) -> tuple[Plan, list[Tensor]]:
        """The same plan on `device`, and other tensors of its batch, which travel with it in one copy."""
        named = self.tensors
        moved = upload([*named.values(), *others], device)
        plan: dict[str, Any] = dict(zip(named, moved, strict=False))
        return dataclasses.replace(self, **plan), moved[len(named) :]
