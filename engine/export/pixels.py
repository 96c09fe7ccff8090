"""The one pass as a graph: photos' pixels to a network's input, for any size of photo.

Every view of every contract is a box of the photo, perhaps mirrored or turned by quarters: what an output column shows
does not depend on the row. So reading is two products, first over the photo's rows, then over its columns, with weights
made by arithmetic on the sizes; `engine/kernels/reference.py` is the definition. The obvious other way, ONNX's Resize
with antialias, was exported wrongly for years, has no border colour, and differs between runtimes.

The weights stand in whole matrices (output positions by source positions), most of them 0: one product of a photo of
12 megapixels with them takes a fraction of a second, and needs no more memory than the photo as float32; gathering the
few rows that count would take as long and several times the memory. What a view does not look at is cut off first.

The matrix from output to source comes from `view_plan` itself, on a tensor that holds the photo's size. Written for
torch.export: sizes may be symbols, and nothing asks for a tensor's value.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.views import View, view_plan
from engine.kernels import Filter, Plan
from engine.kernels.reference import MAX_COORDINATE, MAX_FOOTPRINT

Read = dict[Any, tuple[Tensor, Tensor]]
"""Products over the rows that were made for one batch of photos, for views that share them: a mirrored view reads the
same rows. Empty to begin with."""

Length = int | torch.SymInt

_REACH = {Filter.NEAREST: 0, Filter.BILINEAR: 1, Filter.BICUBIC: 2}  # of a filter's kernel, in footprints
_EIGHTHS = 1024  # parts of a share that is rounded up to a whole number of them


def prepared(images_BHW3: Tensor, view: View, contract: Contract, read: Read) -> Tensor:
    """What the contract makes of one view of upright RGB photos of one size, uint8 (B, H, W, 3): float32, normalised,
    (B, 3, height, width) of the view."""
    height, width = images_BHW3.shape[1:3]
    sizes_12 = torch.stack([_number(side, images_BHW3.device) for side in (height, width)]).view(1, 2)
    plan = view_plan(view, contract, sizes_12, images_BHW3.device)
    turned = view.turns % 2 == 1  # the output's columns then show the photo's rows
    (a, b, c), (d, e, f) = (row.unbind() for row in plan.matrix_B33[0, :2].unbind())
    along_rows, along_columns = (plan.width, plan.height) if turned else (plan.height, plan.width)
    rows = _Axis.of(plan, d if turned else e, f, along_rows)
    columns = _Axis.of(plan, b if turned else a, c, along_columns)

    key = (dataclasses.replace(view, name="", flip=view.flip and turned), contract)
    if key not in read:
        read[key] = _over_rows(images_BHW3, rows, plan.filter, _most_rows(view, contract, height, width))
    sums_B3RW, inside_R = read[key]
    weights_CW = columns.weights(plan.filter, _places(width, images_BHW3.device))
    sums_B3RC = sums_B3RW @ weights_CW.T / 255
    inside_RC = inside_R[:, None] * weights_CW.sum(1)
    if turned:
        sums_B3RC, inside_RC = sums_B3RC.transpose(2, 3), inside_RC.T
    mean_311, std_311 = (sums_B3RC.new_tensor(each).view(3, 1, 1) for each in (plan.mean, plan.std))
    # What the taps inside the photo leave of the weight, the border's colour gets: the contract's mean.
    pixels_B3HW = (sums_B3RC + (1 - inside_RC) * mean_311).clamp(0.0, 1.0)
    return (pixels_B3HW - mean_311) / std_311


@dataclasses.dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of the output: where each of its positions is read in the source, u_O in pixels, and how many of these
    one output pixel spans (a scalar, at least 1)."""

    u_O: Tensor
    footprint: Tensor

    @classmethod
    def of(cls, plan: Plan, scale: Tensor, shift: Tensor, positions: int) -> _Axis:
        """Position x of the output is read at scale (x + 0.5) + shift."""
        at_O = torch.arange(positions, dtype=torch.float32, device=scale.device) + 0.5
        footprint = scale.abs().clamp(1.0, MAX_FOOTPRINT)
        return cls(scale * at_O + shift, torch.ones_like(scale) if plan.filter == Filter.NEAREST else footprint)

    def weights(self, filter: Filter, source_P: Tensor) -> Tensor:
        """The weight of each source position for each output position, (O, P); less than 1 together where the source
        ends."""
        u_O1 = self.u_O[:, None]
        there_O1 = (u_O1.abs() <= MAX_COORDINATE).to(torch.float32)
        if filter == Filter.NEAREST:
            return (source_P == u_O1.floor()).to(torch.float32) * there_O1
        # All taps, those beyond the source, too: their sum is what weights are divided by.
        reach = _REACH[filter]
        first_O1 = (u_O1 - 0.5 - self.footprint * reach).floor() + 1
        taps_T = torch.arange(math.ceil(2 * reach * MAX_FOOTPRINT), dtype=torch.float32, device=u_O1.device)
        total_O1 = self._kernel(filter, first_O1 + taps_T).sum(1, keepdim=True)
        return self._kernel(filter, source_P) * (there_O1 / total_O1)

    def _kernel(self, filter: Filter, position: Tensor) -> Tensor:
        t = ((position + 0.5 - self.u_O[:, None]) / self.footprint).abs()
        if filter == Filter.BILINEAR:
            return (1 - t).clamp(min=0.0)
        near = (1.5 * t - 2.5) * t * t + 1
        far = ((-0.5 * t + 2.5) * t - 4) * t + 2
        return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(far)))

    def first(self, filter: Filter) -> Tensor:
        """The first source position that any output position is read from, or one before it."""
        return (torch.minimum(self.u_O[0], self.u_O[-1]) - 0.5 - self.footprint * _REACH[filter]).floor()


