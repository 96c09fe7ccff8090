"""Extras done to pixels: what looks at a pixel's neighbours or at the whole image, by Kornia.

They run between the geometry and the colours, on the samples that drew one and on no others: those samples' geometry is
run first, at the output's size; the result is rounded to 8 bits and takes the place of the source in the batch, with an
identity matrix. So the pass stays the one place where colours, rectangles and mixing happen, a mixed-in partner carries
its own blur, and strengths are in output pixels whatever the size of the photo.

Noise is a hash of the pixel's place, not a generator's.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from engine.augment.extras import Extra, Extras
from engine.kernels import Plan, Ragged
from engine.kernels.reference import noise
from engine.loader.passes import Name, execute

_HASHED_AT_ONCE = 1 << 22  # numbers: bounds the memory of hashing, which takes some 64-bit integers for each


class _Group(NamedTuple):
    """Images that one call changes together: they drew the same operation and, where it has one, the same radius."""

    op: Extra
    radius: int  # in pixels; 0 where the operation has none
    where_n: Tensor  # int64, on the images' device: which of them
    arg_n: Tensor  # float32, on the images' device
    seed_n: Tensor  # int64, on the images' device
    host_arg_n: Tensor  # what is asked for its values is asked here


def apply_extras(extras: Extras, images: Ragged, plan: Plan, executor: Name = "auto") -> tuple[Ragged, Plan]:
    """The batch and the plan with the samples that drew something already warped and changed; the others untouched.

    Who is changed how is settled on the host, where extras and plan are best drawn, and sent to the images' device in
    one copy: nothing here waits for a GPU. Run the returned plan on the returned images by
    the same executor.
    """
    extras, plan = extras.to("cpu"), plan.to("cpu")
    rows_n = extras.op_BE.any(1).nonzero()[:, 0]
    rows = rows_n.tolist()
    if not rows:
        return images, plan
    geometry = Plan(
        height=plan.height,
        width=plan.width,
        matrix_B33=plan.matrix_B33[rows_n],
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        filter=plan.filter,
        antialias=plan.antialias,
        border_B=None if plan.border_B is None else plan.border_B[rows_n],
        border_color_B3=None if plan.border_color_B3 is None else plan.border_color_B3[rows_n],
    )
    settled = _grouped(extras, rows_n, (plan.height, plan.width))
    geometry, moved = geometry.along([part for group in settled for part in group[2:5]], images.device)
    there = [moved[i : i + 3] for i in range(0, len(moved), 3)]
    groups = [
        group._replace(where_n=where_n, arg_n=arg_n, seed_n=seed_n)
        for group, (where_n, arg_n, seed_n) in zip(settled, there, strict=True)
    ]

    pixels_nCHW = execute(executor, Ragged([images.tensors[row] for row in rows]), geometry).contiguous()
    for group in groups:
        changed_nCHW = _changed(group, pixels_nCHW.index_select(0, group.where_n)).clamp(0, 1)
        pixels_nCHW.index_copy_(0, group.where_n, changed_nCHW)
    changed_nHW3 = (pixels_nCHW * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    tensors = list(images.tensors)
    for row, image_HW3 in zip(rows, changed_nHW3.unbind(0), strict=True):
        tensors[row] = image_HW3
    matrix_B33 = plan.matrix_B33.clone()
    matrix_B33[rows_n] = torch.eye(3)
    return Ragged(tensors), dataclasses.replace(plan, matrix_B33=matrix_B33)


def _grouped(extras: Extras, rows_n: Tensor, size: tuple[int, int]) -> list[_Group]:
    """The operations on the rows in order, on the host: first those that come first, and within these by code and
    radius."""
    groups = []
    seed_n = extras.seed_B[rows_n]
    for op_n, arg_n in zip(extras.op_BE[rows_n].unbind(1), extras.arg_BE[rows_n].unbind(1), strict=True):
        radius_n = _radius(op_n, arg_n, size)
        for code, radius in torch.stack([op_n, radius_n], 1).unique(dim=0).tolist():
            if code != Extra.NONE:
                where_n = ((op_n == code) & (radius_n == radius)).nonzero()[:, 0]
                own_n = arg_n[where_n]
                groups.append(_Group(Extra(code), radius, where_n, own_n, seed_n[where_n], own_n))
    return groups


def _radius(op_n: Tensor, arg_n: Tensor, size: tuple[int, int]) -> Tensor:
    """Of the kernels of blur (three sigma) and of motion (an odd number of pixels, at least 3), int32; else 0."""
    blur_n = torch.ceil(3 * arg_n).int().clamp(max=min(size) - 1)
    motion_n = (arg_n / 2).floor().int().clamp(min=1)
    return blur_n.where(op_n == Extra.BLUR, motion_n.where(op_n == Extra.MOTION, 0))


def _changed(group: _Group, images_NCHW: Tensor) -> Tensor:
    """One operation on some images, float in [0, 1]. A result does not depend on the other images in the call."""
    import kornia  # takes seconds, and most recipes have no extras

    arg_N, seed_N = group.arg_n, group.seed_n
    match group.op:
        case Extra.BLUR:
            sigma_N2 = group.host_arg_n[:, None].expand(-1, 2)  # Kornia asks whether they are positive
            return kornia.filters.gaussian_blur2d(images_NCHW, 2 * group.radius + 1, sigma_N2)
        case Extra.MOTION:
            degrees_N = 360 * ((seed_N & 0xFFFF).double() / 0x10000).float()
            return kornia.filters.motion_blur(
                images_NCHW,
                2 * group.radius + 1,
                degrees_N,
                torch.zeros_like(degrees_N),
                border_type="replicate",
                mode="bilinear",
            )
        case Extra.NOISE:
            return images_NCHW + arg_N[:, None, None, None] * _normal(images_NCHW, seed_N)
        case Extra.JPEG:
            return kornia.enhance.jpeg_codec_differentiable(images_NCHW, group.host_arg_n)  # within range?
        case Extra.CLAHE:
            grid = tuple(max(1, min(8, side // 2)) for side in images_NCHW.shape[2:])
            each = zip(images_NCHW.split(1), group.host_arg_n.tolist(), strict=True)
            return torch.cat([kornia.enhance.equalize_clahe(image, clip, grid) for image, clip in each])
        case Extra.EQUALIZE:
            return kornia.enhance.equalize(images_NCHW)
        case Extra.ELASTIC:
            return _elastic(images_NCHW, arg_N, seed_N)
        case Extra.SHARPNESS:
            return kornia.enhance.sharpness(images_NCHW, arg_N)
        case Extra.AUTO_CONTRAST:
            flat_NC11 = images_NCHW.amax((2, 3), keepdim=True) == images_NCHW.amin((2, 3), keepdim=True)
            return torch.where(flat_NC11, images_NCHW, kornia.enhance.normalize_min_max(images_NCHW))
    return images_NCHW


def _elastic(images_NCHW: Tensor, share_N: Tensor, seed_N: Tensor) -> Tensor:
    """Simard et al. 2003: random shifts, smoothed over a sixteenth of the shorter side, to the given typical size."""
    import kornia

    height, width = images_NCHW.shape[2:]
    sigma = max(min(height, width) / 16, 1.0)
    # Smoothing white noise of deviation d by a Gaussian in the plane leaves d / (2 sqrt(pi) sigma); the shift is in
    # grid_sample's units, where a side is 2.
    gain_N = 2 * share_N * (2 * math.sqrt(math.pi) * sigma)
    shifts_N2HW = _normal(images_NCHW[:, :2], seed_N) * gain_N[:, None, None, None]
    return kornia.geometry.transform.elastic_transform2d(
        images_NCHW,
        shifts_N2HW,
        kernel_size=(2 * math.ceil(2.5 * sigma) + 1,) * 2,
        sigma=(sigma, sigma),
        padding_mode="reflection",
    )


def _normal(like_NCHW: Tensor, seed_N: Tensor) -> Tensor:
    """Standard normal numbers in the shape of some images, each image's hashed from its seed and the place."""
    _, channels, height, width = like_NCHW.shape
    pixel_HW = torch.arange(height * width, device=like_NCHW.device).view(height, width)
    channel_C11 = torch.arange(channels, device=like_NCHW.device)[:, None, None]
    some = max(1, _HASHED_AT_ONCE // (channels * height * width))
    parts = [noise(part_n[:, None, None, None], pixel_HW, channel_C11) for part_n in seed_N.split(some)]
    uniform_NCHW = torch.cat(parts)
    return math.sqrt(2) * torch.erfinv((2 * uniform_NCHW - 1).clamp(-1 + 2**-23, 1 - 2**-23))
