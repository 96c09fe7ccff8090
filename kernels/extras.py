"""Extras: what no rule for a single pixel can express, as numbers that a GPU's kernels read.

An extra looks at a pixel's neighbours or at the whole image, so it cannot be a step of the colour program. The plain
torch way to run some on a batch is a dozen operations for each kind, radius and strength that was drawn: hundreds of
launches. Here a batch becomes a table of *jobs*, one for each operation of each image, with all that differs between
them in the table; `triton_extras` runs it in at most `STAGES` launches a slot, whatever was drawn. Everything here
happens on the host and asks no GPU for anything.

Images are (height, width, 3) float32 in [0, 1] between two operations; after an image's last one they are rounded to
8 bits. What each operation means is said by `engine.loader.neighbourhood`, which does the same in plain torch.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import numpy as np
import torch
from torch import Tensor

STAGES = 8  # launches a slot at most
GRID = 8  # tiles an axis, over which CLAHE looks and whole images are counted
LEVELS = 256


class Extra(enum.IntEnum):
    """Arguments: blur: sigma in pixels; motion: length in pixels; noise: standard deviation; jpeg: quality 1 to 100;
    clahe: clip limit; elastic: root mean square shift as a share of the side; sharpness: PIL's factor (1: as it is)."""

    NONE = 0
    BLUR = 1
    MOTION = 2
    NOISE = 3
    JPEG = 4
    CLAHE = 5
    EQUALIZE = 6
    ELASTIC = 7
    SHARPNESS = 8
    AUTO_CONTRAST = 9


# Jobs of a slot lie in this order, so that what a stage works on is one stretch of them.
_ORDER = (
    *(Extra.JPEG, Extra.BLUR, Extra.ELASTIC, Extra.CLAHE, Extra.EQUALIZE, Extra.AUTO_CONTRAST),
    *(Extra.MOTION, Extra.NOISE, Extra.SHARPNESS),
)
_RANK = np.array([_ORDER.index(op) if op in _ORDER else len(_ORDER) for op in Extra])
_SMOOTHED = (Extra.BLUR, Extra.ELASTIC)
_LOOKED_AT = (Extra.CLAHE, Extra.EQUALIZE, Extra.AUTO_CONTRAST)

# JPEG's example tables for luma and chroma (ITU-T T.81, K.1 and K.2), which libjpeg scales by the quality.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # elsewhere 99


@dataclasses.dataclass(frozen=True)
class Span:
    """Jobs `first` to `first + count - 1` of the table."""

    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class Slot:
    """The jobs of all images' n-th operations: which of them take part in what."""

    all: Span
    jpeg: Span
    smoothed: Span  # blurs, and elastic shifts
    elastic: Span
    looked_at: Span  # those that need to know how often each level occurs, or the extremes
    changed: Span  # all but blurs and JPEG, which have their own last stage


@dataclasses.dataclass(frozen=True)
class Jobs:
    """What is done to N images of `height` x `width`, on the host. Suffix J: jobs, in the order of the slots.

    Images lie in places, each of 3 * height * width float32: 0..N-1 hold what comes in; `places` says how many there
    are. A job reads place `source` and writes place `spare`, or, where it is its image's last, 8-bit pixels.
    """

    images: int
    height: int
    width: int
    job_J8: Tensor  # int32: image, operation, source, spare, scratch, last, radius, which table
    number_J4: Tensor  # float32: see `_numbers`
    seed_J: Tensor  # int32, 32 bits of it
    quant_Q128: Tensor  # float32; row 0: the cosines of an 8 x 8 transform; others: divisors of luma and chroma
    slots: tuple[Slot, ...]
    places: int

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What travels to the device."""
        return self.job_J8, self.number_J4, self.seed_J, self.quant_Q128

    @property
    def tables(self) -> int:
        """For how many images at once levels are counted."""
        return max((slot.looked_at.count for slot in self.slots), default=0)


def radii(op_n: Tensor, arg_n: Tensor, height: int, width: int) -> Tensor:
    """Of the kernels of blur (three sigma) and of motion (an odd number of pixels, at least 3), int32; else 0."""
    blur_n = torch.ceil(3 * arg_n).int().clamp(max=min(height, width) - 1)
    motion_n = (arg_n / 2).floor().int().clamp(min=1)
    return blur_n.where(op_n == Extra.BLUR, motion_n.where(op_n == Extra.MOTION, 0))


def directions(seed_n: Tensor) -> Tensor:
    """Of motion, in degrees, float32."""
    return 360 * ((seed_n & 0xFFFF).double() / 0x10000).float()


def elastic_sigma(height: int, width: int) -> float:
    """Over how many pixels elastic shifts are smoothed: the deviation of a Gaussian."""
    return max(min(height, width) / 16, 1.0)


def elastic_gain(share_n: Tensor, sigma: float) -> Tensor:
    """What white noise is multiplied by, so that smoothed it shifts by a share of the side, in sides of 2.

    Smoothing white noise of deviation d by a Gaussian in the plane leaves d / (2 sqrt(pi) sigma)."""
    return 2 * share_n * (2 * math.sqrt(math.pi) * sigma)


def clahe_grid(height: int, width: int) -> tuple[int, int]:
    return max(1, min(GRID, height // 2)), max(1, min(GRID, width // 2))


def jobs_of(op_NE: Tensor, arg_NE: Tensor, seed_N: Tensor, height: int, width: int) -> Jobs:
    """The operations (int32 of Extra), their arguments (float32) and the images' seeds (int64) as jobs."""
    ops, args = op_NE.numpy(), arg_NE.numpy()
    images = len(ops)
    done_NE = np.cumsum(ops != Extra.NONE, axis=1)
    parts, slots = [], []
    for e in range(ops.shape[1]):
        which = np.flatnonzero(ops[:, e] != Extra.NONE)
        which = which[np.argsort(_RANK[ops[which, e]], kind="stable")]
        side = (done_NE[which, e] - 1) % 2  # an image goes to and fro between two places
        last = done_NE[which, e] == done_NE[which, -1]
        parts.append(np.stack([which, ops[which, e], which + side * images, which + (1 - side) * images, last], 1))
        slots.append(ops[which, e])
    job_J8 = np.zeros((sum(map(len, parts)), 8), np.int32)
    job_J8[:, [0, 1, 2, 3, 5]] = np.concatenate(parts)
    arg_J = torch.from_numpy(np.concatenate([args[part[:, 0], e] for e, part in enumerate(parts)]))
    seed_J = seed_N[torch.from_numpy(job_J8[:, 0]).long()]
    op_J = torch.from_numpy(job_J8[:, 1])
    job_J8[:, 4] = 2 * images + job_J8[:, 0] * _scratch(height, width)
    job_J8[:, 6] = radii(op_J, arg_J, height, width)
    job_J8[job_J8[:, 1] == Extra.ELASTIC, 6] = math.ceil(2.5 * elastic_sigma(height, width))
    spans, first = [], 0
    for slot in slots:
        spans.append(_slot(slot, first))
        looked_at = spans[-1].looked_at
        job_J8[looked_at.first : looked_at.first + looked_at.count, 7] = np.arange(looked_at.count)
        first += len(slot)
    coded = np.flatnonzero(job_J8[:, 1] == Extra.JPEG)
    job_J8[coded, 7] = 1 + np.arange(len(coded))
    return Jobs(
        images,
        height,
        width,
        torch.from_numpy(job_J8),
        _numbers(op_J, arg_J, seed_J, height, width),
        seed_J.to(torch.int32),
        torch.cat([_cosines(), divisors(arg_J[torch.from_numpy(coded)])]),
        tuple(spans),
        images * (2 + _scratch(height, width)),
    )