def _over_rows(images_BHW3: Tensor, rows: _Axis, filter: Filter, most: Length | None) -> tuple[Tensor, Tensor]:
    """The weighted sums of the photos' rows, (B, 3, R, W) in 0..255, and of the weights, (R,). Of the photo `most` rows
    are looked at; None: all."""
    height, device = images_BHW3.shape[1], images_BHW3.device
    if most is None:
        source_P = _places(height, device)
    else:
        begin = rows.first(filter).clamp(min=0.0).minimum(_number(height - most, device).to(torch.float32))
        source_P = _places(most, device) + begin
        images_BHW3 = images_BHW3.index_select(1, source_P.to(torch.int64))
    weights_RP = rows.weights(filter, source_P)
    flat_BPN = images_BHW3.to(torch.float32).flatten(2)
    sums_BRW3 = (weights_RP @ flat_BPN).unflatten(2, (images_BHW3.shape[2], 3))
    return sums_BRW3.permute(0, 3, 1, 2), weights_RP.sum(1)


def _most_rows(view: View, contract: Contract, height: Length, width: Length) -> Length | None:
    """How many rows of a photo of this size the view looks at, or a few more; None where that may be all of them.

    In whole numbers, which may be symbols: a length has to be known before any tensor is.
    """
    seen = view.contract(contract)
    if seen.fit != "center" or view.turns % 2 or view.zoom < 1:
        return None
    # The box has min(H / h, W / w) * crop / zoom source rows for each of the output's; a reading reaches beyond it by
    # the filter's kernel, at most two of the output's pixels to both sides, or two of the source's.
    share = math.ceil(_EIGHTHS * seen.crop / view.zoom * (1 + 4 / seen.height))
    box = torch.sym_min(height * seen.width, width * seen.height) * share // (seen.width * _EIGHTHS)
    return torch.sym_min(height, box + 8)


def _places(count: Length, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.float32, device=device)


def _number(value: Length, device: torch.device) -> Tensor:
    """A size, which may be a symbol, as a tensor."""
    return torch.full((), value, dtype=torch.float64, device=device)
