"""Validation and test-time views as plans: the contract's own matrix, composed with a small one per view.

Views are not further transforms of prepared images: each is read from the source in one step, so a zoomed view is as
sharp as the photo allows, and all of them go through the pass that training went through.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.geometry import box_matrix, fit_box
from engine.kernels import Filter, Plan
from engine.recipe.sections import PredictSection


@dataclasses.dataclass(frozen=True)
class View:
    """A part of the contract's image, perhaps mirrored.

    `zoom` above 1 shows the 1 / zoom of each side that `anchor` points to ((0, 0) upper left, (1, 1) lower right);
    below 1 it shows what lies around, too.
    """

    name: str
    flip: bool = False
    zoom: float = 1.0
    anchor: tuple[float, float] = (0.5, 0.5)

    def flipped(self) -> View:
        return dataclasses.replace(self, name=f"{self.name}_flip", flip=not self.flip)

    def matrix_33(self, height: int, width: int) -> Tensor:
        """Points of the view to points of the contract's image, in its pixels, float64."""
        side = 1 / self.zoom
        x, y = self.anchor[0] * width * (1 - side), self.anchor[1] * height * (1 - side)
        if self.flip:
            rows = [[-side, 0, x + side * width], [0, side, y], [0, 0, 1]]
        else:
            rows = [[side, 0, x], [0, side, y], [0, 0, 1]]
        return torch.tensor(rows, dtype=torch.float64)


PLAIN = View("plain")
_FAMILY = (
    PLAIN,
    View("zoom_in", zoom=1.15),
    View("zoom_out", zoom=0.87),
    View("closer", zoom=1.3),
    View("farther", zoom=0.75),
)
_CORNERS = (("upper_left", 0, 0), ("upper_right", 1, 0), ("lower_left", 0, 1), ("lower_right", 1, 1))
CROP_ZOOM = 256 / 224  # the classic five crops: 224 of 256 pixels


def views_of(section: PredictSection) -> tuple[View, ...]:
    """The views that a recipe predicts with."""
    return crop_views(section.tta) if section.views == "crops" else tta_views(section.tta)


def tta_views(count: int) -> tuple[View, ...]:
    """The first `count` (1 to 10) views of one ordered family, so that more views only add to fewer.

    1 plain, 2 its mirror image; 3 zoomed in by 1.15, 4 its mirror image; 5 zoomed out to 0.87, 6 its mirror image;
    7 closer by 1.3, 8 its mirror image; 9 farther at 0.75, 10 its mirror image. Raises ValueError outside 1 to 10.
    """
    if not 1 <= count <= 10:
        raise ValueError(f"tta: {count} views, expected 1 to 10")
    family = [view for each in _FAMILY for view in (each, each.flipped())]
    return tuple(family[:count])


def crop_views(count: int) -> tuple[View, ...]:
    """Five crops (the centre, then the four corners, each 224 / 256 of a side), or ten: each with its mirror image.

    Raises ValueError for another count.
    """
    if count not in (5, 10):
        raise ValueError(f"crops: {count} views, expected 5 or 10")
    crops = [View("center", zoom=CROP_ZOOM)]
    crops += [View(name, zoom=CROP_ZOOM, anchor=(x, y)) for name, x, y in _CORNERS]
    return tuple(crops if count == 5 else [view for crop in crops for view in (crop, crop.flipped())])


def view_plan(view: View, contract: Contract, sizes_B2: Tensor, device: torch.device) -> Plan:
    """The plan of one view of images of these (height, width), its tensors on `device`."""
    height, width = contract.height, contract.width
    fitted_B33 = box_matrix(fit_box(contract.fit, contract.crop, sizes_B2, height, width), height, width)
    matrix_B33 = (fitted_B33 @ view.matrix_33(height, width).to(fitted_B33.device)).float()
    return Plan(
        height=height,
        width=width,
        matrix_B33=matrix_B33.to(device),
        mean=contract.mean,
        std=contract.std,
        filter=Filter[contract.filter.upper()],
        border_color_B3=torch.tensor(contract.mean, dtype=torch.float32, device=device).repeat(len(sizes_B2), 1),
    )
