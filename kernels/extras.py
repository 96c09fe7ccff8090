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
    are. A job reads place `source` and writes place `spare`, or, where it is its image's last, 8-bit pixels. Only those
    images have a spare place or a scratch whose operations write there.
    """

    images: int
    height: int
    width: int
    job_J8: Tensor  # int32: image, operation, source, spare, scratch, last, radius or count of taps, which table
    number_J4: Tensor  # float32: see `_numbers`
    seed_J: Tensor  # int32, 32 bits of it
    tap_T4: Tensor  # float32: of motion how far right and down, and the weight: see `lines`
    quant_Q128: Tensor  # float32; row 0: the cosines of an 8 x 8 transform; others: divisors of luma and chroma
    slots: tuple[Slot, ...]
    places: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What travels to the device."""
        return self.job_J8, self.number_J4, self.seed_J, self.tap_T4, self.quant_Q128

    @property
    def tables(self) -> int:
        """For how many images at once levels are counted."""
        return max((slot.looked_at.count for slot in self.slots), default=0)


def radii(op_n: np.ndarray, arg_n: np.ndarray, height: int, width: int) -> np.ndarray:
    """Of the kernels of blur (three sigma) and of motion (an odd number of pixels, at least 3), int32; else 0."""
    blur_n = np.minimum(np.ceil(3 * arg_n), min(height, width) - 1)
    motion_n = np.maximum(np.floor(arg_n / 2), 1)
    return np.where(op_n == Extra.BLUR, blur_n, np.where(op_n == Extra.MOTION, motion_n, 0)).astype(np.int32)


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
    drawn_EN = (ops != Extra.NONE).T
    order = [
        np.flatnonzero(drawn_N)[np.argsort(_RANK[ops[drawn_N, e]], kind="stable")] for e, drawn_N in enumerate(drawn_EN)
    ]
    slot_J, image_J = np.repeat(np.arange(len(order)), [len(one) for one in order]), np.concatenate(order)
    op_J, arg_J, seed_J = ops[image_J, slot_J], args[image_J, slot_J], seed_N.numpy()[image_J]
    places_N3, places = _places(ops, height, width)
    done_EN = drawn_EN.cumsum(0)
    side_J = (done_EN[slot_J, image_J] - 1) % 2  # an image goes to and fro between two places
    last_J = done_EN[slot_J, image_J] == done_EN[-1, image_J]
    slots = _slots(op_J, [len(one) for one in order])

    jobs = np.zeros((len(op_J), 8), np.int32)
    jobs[:, 0], jobs[:, 1], jobs[:, 5] = image_J, op_J, last_J
    jobs[:, 2], jobs[:, 3] = places_N3[image_J, side_J], places_N3[image_J, 1 - side_J]
    jobs[:, 4] = places_N3[image_J, 2]
    jobs[:, 6] = radii(op_J, arg_J, height, width)
    jobs[op_J == Extra.ELASTIC, 6] = math.ceil(2.5 * elastic_sigma(height, width))
    for slot in slots:
        jobs[slot.looked_at.first :, 7][: slot.looked_at.count] = np.arange(slot.looked_at.count)
    number_J4 = _numbers(op_J, arg_J, jobs[:, 6], height, width)
    coded, moved = op_J == Extra.JPEG, op_J == Extra.MOTION
    jobs[coded, 7] = 1 + np.arange(coded.sum())
    tap_T4, count_M = lines(jobs[moved, 6], seed_J[moved])
    jobs[moved, 6], jobs[moved, 7] = count_M, count_M.cumsum() - count_M
    return Jobs(
        images=len(ops),
        height=height,
        width=width,
        job_J8=torch.from_numpy(jobs),
        number_J4=torch.from_numpy(number_J4),
        seed_J=torch.from_numpy(seed_J.astype(np.int32)),  # the lower bits
        tap_T4=torch.from_numpy(tap_T4),
        quant_Q128=torch.from_numpy(np.concatenate([_COSINES, divisors(arg_J[coded])])),
        slots=slots,
        places=places,
    )


