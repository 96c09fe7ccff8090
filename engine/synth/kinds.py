"""The kinds of change that augmented copies are made by: names that people write, and what each draws.

A kind is what training draws, too: an `augment` section in which one thing is sure to happen and nothing else can. Only
the shadow, which training has not, is laid on by copies.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from engine.augment.policy import Policy
from engine.recipe.sections import AugmentSection, MixSection

SEPARATOR = "+"  # between kinds that are done to one image
_MIDDLE = (0.5, 0.5, 0.5)  # the colour of a constant border


@dataclass(frozen=True)
class Kind:
    """A named change: what it sets in an `augment` section that otherwise does nothing, or how it mixes."""

    what: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    mix: Mapping[str, Any] = field(default_factory=dict)
    shadow: bool = False


def _affine(**values: float) -> dict[str, Any]:
    return {"affine": {"p": 1.0, "shift": 0.0, "scale": 0.0, "rotate": 0.0, **values}}


def _color(**values: float) -> dict[str, Any]:
    return {"color": {"p": 1.0, **values}}


def _extra(name: str, **values: Any) -> dict[str, Any]:
    return {"extras": {name: 1.0, **values}}


KINDS: dict[str, Kind] = {
    "flip": Kind("mirrored left to right", {"flip": 1.0}),
    "vertical_flip": Kind("mirrored top to bottom", {"vertical_flip": 1.0}),
    "quarter_turn": Kind("turned by 90, 180 or 270 degrees", {"quarter_turn": 1.0}),
    "turn": Kind("turned by any angle", _affine(rotate=180.0)),
    "tilt": Kind("turned by up to 15 degrees", _affine(rotate=15.0)),
    "shift": Kind("shifted by up to a fifth of the side", _affine(shift=0.2)),
    "zoom": Kind("up to 30% larger or smaller", _affine(scale=0.3)),
    "shear": Kind("slanted by up to 20 degrees", _affine(shear=20.0)),
    "perspective": Kind("seen from the side", {"perspective": {"p": 1.0, "distortion": 0.35}}),
    "crop": Kind("a part of 40 to 80% of the area", {"crop": {"kind": "random_resized", "scale": (0.4, 0.8)}}),
    "elastic": Kind("bent like rubber", _extra("elastic", elastic_shift=(0.008, 0.016))),
    "blur": Kind("out of focus", _extra("blur", blur_sigma=(1.0, 3.0))),
    "motion": Kind("blurred by motion", _extra("motion", motion_length=(7, 17))),
    "noise": Kind("sensor noise", _extra("noise", noise_std=(0.04, 0.12))),
    "jpeg": Kind("saved as a poor JPEG", _extra("jpeg", jpeg_quality=(8.0, 30.0))),
    "clahe": Kind("local contrast", _extra("clahe", clahe_clip=(2.0, 4.0))),
    "equalize": Kind("histogram equalised", _extra("equalize")),
    "brightness": Kind("darker or brighter by up to half", _color(brightness=0.5)),
    "contrast": Kind("less or more contrast by up to half", _color(contrast=0.5)),
    "saturation": Kind("paler or more colourful", _color(saturation=0.8)),
    "hue": Kind("other colours", _color(hue=0.25)),
    "gamma": Kind("mid-tones darker or brighter", {"tone": {"gamma": 1.0, "gamma_range": (0.5, 2.0)}}),
    "gray": Kind("without colour", {"tone": {"gray": 1.0}}),
    "invert": Kind("the negative", {"tone": {"invert": 1.0}}),
    "solarize": Kind("bright values inverted", {"tone": {"solarize": 1.0, "solarize_range": (0.4, 0.8)}}),
    "posterize": Kind("2 to 4 bits a colour", {"tone": {"posterize": 1.0, "posterize_bits": (2, 4)}}),
    "shuffle": Kind("colour channels exchanged", {"tone": {"shuffle": 1.0}}),
    "erase": Kind("3 to 8 rectangles filled with noise", {"erase": {"p": 1.0, "count": (3, 8), "fill": "noise"}}),
    "cutout": Kind("one large square hidden", {"cutout": {"p": 1.0, "size": 0.4}}),
    "corner": Kind("the upper right corner hidden", {"corner": {"p": 1.0}}),
    "shadow": Kind("a soft shadow over a part", shadow=True),
    "mixup": Kind("mixed with another image of its class", mix={"mixup": 4.0}),
    "cutmix": Kind("a part of another image of its class put in", mix={"cutmix": 4.0}),
}

_NOTHING: dict[str, Any] = {
    "flip": 0.0,
    "crop": {"kind": "center"},  # all of it, and of a partner of another shape the middle
    "color": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
}


@dataclass(frozen=True)
class Change:
    """A kind, or several joined by `SEPARATOR`, ready to draw."""

    policy: Policy
    mix: MixSection | None
    shadow: bool

    @classmethod
    def of(cls, kind: str, border: str) -> Self:
        parts = [KINDS[name] for name in kind.split(SEPARATOR)]
        values: dict[str, Any] = _NOTHING | {"border": border}
        mix: dict[str, Any] = {}
        for part in parts:
            values, mix = _merged(values, part.sets), _merged(mix, part.mix)
        if "extras" in values:
            values["extras"]["most"] = sum("extras" in part.sets for part in parts)
        policy = Policy(AugmentSection.model_validate(values), _MIDDLE, (1.0, 1.0, 1.0))
        return cls(policy, MixSection(**mix) if mix else None, any(part.shadow for part in parts))


def _merged(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of both, those of one name joined; `b` counts where both have a value."""
    merged = dict(a)
    for key, value in b.items():
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged
