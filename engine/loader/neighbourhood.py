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

import torch
from torch import Tensor

from engine.augment.extras import Extra, Extras
from engine.kernels import Plan, Ragged
from engine.kernels.reference import noise
from engine.loader.passes import Name, execute


def apply_extras(extras: Extras, images: Ragged, plan: Plan, executor: Name = "auto") -> tuple[Ragged, Plan]:
    """The batch and the plan with the samples that drew something already warped and changed; the others untouched.

    Run the returned plan on the returned images by the same executor.
    """
    op_BE = extras.op_BE.cpu()
    rows = op_BE.any(1).nonzero()[:, 0].tolist()
    if not rows:
        return images, plan
    device = images.device
    rows_n = torch.tensor(rows, device=device)
    plan = plan.to(device)
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
    pixels_nCHW = execute(executor, Ragged([images.tensors[row] for row in rows]), geometry).contiguous()
    arg_nE, seed_n = (t[rows_n.to(t.device)] for t in (extras.arg_BE, extras.seed_B))
    for op_n, arg_n in zip(op_BE[rows].unbind(1), arg_nE.to(device).unbind(1), strict=True):
        for code in op_n.unique().tolist():
            chosen = (op_n == code).nonzero()[:, 0]
            here = chosen.to(device)
            seeds = seed_n[chosen.to(seed_n.device)].tolist()
            pixels_nCHW[here] = _changed(Extra(code), pixels_nCHW[here], arg_n[here], seeds).clamp(0, 1)
    changed_nHW3 = (pixels_nCHW * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    tensors = list(images.tensors)
    for row, image_HW3 in zip(rows, changed_nHW3.unbind(0), strict=True):
        tensors[row] = image_HW3
    matrix_B33 = plan.matrix_B33.clone()
    matrix_B33[rows_n] = torch.eye(3, device=device)
    return Ragged(tensors), dataclasses.replace(plan, matrix_B33=matrix_B33)


def _changed(op: Extra, images_NCHW: Tensor, arg_N: Tensor, seeds: list[int]) -> Tensor:
    """One operation on some images, float in [0, 1]. A result does not depend on the other images in the call."""
    import kornia  # takes seconds, and most recipes have no extras

    match op:
        case Extra.BLUR:
            return _blurred(images_NCHW, arg_N)
        case Extra.MOTION:
            return _moved(images_NCHW, arg_N, 360 * arg_N.new_tensor([(seed & 0xFFFF) / 0x10000 for seed in seeds]))
        case Extra.NOISE:
            return images_NCHW + arg_N[:, None, None, None] * _normal(images_NCHW, seeds)
        case Extra.JPEG:
            return kornia.enhance.jpeg_codec_differentiable(images_NCHW, arg_N)
        case Extra.CLAHE:
            grid = tuple(max(1, min(8, side // 2)) for side in images_NCHW.shape[2:])
            each = zip(images_NCHW.split(1), arg_N.tolist(), strict=True)
            return torch.cat([kornia.enhance.equalize_clahe(image, clip, grid) for image, clip in each])
        case Extra.EQUALIZE:
            return kornia.enhance.equalize(images_NCHW)
        case Extra.ELASTIC:
            return _elastic(images_NCHW, arg_N, seeds)
        case Extra.SHARPNESS:
            return kornia.enhance.sharpness(images_NCHW, arg_N)
        case Extra.AUTO_CONTRAST:
            flat_NC11 = images_NCHW.amax((2, 3), keepdim=True) == images_NCHW.amin((2, 3), keepdim=True)
            return torch.where(flat_NC11, images_NCHW, kornia.enhance.normalize_min_max(images_NCHW))
    return images_NCHW


def _blurred(images_NCHW: Tensor, sigma_N: Tensor) -> Tensor:
    """Kernels of three sigma to each side; images whose kernels have one size go together."""
    import kornia

    radius_N = torch.ceil(3 * sigma_N).int().clamp(max=min(images_NCHW.shape[2:]) - 1)
    blurred_NCHW = torch.empty_like(images_NCHW)
    for radius in radius_N.unique().tolist():
        chosen_N = radius_N == radius
        sigmas_n2 = sigma_N[chosen_N, None].expand(-1, 2)
        blurred_NCHW[chosen_N] = kornia.filters.gaussian_blur2d(images_NCHW[chosen_N], 2 * radius + 1, sigmas_n2)
    return blurred_NCHW


def _moved(images_NCHW: Tensor, length_N: Tensor, degrees_N: Tensor) -> Tensor:
    """Motion blur along an odd number of pixels, at least 3."""
    import kornia

    radius_N = (length_N / 2).floor().int().clamp(min=1)
    moved_NCHW = torch.empty_like(images_NCHW)
    for radius in radius_N.unique().tolist():
        chosen_N = radius_N == radius
        moved_NCHW[chosen_N] = kornia.filters.motion_blur(
            images_NCHW[chosen_N],
            2 * radius + 1,
            degrees_N[chosen_N],
            torch.zeros_like(degrees_N[chosen_N]),
            border_type="replicate",
            mode="bilinear",
        )
    return moved_NCHW


def _elastic(images_NCHW: Tensor, share_N: Tensor, seeds: list[int]) -> Tensor:
    """Simard et al. 2003: random shifts, smoothed over a sixteenth of the shorter side, to the given typical size."""
    import kornia

    height, width = images_NCHW.shape[2:]
    sigma = max(min(height, width) / 16, 1.0)
    # Smoothing white noise of deviation d by a Gaussian in the plane leaves d / (2 sqrt(pi) sigma); the shift is in
    # grid_sample's units, where a side is 2.
    gain_N = 2 * share_N * (2 * math.sqrt(math.pi) * sigma)
    shifts_N2HW = _normal(images_NCHW[:, :2], seeds) * gain_N[:, None, None, None]
    return kornia.geometry.transform.elastic_transform2d(
        images_NCHW,
        shifts_N2HW,
        kernel_size=(2 * math.ceil(2.5 * sigma) + 1,) * 2,
        sigma=(sigma, sigma),
        padding_mode="reflection",
    )


def _normal(like_NCHW: Tensor, seeds: list[int]) -> Tensor:
    """Standard normal numbers in the shape of some images, each image's hashed from its seed and the place."""
    _, channels, height, width = like_NCHW.shape
    pixel_HW = torch.arange(height * width, device=like_NCHW.device).view(height, width)
    channel_C11 = torch.arange(channels, device=like_NCHW.device)[:, None, None]
    uniform_NCHW = torch.stack([noise(seed, pixel_HW, channel_C11) for seed in seeds])
    return math.sqrt(2) * torch.erfinv((2 * uniform_NCHW - 1).clamp(-1 + 2**-23, 1 - 2**-23))