def _places(op_NE: np.ndarray, height: int, width: int) -> tuple[np.ndarray, int]:
    """(N, 3): each image's first place, its second, its scratch; and how many places there are. Who needs no second
    place or no scratch is given his first, and leaves it alone."""
    chroma = -(-height // 16) * 16 * (-(-width // 16) * 16) // 2
    scratch = -(-chroma // (3 * height * width))  # 1, but for images so small that padded chroma is larger
    two_N = ((op_NE != Extra.NONE).sum(1) > 1) | (op_NE == Extra.ELASTIC).any(1)
    some_N = np.isin(op_NE, (Extra.BLUR, Extra.ELASTIC, Extra.JPEG)).any(1)
    first_N = np.arange(len(op_NE))
    end = len(op_NE) + int(two_N.sum())
    second_N = np.where(two_N, len(op_NE) - 1 + two_N.cumsum(), first_N)
    scratch_N = np.where(some_N, end + (some_N.cumsum() - 1) * scratch, first_N)
    return np.stack([first_N, second_N, scratch_N], 1), end + int(some_N.sum()) * scratch


def _slots(op_J: np.ndarray, counts: list[int]) -> tuple[Slot, ...]:
    """Of the jobs in order, so many in each slot."""
    rank_J, first, slots = _RANK[op_J], 0, []
    for count in counts:
        # Each group's operations are neighbours in the order, so its jobs lie between two ranks.
        bounds = first + np.searchsorted(rank_J[first : first + count], np.arange(len(_ORDER) + 1))

        def span(one: Extra, other: Extra, bounds: np.ndarray = bounds) -> Span:
            start, end = bounds[_ORDER.index(one)], bounds[_ORDER.index(other) + 1]
            return Span(int(start), int(end - start))

        slots.append(
            Slot(
                all=Span(first, count),
                jpeg=span(Extra.JPEG, Extra.JPEG),
                smoothed=span(Extra.BLUR, Extra.ELASTIC),
                elastic=span(Extra.ELASTIC, Extra.ELASTIC),
                looked_at=span(Extra.CLAHE, Extra.AUTO_CONTRAST),
                changed=span(Extra.ELASTIC, _ORDER[-1]),
            )
        )
        first += count
    return tuple(slots)


def lines(radius_M: np.ndarray, seed_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion's kernels: (T, 4), float32, of all pixels that count how far right and down they lie, their weight, and
    nothing; and how many of them each image has, int32 (M,).

    A kernel is a row of 2 radius + 1 pixels, turned about its centre and read between pixels; of each step along the
    line's longer axis three neighbours can have a share."""
    if not len(radius_M):
        return np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    radius_M11, longest = radius_M[:, None, None], int(radius_M.max())
    angle_M11 = np.deg2rad(directions(torch.from_numpy(seed_M)).numpy().astype(np.float64))[:, None, None]
    cosine, sine = np.cos(angle_M11), np.sin(angle_M11)
    steep = np.abs(sine) > np.abs(cosine)
    slope = -np.where(steep, cosine, sine) / np.where(steep, sine, cosine)
    along = np.arange(-longest, longest + 1)[None, :, None]
    aside = np.floor(along * slope + 0.5) + np.arange(-1, 2)
    along = np.broadcast_to(along, aside.shape)
    dx, dy = np.where(steep, aside, along), np.where(steep, along, aside)
    u, v = cosine * dx - sine * dy, sine * dx + cosine * dy
    weight = np.maximum(1 - np.abs(v), 0) * np.clip(radius_M11 + 1 - np.abs(u), 0, 1)
    weight *= (np.abs(along) <= radius_M11) & (np.abs(aside) <= radius_M11)
    weight /= weight.sum((1, 2), keepdims=True)
    counted = weight > 0
    taps_T = [part[counted] for part in (dx, dy, weight, np.zeros_like(weight))]
    return np.stack(taps_T, 1).astype(np.float32), counted.sum((1, 2)).astype(np.int32)


def _numbers(op_J: np.ndarray, arg_J: np.ndarray, radius_J: np.ndarray, height: int, width: int) -> np.ndarray:
    """(J, 4), float32: the argument (elastic: the gain; CLAHE: how often a level may occur in a tile, 0: any number);
    of a Gaussian 1 / (2 sigma^2), of motion the radius; nothing."""
    numbers = np.zeros((len(op_J), 4), np.float32)
    numbers[:, 0] = arg_J
    blur_J, elastic_J, clahe_J, motion_J = (op_J == op for op in (Extra.BLUR, Extra.ELASTIC, Extra.CLAHE, Extra.MOTION))
    sigma_J = arg_J[blur_J].astype(np.float64)
    numbers[blur_J, 1] = np.divide(1, 2 * sigma_J**2, out=np.zeros_like(sigma_J), where=sigma_J > 0)
    if elastic_J.any():
        sigma = elastic_sigma(height, width)
        numbers[elastic_J, 0] = elastic_gain(torch.from_numpy(arg_J[elastic_J]), sigma).numpy()
        numbers[elastic_J, 1] = 1 / (2 * sigma**2)
    if clahe_J.any():
        rows, columns = clahe_grid(height, width)
        clip_J = arg_J[clahe_J].astype(np.float64)
        limit_J = np.maximum(np.floor(clip_J * (-(-height // rows) * -(-width // columns)) / LEVELS), 1)
        numbers[clahe_J, 0] = np.where(clip_J > 0, limit_J, 0)
    numbers[motion_J, 1] = radius_J[motion_J]
    return numbers


def _cosines() -> np.ndarray:
    """(1, 128), float32: the orthonormal 8 x 8 cosine transform, one row a frequency, and nothing."""
    numbers = np.arange(8)
    basis_88 = 0.5 * np.cos((2 * numbers + 1) * numbers[:, None] * (math.pi / 16))
    basis_88[0] *= 0.5**0.5
    return np.concatenate([basis_88.reshape(1, 64), np.zeros((1, 64))], 1).astype(np.float32)


_COSINES = _cosines()


def divisors(quality_Q: np.ndarray) -> np.ndarray:
    """(Q, 128), float32: what luma's and chroma's coefficients are divided by at a quality: libjpeg's rule, softened as
    Kornia does (Shin and Song 2017: floor and bounds that have a slope)."""
    quality_Q1 = np.where(quality_Q != 0, quality_Q, np.float32(1))[:, None]
    scale_Q1 = _soft_floor(np.where(quality_Q1 < 50, 5000 / quality_Q1, 200 - 2 * quality_Q1))
    table = (_BASE_128 * scale_Q1 + 50) / 100
    over, under = np.minimum(255 - table, 0), np.minimum(table - 1, 0)
    table = np.where(over < 0, 255 - 0.02 * (np.exp(over) - 1), table)
    return _soft_floor(np.where(under < 0, 1 + 0.02 * (np.exp(under) - 1), table)).astype(np.float32)


def _soft_floor(x: np.ndarray) -> np.ndarray:
    whole = np.floor(x)
    rest = x - 0.5 - whole
    return whole + rest * rest * rest


def _example_tables() -> np.ndarray:
    """(128,), float32: luma's and chroma's."""
    both = np.full((2, 8, 8), 99, np.float32)
    both[0] = _LUMA
    both[1, :4, :4] = _CHROMA_CORNER
    return both.reshape(128)


_BASE_128 = _example_tables()
