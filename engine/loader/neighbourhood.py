"""Extras done to pixels: what looks at a pixel's neighbours or at the whole image.

They run between the geometry and the colours, on the samples that drew one and on no others: those samples' geometry is
run first, at the output's size; the result is rounded to 8 bits and takes the place of the source in the batch, with an
identity matrix. So the pass stays the one place where colours, rectangles and mixing happen, a mixed-in partner carries
its own blur, and strengths are in output pixels whatever the size of the photo.

`changed` defines the operations, by Kornia. A GPU, whose host would launch hundreds of kernels for it, does the same by
kernels of our own (`engine.kernels.triton_extras`), which answer to it. Noise is a hash of the pixel's place, not a
generator's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.augment.extras import Extra, Extras
from engine.kernels import Plan, Ragged
from engine.kernels.extras import Jobs, clahe_grid, directions, elastic_gain, elastic_sigma, jobs_of, radii
from engine.kernels.reference import noise
from engine.kernels.upload import upload
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
    if by_kernels(executor, images.device):
        return _applied_by_kernels(extras, images, plan)
    rows_n = _drawn(extras)
    if not len(rows_n):
        return images, plan
    settled = _grouped(extras, rows_n, (plan.height, plan.width))
    geometry = _geometry(plan, rows_n)
    geometry, moved = geometry.along([part for group in settled for part in group[2:5]], images.device)
    there = [moved[i : i + 3] for i in range(0, len(moved), 3)]
    groups = [
        group._replace(where_n=where_n, arg_n=arg_n, seed_n=seed_n)
        for group, (where_n, arg_n, seed_n) in zip(settled, there, strict=True)
    ]
    warped_nCHW = execute(executor, Ragged([images.tensors[row] for row in rows_n.tolist()]), geometry).contiguous()
    changed_nHW3 = _rounded(_run(groups, warped_nCHW))
    return _replaced(images, rows_n, changed_nHW3), _unmoved(plan, rows_n)


def changed(extras: Extras, images_NCHW: Tensor) -> Tensor:
    """The images, float32 in [0, 1] on the host, after what each of them drew: 8 bits, (N, height, width, 3)."""
    groups = _grouped(extras, torch.arange(len(images_NCHW)), (images_NCHW.shape[2], images_NCHW.shape[3]))
    return _rounded(_run(groups, images_NCHW.contiguous().clone()))


def by_kernels(executor: Name, device: torch.device) -> bool:
    """Whether the Triton kernels do it."""
    return device.type == "cuda" and executor in ("auto", "triton")


class Prepared:
    """What of a batch on a GPU is changed how, settled on the host: so all of it can travel in one copy with the rest.

    Upload `tensors`, hand them to `run`, and then run `plan` on images that lie where `table_B3` says (int64, on the
    host: address, height and width of each), while `pixels_nHW3` lives.
    """

    def __init__(self, extras: Extras, rows_n: Tensor, table_B3: Tensor, plan: Plan, device: torch.device) -> None:
        """Of the samples that drew something, `rows_n` (int64), at least one."""
        self.rows_n = rows_n
        self.jobs: Jobs = jobs_of(
            extras.op_BE[rows_n], extras.arg_BE[rows_n], extras.seed_B[rows_n], plan.height, plan.width
        )
        self.pixels_nHW3 = torch.empty((len(rows_n), plan.height, plan.width, 3), dtype=torch.uint8, device=device)
        self.plan = _unmoved(plan, rows_n)
        self._geometry = _geometry(plan, rows_n)
        self._table_n3 = table_B3[rows_n]
        image = torch.tensor([plan.height * plan.width * 3, plan.height, plan.width])
        self.table_B3 = table_B3.clone()
        self.table_B3[rows_n] = image
        self.table_B3[rows_n, 0] = self.pixels_nHW3.data_ptr() + image[0] * torch.arange(len(rows_n))

    @property
    def tensors(self) -> list[Tensor]:
        """What the kernels read, on the host."""
        return [self._table_n3, *self._geometry.tensors.values(), *self.jobs.tensors]

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Fill `pixels_nHW3`, on the current stream; `tensors` are the own ones on the device."""
        from engine.kernels import triton_extras, triton_pass  # Triton is imported only where it runs

        named = self._geometry.tensors
        table_n3, tables = tensors[0], tensors[1 + len(named) :]
        there: dict[str, Any] = dict(zip(named, tensors[1:], strict=False))
        geometry = dataclasses.replace(self._geometry, **there)
        count = self.pixels_nHW3.numel()
        places = torch.empty(self.jobs.places * (count // self.jobs.images), device=self.pixels_nHW3.device)
        warped_nHW3 = places[:count].view(self.pixels_nHW3.shape)
        triton_pass.launch(table_n3, geometry, warped_nHW3.permute(0, 3, 1, 2))
        triton_extras.triton_extras(self.jobs, tables, places, self.pixels_nHW3)


def prepared(extras: Extras | None, table_B3: Tensor, plan: Plan, device: torch.device) -> Prepared | None:
    """What there is to do before the pass to images on a GPU that lie where the table says; None for nothing. Extras
    and plan are the host's."""
    rows_n = torch.empty(0) if extras is None else _drawn(extras)
    return None if extras is None or not len(rows_n) else Prepared(extras, rows_n, table_B3, plan, device)


def _applied_by_kernels(extras: Extras, images: Ragged, plan: Plan) -> tuple[Ragged, Plan]:
    from engine.kernels import triton_pass

    work = prepared(extras, triton_pass.table_of(images), plan, images.device)
    if work is None:
        return images, plan
    work.run(upload(work.tensors, images.device))
    return _replaced(images, work.rows_n, work.pixels_nHW3), work.plan


def _drawn(extras: Extras) -> Tensor:
    """The samples that drew something."""
    return extras.op_BE.any(1).nonzero()[:, 0]


def _geometry(plan: Plan, rows_n: Tensor) -> Plan:
    """Of these samples the geometry and no more, to [0, 1]."""
    return Plan(
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


def _unmoved(plan: Plan, rows_n: Tensor) -> Plan:
    """The plan without these samples' geometry."""
    matrix_B33 = plan.matrix_B33.clone()
    matrix_B33[rows_n] = torch.eye(3)
    return dataclasses.replace(plan, matrix_B33=matrix_B33)


def _replaced(images: Ragged, rows_n: Tensor, pixels_nHW3: Tensor) -> Ragged:
    tensors = list(images.tensors)
    for row, image_HW3 in zip(rows_n.tolist(), pixels_nHW3.unbind(0), strict=True):
        tensors[row] = image_HW3
    return Ragged(tensors)


def _run(groups: Sequence[_Group], pixels_nCHW: Tensor) -> Tensor:
    """All operations in order, on the images themselves."""
    for group in groups:
        changed_nCHW = _changed(group, pixels_nCHW.index_select(0, group.where_n)).clamp(0, 1)
        pixels_nCHW.index_copy_(0, group.where_n, changed_nCHW)
    return pixels_nCHW


def _rounded(pixels_nCHW: Tensor) -> Tensor:
    """To 8 bits, channels last."""
    return (pixels_nCHW * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _grouped(extras: Extras, rows_n: Tensor, size: tuple[int, int]) -> list[_Group]:
    """The operations on the rows in order, on the host: first those that come first, and within these by code and
    radius."""
    groups = []
    seed_n = extras.seed_B[rows_n]
    for op_n, arg_n in zip(extras.op_BE[rows_n].unbind(1), extras.arg_BE[rows_n].unbind(1), strict=True):
        radius_n = torch.from_numpy(radii(op_n.numpy(), arg_n.numpy(), *size))
        for code, radius in torch.stack([op_n, radius_n], 1).unique(dim=0).tolist():
            if code != Extra.NONE:
                where_n = ((op_n == code) & (radius_n == radius)).nonzero()[:, 0]
                own_n = arg_n[where_n]
                groups.append(_Group(Extra(code), radius, where_n, own_n, seed_n[where_n], own_n))
    return groups


def _changed(group: _Group, images_NCHW: Tensor) -> Tensor:
    """One operation on some images, float in [0, 1]. A result does not depend on the other images in the call."""
    import kornia  # takes seconds, and most recipes have no extras

    arg_N, seed_N = group.arg_n, group.seed_n
    match group.op:
        case Extra.BLUR:
            sigma_N2 = group.host_arg_n[:, None].expand(-1, 2)  # Kornia asks whether they are positive
            return kornia.filters.gaussian_blur2d(images_NCHW, 2 * group.radius + 1, sigma_N2)
        case Extra.MOTION:
            degrees_N = directions(seed_N)
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
            grid = clahe_grid(images_NCHW.shape[2], images_NCHW.shape[3])
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
    sigma = elastic_sigma(height, width)
    gain_N = elastic_gain(share_N, sigma)  # in grid_sample's units, where a side is 2
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
