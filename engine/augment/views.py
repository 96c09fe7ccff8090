"""Validation and test-time views as plans: the contract's own matrix, composed with a small one per view.

Views are not further transforms of prepared images: each is read from the source in one step, so a zoomed view is as
sharp as the photo allows, and all of them go through the pass that training went through.

A view has a name, by which recipes, ensembles and predictions know it, and every one has a mirror image, called
NAME_flip:

    plain                              the contract's image, as it was validated
    zoom_in, closer                    its middle, 1 / 1.15 and 1 / 1.3 of each side
    zoom_out, farther                  it and what lies around: 1 / 0.87 and 1 / 0.75 of each side
    center, upper_left, upper_right,   224 / 256 of each side: the classic five crops
    lower_left, lower_right
    turn_90, turn_180, turn_270        the photo turned counter-clockwise by so many degrees
    scale_0.75, scale_1.25, scale_1.5  the same part in about so many times the pixels a side: another input size
    fit_letterbox, fit_center,         as by a contract that fits so: all of the photo on a ground, its largest middle
    fit_stretch                        part of the right shape, all of it pulled into shape
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.geometry import box_matrix, fit_box, quarter_turns
from engine.kernels import Filter, Plan
from engine.recipe.sections import PredictSection
from engine.recipe.sections.predict import CROPS, ZOOMS, whole_names

_STEP = 8  # pixels: sizes of scaled views are multiples of it where the contract's are


@dataclasses.dataclass(frozen=True)
class View:
    """What is shown of a photo: a part of the contract's image, perhaps turned, mirrored, of another size or fit.

    `zoom` above 1 shows the 1 / zoom of each side that `anchor` points to ((0, 0) upper left, (1, 1) lower right);
    below 1 it shows what lies around, too. The photo is turned counter-clockwise by `turns` quarters before it is
    fitted, and mirrored last. `scale` is of the contract's sides, `fit` stands in place of the contract's own.
    """

    name: str
    flip: bool = False
    zoom: float = 1.0
    anchor: tuple[float, float] = (0.5, 0.5)
    turns: int = 0
    scale: float = 1.0
    fit: str = ""

    def flipped(self) -> View:
        return dataclasses.replace(self, name=f"{self.name}_flip", flip=not self.flip)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels of the view's images, for a contract of these."""
        return _scaled(height, self.scale), _scaled(width, self.scale)

    def contract(self, contract: Contract) -> Contract:
        """The contract that the view's images are made by; the same object where it changes nothing in it."""
        height, width = self.size(contract.height, contract.width)
        fit, crop = (self.fit, 1.0) if self.fit else (contract.fit, contract.crop)
        changed = dataclasses.replace(contract, height=height, width=width, fit=fit, crop=crop)
        return contract if changed == contract else changed

    def cost(self, height: int, width: int) -> float:
        """What a model takes to answer about it, of what it takes for the plain view: their pixels."""
        own = self.size(height, width)
        return own[0] * own[1] / (height * width)

    def matrix_33(self, height: int, width: int) -> Tensor:
        """Points of the view to points of the contract's image, in its pixels, float64."""
        side = 1 / self.zoom
        x, y = self.anchor[0] * width * (1 - side), self.anchor[1] * height * (1 - side)
        if self.flip:
            rows = [[-side, 0, x + side * width], [0, side, y], [0, 0, 1]]
        else:
            rows = [[side, 0, x], [0, side, y], [0, 0, 1]]
        return torch.tensor(rows, dtype=torch.float64)


CROP_ZOOM = 256 / 224  # the classic five crops: 224 of 256 pixels
PLAIN = View("plain")
_UNMIRRORED = (
    PLAIN,
    View("zoom_in", zoom=1.15),
    View("zoom_out", zoom=0.87),
    View("closer", zoom=1.3),
    View("farther", zoom=0.75),
    View("center", zoom=CROP_ZOOM),
    View("upper_left", zoom=CROP_ZOOM, anchor=(0, 0)),
    View("upper_right", zoom=CROP_ZOOM, anchor=(1, 0)),
    View("lower_left", zoom=CROP_ZOOM, anchor=(0, 1)),
    View("lower_right", zoom=CROP_ZOOM, anchor=(1, 1)),
    View("turn_90", turns=1),
    View("turn_180", turns=2),
    View("turn_270", turns=3),
    View("scale_0.75", scale=0.75),
    View("scale_1.25", scale=1.25),
    View("scale_1.5", scale=1.5),
    View("fit_letterbox", fit="letterbox"),
    View("fit_center", fit="center"),
    View("fit_stretch", fit="stretch"),
)
VIEWS = {view.name: view for each in _UNMIRRORED for view in (each, each.flipped())}
"""All views there are, by name."""


