"""Rectangles that hide a part of the image: coarse dropout, random erasing, cutout and a masked corner.

Each is a fixed number of rectangles per sample, those not drawn marked Fill.NONE, so that a batch is one tensor. They
are drawn in output pixels, rounded to whole ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels import Fill, Plan
from engine.recipe.sections.augment import (
    AugmentSection,
    CornerSection,
    CutoutSection,
    EraseSection,
    RandomErasingSection,
)

Kind = EraseSection | RandomErasingSection | CutoutSection | CornerSection

# Corners of every possible rectangle (B, R, 4) in pixels, not yet rounded, and which are drawn (B, R).
_Drawn = tuple[Tensor, Tensor]


def kinds_in_use(section: AugmentSection) -> list[tuple[str, Kind]]:
    """Names and sections, in the order of application."""
    names = ("erase", "random_erasing", "cutout", "corner")
    return [(name, getattr(section, name)) for name in names if getattr(section, name).p]


def rect_streams(section: AugmentSection) -> dict[str, int]:
    """How many uniform numbers each kind in use draws for a sample."""
    counts = {
        "erase": 2 + 4 * section.erase.count[1],
        "random_erasing": 1 + ERASING_TRIES * 2 + 2,
        "cutout": 3,
        "corner": 3,
    }
    return {name: counts[name] for name, _ in kinds_in_use(section)}


def with_rects(plan: Plan, section: AugmentSection, draws: Mapping[str, Tensor], noise_seed_B: Tensor) -> Plan:
    """The plan with the rectangles of all kinds in use, one kind after the other."""
    height, width = plan.height, plan.width
    kinds: list[tuple[Kind, _Drawn]] = []
    if section.erase.p:
        kinds.append((section.erase, _erase(section.erase, draws["erase"], height, width)))
    if section.random_erasing.p:
        drawn = _random_erasing(section.random_erasing, draws["random_erasing"], height, width)
        kinds.append((section.random_erasing, drawn))
    if section.cutout.p:
        kinds.append((section.cutout, _cutout(section.cutout, draws["cutout"], height, width)))
    if section.corner.p:
        kinds.append((section.corner, _corner(section.corner, draws["corner"], height, width)))
    if not kinds:
        return plan
    limits_4 = torch.tensor([width, height, width, height], device=kinds[0][1][0].device)
    rects, fills, colors = [], [], []
    for kind, (corners_BR4, drawn_BR) in kinds:
        rects.append(torch.minimum(corners_BR4.round().clamp(min=0), limits_4).to(torch.int32))
        fills.append(torch.where(drawn_BR, int(Fill[kind.fill.upper()]), int(Fill.NONE)).to(torch.int32))
        colors.append(corners_BR4.new_tensor(kind.color).expand(*drawn_BR.shape, 3))
    noisy = any(kind.fill == "noise" for kind, _ in kinds)
    return dataclasses.replace(
        plan,
        rect_BR4=torch.cat(rects, 1),
        rect_fill_BR=torch.cat(fills, 1),
        rect_color_BR3=torch.cat(colors, 1),
        noise_seed_B=noise_seed_B if noisy else None,
    )


def _erase(erase: EraseSection, draws_BN: Tensor, height: int, width: int) -> _Drawn:
    low, high = erase.count
    count_B = torch.where(draws_BN[:, 0] < erase.p, low + (draws_BN[:, 1] * (high - low + 1)).floor(), 0)
    drawn_BR = torch.arange(high, device=draws_BN.device) < count_B[:, None]
    draws_BR4 = draws_BN[:, 2:].view(-1, high, 4)
    size_2 = draws_BN.new_tensor([width, height])
    sides_BR2 = ((erase.size[0] + (erase.size[1] - erase.size[0]) * draws_BR4[..., :2]) * size_2).round().clamp(min=1)
    return _placed(sides_BR2, draws_BR4[..., 2:], size_2), drawn_BR


ERASING_TRIES = 10


def _random_erasing(erasing: RandomErasingSection, draws_BN: Tensor, height: int, width: int) -> _Drawn:
    """As torchvision: tried until the rectangle is smaller than the image; if it never is, nothing is erased."""
    draws_BT2 = draws_BN[:, 1:-2].view(-1, ERASING_TRIES, 2)
    area_BT = (erasing.area[0] + (erasing.area[1] - erasing.area[0]) * draws_BT2[..., 0]) * (height * width)
    low, high = math.log(erasing.ratio[0]), math.log(erasing.ratio[1])
    # By way of float64, and rounded once: how torch's own of float32 round is up to the processor.
    aspect_BT = (low + (high - low) * draws_BT2[..., 1]).double().exp().float()
    size_2 = draws_BN.new_tensor([width, height])
    sides_BT2 = torch.stack([area_BT / aspect_BT, area_BT * aspect_BT], 2).double().sqrt().float().round()
    fits_BT = (sides_BT2 < size_2).all(2)
    first_B11 = fits_BT.int().argmax(1)[:, None, None]
    sides_B12 = sides_BT2.gather(1, first_B11.expand(-1, 1, 2))
    drawn_B1 = ((draws_BN[:, 0] < erasing.p) & fits_BT.any(1))[:, None]
    return _placed(sides_B12, draws_BN[:, None, -2:], size_2), drawn_B1


def _cutout(cutout: CutoutSection, draws_B3: Tensor, height: int, width: int) -> _Drawn:
    center_B12 = draws_B3[:, None, 1:] * draws_B3.new_tensor([width, height])
    half = cutout.size * min(height, width) / 2
    return torch.cat([center_B12 - half, center_B12 + half], dim=2), (draws_B3[:, :1] < cutout.p)


def _corner(corner: CornerSection, draws_B3: Tensor, height: int, width: int) -> _Drawn:
    low, high = corner.size
    wide_B, high_B = (low + (high - low) * draws_B3[:, 1:]).unbind(1)
    right_B, top_B = torch.full_like(wide_B, width), torch.zeros_like(wide_B)
    corners_B4 = torch.stack([right_B - wide_B * width, top_B, right_B, high_B * height], dim=1)
    return corners_B4[:, None], (draws_B3[:, :1] < corner.p)


def _placed(sides_BR2: Tensor, draws_BR2: Tensor, size_2: Tensor) -> Tensor:
    """Rectangles of whole-pixel sides, every place in the image equally likely."""
    at_BR2 = (draws_BR2 * (size_2 - sides_BR2 + 1)).floor().clamp(min=0)
    return torch.cat([at_BR2, at_BR2 + sides_BR2], dim=2)
