"""The preprocessing contract: how an image becomes the network's input, saved with the weights and read from there.

Users of other tools lost accuracy by training with one resize and serving with another. Here validation, prediction,
the demo and the exported graph are built from this one record, and nobody types it twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

from engine.recipe.sections.augment import AugmentSection

VERSION = 1
_FITS = ("center", "letterbox", "stretch")
_FILTERS = ("nearest", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Contract:
    """Sizes in pixels; mean and std of RGB in [0, 1]. What a letterbox adds has the colour `mean`, so 0 after it.

    Images are RGB, upright (EXIF orientation applied), read with `filter`, antialiased when shrinking. Raises
    ValueError when a value is impossible.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "letterbox"
    crop: float = 1.0  # fit = center: share of the shorter side that is kept
    filter: str = "bilinear"
    orientation: str = "upright"

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std, self.crop)
        if self.height < 1 or self.width < 1:
            raise ValueError(f"contract: size {self.height} x {self.width}, expected at least 1 x 1 pixel")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, numbers)) or min(self.std) <= 0:
            raise ValueError(
                f"contract: mean {self.mean} and std {self.std}: expected three finite numbers each, std above 0"
            )
        for key, allowed in (("fit", _FITS), ("filter", _FILTERS), ("orientation", ("upright",))):
            if getattr(self, key) not in allowed:
                raise ValueError(f"contract: {key} {getattr(self, key)!r}, expected one of {', '.join(allowed)}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"contract: crop {self.crop}, expected a share above 0 and up to 1")

    @classmethod
    def of(
        cls,
        section: AugmentSection,
        size: tuple[int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: str,
    ) -> Self:
        """The contract of a recipe at one size (height, width), with the backbone's own mean and std, and its
        interpolation (timm's word) for `augment.filter = "auto"`."""
        return cls(
            height=size[0],
            width=size[1],
            mean=mean,
            std=std,
            fit=section.valid.fit,
            crop=section.valid.crop,
            filter=chosen_filter(section, interpolation),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with a version."""
        return {"version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The contract that `to_dict` wrote. Raises ValueError on another version, an unknown or a missing key."""
        if saved.get("version") != VERSION:
            raise ValueError(
                f"contract: version {saved.get('version')!r}, this engine reads version {VERSION}; "
                "use the engine that wrote the checkpoint"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        found = set(saved) - {"version"}
        if found != known:
            raise ValueError(
                f"contract: unknown keys {sorted(found - known)}, missing keys {sorted(known - found)}; "
                "the checkpoint was written by another engine or changed by hand"
            )
        values: dict[str, Any] = {key: saved[key] for key in known}
        values |= {key: tuple(values[key]) for key in ("mean", "std")}  # JSON has lists
        return cls(**values)


def chosen_filter(section: AugmentSection, interpolation: str) -> str:
    """The filter that images are read with, in training and in scoring: the recipe's, or for "auto" the backbone's own.

    `interpolation` is timm's word for that one; where the pass has none of its name it is bicubic, timm's default.
    """
    if section.filter != "auto":
        return section.filter
    return interpolation if interpolation in _FILTERS else "bicubic"
