"""Which region of a photo a plan looks at, how much smaller it may be decoded, and the plan for what was decoded.

A plan is drawn from the sizes of the photos alone, so this is known before anything is decoded. The region is exact: it
holds every source pixel the pass reads, whatever the border. The reduction is not: a photo halved by the decoder and
then shrunk by the pass differs a little from one shrunk by the pass alone, so it is for training; what is scored and
served reads all pixels. It never goes below the output's own resolution: the pass still shrinks, or copies.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.kernels import Border, Filter, Plan, draws
from engine.kernels.jpeg import REDUCTIONS, Region

_REACH = {Filter.NEAREST: 0.5, Filter.BILINEAR: 1.0, Filter.BICUBIC: 2.0}  # of the kernel, in footprints
_CENTRE = 4  # index of the middle among the points looked at
_FAR = 2.0**20  # source pixels: beyond, executors see no source, so nothing is read


def needed_regions(plan: Plan, sizes_B2: Tensor, reduce: bool) -> list[Region]:
    """The region of each photo, whose (height, width) are `sizes_B2`, that `plan` reads; never empty.

    With `reduce` also the largest reduction that keeps at least one decoded pixel for each output pixel.
    """
    return [Region(*row) for row in needed_regions_B5(plan, sizes_B2, reduce).tolist()]


def needed_regions_B5(plan: Plan, sizes_B2: Tensor, reduce: bool) -> NDArray[np.int32]:
    """The same as numbers: x0, y0, x1, y1, reduction. By C++ where it is built and the plan lies on the host."""
    if plan.device.type != "cpu" or not draws.available():
        return reference_regions_B5(plan, sizes_B2, reduce)
    matrix_B33, sizes_B2 = plan.matrix_B33.float().contiguous(), sizes_B2.to("cpu", torch.int32).contiguous()
    border_B = None if plan.border_B is None else plan.border_B.contiguous()
    batch = plan.batch
    if sizes_B2.shape != (batch, 2):
        raise ValueError(f"sizes {tuple(sizes_B2.shape)} of photos for a plan of {batch}: expected ({batch}, 2)")
    region_B5 = np.empty((batch, 5), np.int32)
    look = draws.Look(
        matrix_B33=matrix_B33.data_ptr(),
        border_B=None if border_B is None else border_B.data_ptr(),
        size_B2=sizes_B2.data_ptr(),
        region_B5=region_B5.ctypes.data,
        batch=batch,
        height=plan.height,
        width=plan.width,
        filter=plan.filter,
        antialias=plan.antialias,
        reduce=reduce,
    )
    draws.regions(look)
    return region_B5


def reference_regions_B5(plan: Plan, sizes_B2: Tensor, reduce: bool) -> NDArray[np.int32]:
    """What `needed_regions_B5` answers, defined in torch."""
    matrix_B33 = plan.matrix_B33.double().cpu()
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)]
    points_35 = torch.tensor([(x * plan.width, y * plan.height, 1.0) for x, y in corners], dtype=torch.float64).T
    # Expanded, or it would become one product for BLAS, whose threads are slower to wake than this is to do.
    at_B35 = matrix_B33 @ points_35.expand(len(matrix_B33), 3, 5)
    w_B5 = at_B35[:, 2]
    at_B25 = at_B35[:, :2] / w_B5[:, None]
    # A straight map takes the output to the quadrangle of its corners, unless some of it lies behind the horizon.
    plain_B = (w_B5 > 1e-6).all(1) & (at_B25.abs() < _FAR).flatten(1).all(1)
    low_B2, high_B2 = at_B25.amin(2), at_B25.amax(2)

    # Source pixels an output pixel spans along x and y: the Jacobian's rows, at each point.
    top_B252 = matrix_B33[:, :2, None, :2] - at_B25[..., None] * matrix_B33[:, 2:, None, :2]
    span_B25 = (top_B252 / w_B5[:, None, :, None]).norm(dim=3)
    widened = plan.antialias and plan.filter != Filter.NEAREST
    footprint_B2 = span_B25[:, :, _CENTRE].clamp(min=1) if widened else torch.ones_like(low_B2)
    reach_B2 = _REACH[plan.filter] * footprint_B2 + 1  # one more for the rounding of the executors' float32
    extent_B2 = sizes_B2.flip(1).double().cpu()  # width, height
    boxes_B22 = _bordered(low_B2 - reach_B2, high_B2 + reach_B2, extent_B2, plan.border_B)
    boxes_B22 = torch.where(plain_B[:, None, None], boxes_B22, torch.stack([torch.zeros_like(extent_B2), extent_B2], 1))

    spare_B = span_B25.amin((1, 2)) * (1 + 1e-6)
    reducible_B = plain_B if reduce and widened else torch.zeros_like(plain_B)
    reduction_B = torch.ones(len(spare_B), dtype=torch.int64)
    for reduction in REDUCTIONS[1:]:
        reduction_B[reducible_B & (spare_B >= reduction)] = reduction
    return torch.cat([boxes_B22.long().flatten(1), reduction_B[:, None]], dim=1).int().numpy()


def fit_to_regions(plan: Plan, frame_B5: Tensor) -> Plan:
    """A plan for whole photos as one for the regions of them that were decoded: `frame_B5` (int32, on the host) is the
    photo's height and width, the x and y of the region's upper left corner in it, in pixels, and how many of these a
    decoded pixel spans. By C++ where it is built and the plan lies on the host."""
    if plan.device.type != "cpu" or not draws.available():
        return reference_fit(plan, frame_B5)
    if frame_B5.shape != (plan.batch, 5) or frame_B5.dtype != torch.int32:
        found = f"{frame_B5.dtype} {tuple(frame_B5.shape)}"
        raise ValueError(f"frames of {plan.batch} images: expected int32 ({plan.batch}, 5), got {found}")
    matrix_B33 = plan.matrix_B33.float().clone(memory_format=torch.contiguous_format)
    frame_B5 = frame_B5.contiguous()
    draws.fit(matrix_B33.data_ptr(), frame_B5.data_ptr(), plan.batch)
    return dataclasses.replace(plan, matrix_B33=matrix_B33)


def reference_fit(plan: Plan, frame_B5: Tensor) -> Plan:
    """What `fit_to_regions` answers, defined in torch."""
    matrix_B33 = plan.matrix_B33.double()
    x_B, y_B, reduction_B = frame_B5[:, 2:].to(matrix_B33).unbind(1)
    source_B33 = torch.zeros_like(matrix_B33)
    source_B33[:, 0, 0] = source_B33[:, 1, 1] = 1 / reduction_B
    source_B33[:, 0, 2], source_B33[:, 1, 2] = -x_B / reduction_B, -y_B / reduction_B
    source_B33[:, 2, 2] = 1
    return dataclasses.replace(plan, matrix_B33=(source_B33 @ matrix_B33).float())


def _bordered(low_B2: Tensor, high_B2: Tensor, extent_B2: Tensor, border_B: Tensor | None) -> Tensor:
    """Whole pixels within the photo that reads from `low` to `high` come to: (B, 2, 2), low and high by x and y."""
    low_B2, high_B2 = low_B2.floor(), high_B2.ceil()
    if border_B is not None:
        mirrored_B1 = (border_B.cpu() == Border.REFLECT)[:, None]
        # What lies d beyond an edge is read d before it; two mirrors in one axis may show anything.
        both_B2 = (low_B2 < 0) & (high_B2 > extent_B2) | (low_B2 < -extent_B2) | (high_B2 > 2 * extent_B2)
        from_B2 = torch.minimum(low_B2, 2 * extent_B2 - high_B2).where(~both_B2, 0)
        to_B2 = torch.maximum(high_B2, -low_B2).where(~both_B2, extent_B2)
        low_B2, high_B2 = from_B2.where(mirrored_B1, low_B2), to_B2.where(mirrored_B1, high_B2)
    # Outside the photo a border repeats the edge pixel or shows none: one pixel must be there all the same.
    low_B2 = torch.minimum(low_B2.clamp(min=0), extent_B2 - 1)
    high_B2 = torch.minimum(high_B2, extent_B2).maximum(low_B2 + 1)
    return torch.stack([low_B2, high_B2], dim=1)