def _scratch(height: int, width: int) -> int:
    """How many places a scratch image takes: one, but for images so small that padded chroma is larger."""
    chroma = -(-height // 16) * 16 * (-(-width // 16) * 16) // 2
    return -(-chroma // (3 * height * width))


def _slot(ops: np.ndarray, first: int) -> Slot:
    def span(*wanted: Extra) -> Span:
        found = np.flatnonzero(np.isin(ops, wanted))
        return Span(first + int(found[0]), len(found)) if len(found) else Span(first, 0)

    changed = set(_ORDER) - {Extra.JPEG, Extra.BLUR}
    return Slot(
        Span(first, len(ops)),
        span(Extra.JPEG),
        span(*_SMOOTHED),
        span(Extra.ELASTIC),
        span(*_LOOKED_AT),
        span(*changed),
    )


def _numbers(op_J: Tensor, arg_J: Tensor, seed_J: Tensor, height: int, width: int) -> Tensor:
    """(J, 4): the argument (elastic: the gain; CLAHE: how often a level may occur in a tile, 0: any number); of a
    Gaussian 1 / (2 sigma^2); of motion cosine and sine."""
    numbers = torch.zeros(len(op_J), 4)
    sigma = elastic_sigma(height, width)
    rows, columns = clahe_grid(height, width)
    pixels = -(-height // rows) * -(-width // columns)
    limit_J = (arg_J.double() * pixels / LEVELS).floor().clamp(min=1).where(arg_J > 0, 0).float()
    first_J = arg_J.where(op_J != Extra.ELASTIC, elastic_gain(arg_J, sigma))
    numbers[:, 0] = first_J.where(op_J != Extra.CLAHE, limit_J)
    own_J = arg_J.where(op_J == Extra.BLUR, sigma)
    numbers[:, 1] = (1 / (2 * own_J.square())).where(own_J > 0, 0)
    angle_J = torch.deg2rad(directions(seed_J).double())
    numbers[:, 2], numbers[:, 3] = angle_J.cos(), angle_J.sin()
    return numbers


def _cosines() -> Tensor:
    """(1, 128): the orthonormal 8 x 8 cosine transform, one row a frequency, and nothing."""
    frequency_81 = torch.arange(8)[:, None]
    basis_88 = 0.5 * torch.cos((2 * torch.arange(8) + 1) * frequency_81 * (math.pi / 16))
    basis_88[0] *= 0.5**0.5
    return torch.cat([basis_88.flatten(), torch.zeros(64)])[None]


def divisors(quality_Q: Tensor) -> Tensor:
    """(Q, 128): what luma's and chroma's coefficients are divided by at a quality: libjpeg's rule, softened as Kornia
    does (Shin and Song 2017: floor and bounds that have a slope)."""
    base_128 = torch.full((2, 8, 8), 99.0)
    base_128[0] = torch.tensor(_LUMA)
    base_128[1, :4, :4] = torch.tensor(_CHROMA_CORNER)
    quality_Q1 = quality_Q.where(quality_Q != 0, 1)[:, None]
    scale_Q1 = _soft_floor((5000 / quality_Q1).where(quality_Q1 < 50, 200 - 2 * quality_Q1))
    table = (base_128.view(1, 128) * scale_Q1 + 50) / 100
    table = (255 - 0.02 * (torch.exp((255 - table).clamp(max=0)) - 1)).where(table > 255, table)
    table = (1 + 0.02 * (torch.exp((table - 1).clamp(max=0)) - 1)).where(table < 1, table)
    return _soft_floor(table)


def _soft_floor(x: Tensor) -> Tensor:
    return x.floor() + (x - 0.5 - x.floor()) ** 3
