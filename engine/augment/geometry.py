"""Geometry as matrices: every operation maps output points to the points they are read from, per sample.

They compose by multiplication, in float64 because a crop of a large photo times a small turn times a shift loses
digits, and are rounded to float32 once, by whoever builds the plan. Points are continuous pixel coordinates as in
`kernels/plan.py` (a pixel's centre lies at + 0.5). "Canvas" is the output before an operation is applied to it: a
matrix here maps points of the output after the operation to points of the canvas.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def matrices(rows: tuple[tuple[Tensor | float, ...], ...]) -> Tensor:
    """(B, 3, 3) float64 from three rows of three numbers or (B,) tensors; at least one must be a tensor."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    entries = [
        entry.to(torch.float64) if isinstance(entry, Tensor) else like.new_full(like.shape, entry, dtype=torch.float64)
        for row in rows
        for entry in row
    ]
    return torch.stack(entries, dim=1).view(-1, 3, 3)


def box_matrix(box_B4: Tensor, height: int, width: int) -> Tensor:
    """The output shows the source's box: x, y (of its upper left corner), width and height in source pixels."""
    x, y, w, h = box_B4.unbind(1)
    return matrices(((w / width, 0, x), (0, h / height, y), (0, 0, 1)))


def fit_box(fit: str, crop: float, sizes_B2: Tensor, height: int, width: int) -> Tensor:
    """The part of each source that the output shows, as (B, 4) x, y, width, height in source pixels, float64.

    `fit` is "stretch" (all of it), "letterbox" (all of it and, to keep the aspect, some of what lies around it) or
    "center" (the middle at the output's aspect, with the share `crop` of what would fit). `sizes_B2` is (height,
    width). Raises ValueError for another fit.
    """
    h, w = sizes_B2.to(torch.float64).unbind(1)
    if fit == "stretch":
        box_w, box_h = w, h
    elif fit == "letterbox":
        step = torch.maximum(w / width, h / height)  # source pixels for one output pixel
        box_w, box_h = step * width, step * height
    elif fit == "center":
        step = torch.minimum(w / width, h / height) * crop
        box_w, box_h = step * width, step * height
    else:
        raise ValueError(f"fit {fit!r}: expected center, letterbox or stretch")
    return torch.stack([(w - box_w) / 2, (h - box_h) / 2, box_w, box_h], dim=1)


CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 2