def view_named(name: str) -> View:
    """The view of this name. Raises ValueError, which names the nearest, when there is none."""
    return VIEWS[whole_names((name,))[0]]


def names_of(section: PredictSection) -> tuple[str, ...]:
    """The names of the views that a recipe predicts with, in order."""
    return section.names


def views_of(section: PredictSection) -> tuple[View, ...]:
    """The views that a recipe predicts with."""
    return tuple(map(view_named, section.names))


def sets_of(names: Sequence[str]) -> tuple[str, str]:
    """ "key=value" changes that make a recipe predict with these views: as a family where they are one."""
    count, family = len(names), json.dumps([*names])
    if tuple(names) == ZOOMS[:count]:
        family = "zooms"
    elif tuple(names) in (CROPS, CROPS[::2]):
        family = "crops"
    return f"predict.views={family}", f"predict.tta={count}"


def tta_views(count: int) -> tuple[View, ...]:
    """The first `count` (1 to 10) views of one ordered family, so that more views only add to fewer.

    1 plain, 2 its mirror image; 3 zoomed in by 1.15, 4 its mirror image; 5 zoomed out to 0.87, 6 its mirror image;
    7 closer by 1.3, 8 its mirror image; 9 farther at 0.75, 10 its mirror image. Raises ValueError outside 1 to 10.
    """
    if not 1 <= count <= len(ZOOMS):
        raise ValueError(f"tta: {count} views, expected 1 to {len(ZOOMS)}")
    return tuple(map(view_named, ZOOMS[:count]))


def crop_views(count: int) -> tuple[View, ...]:
    """Five crops (the centre, then the four corners, each 224 / 256 of a side), or ten: each with its mirror image.

    Raises ValueError for another count.
    """
    if count not in (5, 10):
        raise ValueError(f"crops: {count} views, expected 5 or 10")
    return tuple(map(view_named, CROPS[::2] if count == 5 else CROPS))


def view_plan(view: View, contract: Contract, sizes_B2: Tensor, device: torch.device) -> Plan:
    """The plan of one view of images of these (height, width), its tensors on `device`."""
    contract = view.contract(contract)
    height, width = contract.height, contract.width
    fitted_B33 = _fitted(contract, view.turns, sizes_B2)
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


def _fitted(contract: Contract, turns: int, sizes_B2: Tensor) -> Tensor:
    """Points of the contract's image of the photo, turned by so many quarters, to points of the photo: (B, 3, 3)."""
    height, width = contract.height, contract.width
    if not turns:
        return box_matrix(fit_box(contract.fit, contract.crop, sizes_B2, height, width), height, width)
    turns_B = torch.full((len(sizes_B2),), turns, device=sizes_B2.device)
    turning_B33, turned_B2 = quarter_turns(turns_B, sizes_B2)
    box_B4 = fit_box(contract.fit, contract.crop, turned_B2, height, width)
    if contract.fit == "center" and turns % 2:
        # What the contract shows of the photo has its own aspect; lying on its side, all of it is to be seen.
        shown_B2 = fit_box("center", contract.crop, sizes_B2, height, width)[:, 2:]  # width, height; turned: the other
        box_B4 = fit_box("letterbox", 1.0, shown_B2, height, width)
        box_B4[:, :2] += (turned_B2.to(box_B4).flip(1) - shown_B2.flip(1)) / 2
    return turning_B33 @ box_matrix(box_B4, height, width)


def _scaled(side: int, scale: float) -> int:
    """`side` times `scale`, in steps that keep the powers of two (to 8) by which networks divide it; where it is no
    whole number of steps, the next one away from `side`."""
    step = math.gcd(side, _STEP)
    steps = side / step * scale
    return step * max(1, math.floor(steps) if scale < 1 else math.ceil(steps))
