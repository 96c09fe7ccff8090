"""How much the photos of a fold would take if all of them stayed decoded, beside how much may be kept.

Asked of some hundred photos and not of all, since it costs drawing plans for their sizes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions
from engine.augment.views import PLAIN, view_plan
from engine.decode.choose import decode_device, uses_turbo
from engine.kernels.jpeg import Region
from engine.loader.decoded_cache import Reductions, kept_bytes
from engine.model.build import backbone_config
from engine.recipe.sections import Recipe, StageSection
from engine.system import GIB

_LOOKED_AT = 512  # photos


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes that decoded photos of a stage would take (`wanted`), and may take, for each process. in_memory: of a
    device or of the host, and not files."""

    wanted: int
    limit: int
    in_memory: bool

    @property
    def taken(self) -> int:
        return min(self.wanted, self.limit)

    @property
    def share(self) -> float:
        """How many of them stay, about."""
        return self.taken / self.wanted if self.wanted else 1.0

    def __str__(self) -> str:
        fits = "all stay" if self.share == 1 else f"about {self.share:.0%} stay, the rest is decoded anew in each epoch"
        return f"{self.wanted / GIB:.2f} GiB of at most {self.limit / GIB:.2f} GiB: {fits}"


@dataclasses.dataclass(frozen=True)
class Sized:
    """Photos: (height, width) of each, upright, and whether libjpeg-turbo would take a part of it."""

    sizes_N2: np.ndarray
    jpeg_N: np.ndarray

    def some(self) -> Sized:
        """Up to some hundred of them, from all over."""
        step = -(-len(self.sizes_N2) // _LOOKED_AT) or 1
        return Sized(self.sizes_N2[::step], self.jpeg_N[::step])


def kept_photos(
    recipe: Recipe, stage: StageSection, trained: Sized, scored: Sized, device: torch.device, processes: int = 1
) -> Kept | None:
    """Of one of so many processes on a machine; None where the recipe keeps none. On disk they share what is there.

    What a fold is scored by stays for the others, which are trained on it.
    """
    section, folds = recipe.decode, recipe.data.folds
    if section.cache == "off":
        return None
    if len(folds.run or range(folds.count)) > 1:
        trained = Sized(
            np.concatenate([trained.sizes_N2, scored.sizes_N2]), np.concatenate([trained.jpeg_N, scored.jpeg_N])
        )
    parts = uses_turbo(section, decode_device(section, device))
    total = 0.0
    for photos, regions in ((trained, whole_regions), (scored, _scored_regions)):
        some = photos.some()
        each = [
            _bytes(region) if parted and parts else 3 * height * width
            for region, (height, width), parted in zip(
                regions(recipe, stage, some.sizes_N2), some.sizes_N2.tolist(), some.jpeg_N.tolist(), strict=True
            )
        ]
        total += sum(each) / max(1, len(each)) * len(photos.sizes_N2)
    shared = processes if section.cache == "disk" else 1
    return Kept(int(total) // shared, kept_bytes(section, device, processes), section.cache != "disk")


def whole_regions(recipe: Recipe, stage: StageSection, sizes_N2: np.ndarray) -> list[Region]:
    """What is decoded of photos that a stage is trained on, so that they may stay."""
    config = backbone_config(recipe.model.backbone)
    reductions = Reductions(Policy(recipe.augment, config.mean, config.std, config.interpolation), *stage.size)
    return [Region(0, 0, width, height, reductions.of(height, width)) for height, width in sizes_N2.tolist()]


def _scored_regions(recipe: Recipe, stage: StageSection, sizes_N2: np.ndarray) -> list[Region]:
    if not len(sizes_N2):
        return []
    config = backbone_config(recipe.model.backbone)
    contract = Contract.of(recipe.augment, stage.size, config.mean, config.std, config.interpolation)
    sizes_B2 = torch.from_numpy(sizes_N2).int()
    return needed_regions(view_plan(PLAIN, contract, sizes_B2, torch.device("cpu")), sizes_B2, reduce=False)


def _bytes(region: Region) -> int:
    r = region.reduction
    return 3 * -(-(region.x1 - region.x0) // r) * -(-(region.y1 - region.y0) // r)