def random_box(draws_BN: Tensor, sizes_B2: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """RandomResizedCrop as torchvision defines it, as (B, 4) x, y, width, height in source pixels, float64.

    An area share uniform in `scale` and a log aspect (width over height) uniform in log `ratio` are drawn together
    until the box fits, at most CROP_TRIES times; then the largest central box within `ratio` is taken. Unlike
    torchvision the box is not rounded to whole pixels: the pass reads between them anyway. `draws_BN` are CROP_DRAWS
    uniform numbers a sample.
    """
    h, w = sizes_B2.to(torch.float64).unbind(1)
    draws_BN = draws_BN.to(torch.float64)
    area_BT = (h * w)[:, None] * (scale[0] + (scale[1] - scale[0]) * draws_BN[:, :CROP_TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect_BT = torch.exp(low + (high - low) * draws_BN[:, CROP_TRIES : 2 * CROP_TRIES])
    tries_BT2 = torch.stack([torch.sqrt(area_BT * aspect_BT), torch.sqrt(area_BT / aspect_BT)], dim=2)
    fits_BT = (tries_BT2 <= torch.stack([w, h], dim=1)[:, None]).all(2)
    first_B = fits_BT.int().argmax(1)  # of equal values the first
    drawn_B2 = tries_BT2.gather(1, first_B[:, None, None].expand(-1, 1, 2))[:, 0]
    fallback_B2 = torch.stack([torch.minimum(w, h * ratio[1]), torch.minimum(h, w / ratio[0])], dim=1)
    found_B = fits_BT.any(1)
    box_w, box_h = torch.where(found_B[:, None], drawn_B2, fallback_B2).unbind(1)
    at_B2 = torch.where(found_B[:, None], draws_BN[:, -2:], 0.5)
    return torch.stack([(w - box_w) * at_B2[:, 0], (h - box_h) * at_B2[:, 1], box_w, box_h], dim=1)


def flips(horizontal_B: Tensor, vertical_B: Tensor, height: int, width: int) -> Tensor:
    """Mirrored where the boolean is set: left to right, top to bottom."""
    sx, sy = 1.0 - 2.0 * horizontal_B.double(), 1.0 - 2.0 * vertical_B.double()
    return matrices(((sx, 0, horizontal_B * width), (0, sy, vertical_B * height), (0, 0, 1)))


def quarter_turns(turns_B: Tensor, sizes_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Sources turned counter-clockwise (as seen) by 0 to 3 quarters before anything else is done to them.

    Returns the matrices from the turned source to the source, and the turned (height, width), so that a turned photo is
    then cropped or letterboxed by its new shape.
    """
    h, w = sizes_B2.to(torch.float64).unbind(1)
    c = (turns_B == 0).double() - (turns_B == 2).double()
    s = (turns_B == 1).double() - (turns_B == 3).double()
    right = ((turns_B == 1) | (turns_B == 2)) * w
    down = (turns_B >= 2) * h
    turned_B2 = torch.where((turns_B % 2 == 1)[:, None], sizes_B2.flip(1), sizes_B2)
    return matrices(((c, -s, right), (s, c, down), (0, 0, 1))), turned_B2


def affine(linear_B22: Tensor, shift_B2: Tensor, height: int, width: int) -> Tensor:
    """What was at c + p of the canvas, c its centre, appears at c + A p + shift, A the linear part; output pixels."""
    # By hand: LAPACK's threads are slower to wake than this is to do.
    (p, q), (r, s) = (row.unbind(1) for row in linear_B22.to(torch.float64).unbind(1))
    det = p * s - q * r
    a, b, c, d = s / det, -q / det, -r / det, p / det
    dx, dy = shift_B2.to(torch.float64).unbind(1)
    x, y = width / 2 + dx, height / 2 + dy
    return matrices(((a, b, width / 2 - a * x - b * y), (c, d, height / 2 - c * x - d * y), (0, 0, 1)))


def linear(scale_B: Tensor, angle_B: Tensor, shear_B2: Tensor) -> Tensor:
    """Scale times counter-clockwise turn (radians, as seen) times shear (tangents along x and y): (B, 2, 2), float64.

    A shear along x by t moves what lies one pixel lower t pixels to the right; along y, one pixel to the right t down.
    """
    scale, angle, (tx, ty) = scale_B.double(), angle_B.double(), shear_B2.double().unbind(1)
    c, s = scale * torch.cos(angle), scale * torch.sin(angle)
    # y points down, so counter-clockwise as seen is [[c, s], [-s, c]]; the shear is [[1, tx], [ty, 1 + tx ty]].
    rows = torch.stack([c + s * ty, c * tx + s * (1 + tx * ty), c * ty - s, c * (1 + tx * ty) - s * tx], dim=1)
    return rows.view(-1, 2, 2)


def perspective(corners_B42: Tensor, height: int, width: int) -> Tensor:
    """The output's corners (upper left, upper right, lower right, lower left) show these canvas points, in pixels.

    Heckbert 1989, "Fundamentals of texture mapping and image warping", 2.2.3: square to quadrilateral in closed form.
    """
    p0, p1, p2, p3 = corners_B42.to(torch.float64).unbind(1)
    (d1x, d1y), (d2x, d2y) = (p1 - p2).unbind(1), (p3 - p2).unbind(1)
    sx, sy = (p0 - p1 + p2 - p3).unbind(1)
    det = d1x * d2y - d2x * d1y
    g, h = (sx * d2y - d2x * sy) / det, (d1x * sy - sx * d1y) / det
    a, d = (p1 - p0 + g[:, None] * p1).unbind(1)
    b, e = (p3 - p0 + h[:, None] * p3).unbind(1)
    return matrices(
        (
            (a / width, b / height, p0[:, 0]),
            (d / width, e / height, p0[:, 1]),
            (g / width, h / height, 1),
        )
    )
