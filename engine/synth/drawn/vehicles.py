"""The vehicles' designs: what one class's pictures have in common, and what its neighbours do a little differently.

A class is a `Vehicle`: proportions and a few styles, worked out from the seed and the class number alone. Classes come
in families of three, as a car maker would have them: a generation, its facelift (same body; lamps, grille and wheels
changed) and the next generation (new window line and proportions as well). Telling families apart is easy, telling
the three in a family apart takes a look at the details, and both remain possible at 96 pixels.

Styles are tables of outlines rather than code: lamps, grilles and rims are polygons in the coordinates of the surface
they lie on, so that a new style is a line and not a function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np

MAKERS = "한빛 새별 가람 미르 누리 다온 아라 해솔 온새 라온 단비 나래 도담 슬기 초롱 별하 마루 여울 바론 시온"
BRANDS = MAKERS.split()
FAMILY = 3  # classes to a family


@dataclass(frozen=True)
class Body:
    """Proportions. Metres, except those named share_*: positions along the car, 0 at the nose and 1 at the tail."""

    name: str
    length: float
    height: float
    width: float
    clearance: float
    nose: float  # height of the bonnet's front edge
    belt: float  # height of the lower edge of the side windows
    tail: float  # height of the boot's rear edge
    share_cowl: float  # where the windscreen starts
    share_roof: float  # where the roof starts
    share_roof_end: float
    share_deck: float  # where the rear screen ends
    wheel: float  # radius of the tyre
    share_front_axle: float
    share_rear_axle: float
    doors: int  # on one side


BODIES = (
    Body("세단", 4.75, 1.45, 1.84, 0.20, 0.74, 0.95, 0.97, 0.27, 0.42, 0.66, 0.86, 0.345, 0.185, 0.79, 2),
    Body("SUV", 4.60, 1.74, 1.90, 0.28, 0.96, 1.14, 1.12, 0.25, 0.37, 0.88, 0.975, 0.40, 0.19, 0.80, 2),
    Body("해치백", 4.05, 1.47, 1.78, 0.20, 0.76, 0.96, 0.98, 0.24, 0.41, 0.82, 0.97, 0.335, 0.19, 0.83, 2),
    Body("쿠페", 4.50, 1.30, 1.88, 0.16, 0.66, 0.86, 0.90, 0.33, 0.50, 0.62, 0.93, 0.355, 0.19, 0.79, 1),
    Body("밴", 4.90, 1.95, 1.94, 0.22, 1.00, 1.16, 1.16, 0.11, 0.25, 0.95, 0.99, 0.345, 0.17, 0.79, 2),
    Body("픽업", 5.20, 1.80, 1.94, 0.32, 1.02, 1.18, 1.12, 0.24, 0.35, 0.57, 0.615, 0.41, 0.18, 0.77, 2),
    Body("왜건", 4.80, 1.46, 1.82, 0.19, 0.74, 0.94, 0.98, 0.26, 0.40, 0.88, 0.99, 0.345, 0.185, 0.77, 2),
    Body("경차", 3.55, 1.56, 1.62, 0.18, 0.82, 1.00, 1.04, 0.17, 0.33, 0.88, 0.985, 0.30, 0.17, 0.86, 1),
)

Outline = tuple[tuple[float, float], ...]


def _disc(u: float, v: float, ru: float, rv: float) -> Outline:
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    return tuple((u + ru * float(np.cos(a)), v + rv * float(np.sin(a))) for a in angles)


def _rect(u0: float, v0: float, u1: float, v1: float) -> Outline:
    return ((u0, v0), (u1, v0), (u1, v1), (u0, v1))


class Lamp(NamedTuple):
    """One lamp: outlines on the end of the car (u: 0 middle, 1 edge; v: 0..1 up the lamp zone) and on the side around
    the corner (u: metres from the end of the car)."""

    end: tuple[Outline, ...]
    side: tuple[Outline, ...] = ()


HEAD_LAMPS = {
    "round": Lamp((_disc(0.74, 0.50, 0.17, 0.55),)),
    "block": Lamp((_rect(0.56, 0.10, 0.97, 0.90),), (_rect(0.02, 0.15, 0.22, 0.85),)),
    "slim": Lamp(
        (((0.34, 0.55), (0.99, 0.80), (0.99, 1.08), (0.38, 0.80)),), (((0.0, 0.80), (0.55, 1.0), (0.0, 1.08)),)
    ),
    "swept": Lamp(
        (((0.50, 0.10), (0.98, 0.25), (0.99, 1.05), (0.76, 0.85)),),
        (((0.0, 0.25), (0.30, 0.50), (0.70, 1.25), (0.0, 1.0)),),
    ),
    "split": Lamp(
        (((0.50, 0.82), (0.99, 0.88), (0.99, 1.08), (0.50, 0.98)), _disc(0.78, 0.05, 0.14, 0.42)),
        (_rect(0.0, 0.88, 0.35, 1.08),),
    ),
    "bar": Lamp((_rect(0.0, 0.78, 0.99, 0.98), _rect(0.80, 0.30, 0.97, 0.70)), (_rect(0.0, 0.78, 0.30, 0.98),)),
    "tower": Lamp((_rect(0.78, -0.70, 0.97, 1.05),), (_rect(0.02, -0.40, 0.14, 1.0),)),
    "twin": Lamp((_disc(0.82, 0.5, 0.13, 0.42), _disc(0.54, 0.5, 0.11, 0.36))),
}
TAIL_LAMPS = {
    "block": Lamp((_rect(0.62, 0.15, 0.97, 0.95),), (_rect(0.0, 0.15, 0.18, 0.95),)),
    "tower": Lamp((_rect(0.80, -0.50, 0.98, 1.10),), (_rect(0.0, -0.45, 0.15, 1.1),)),
    "bar": Lamp((_rect(0.0, 0.62, 0.99, 0.92),), (_rect(0.0, 0.62, 0.35, 0.92),)),
    "rings": Lamp((_disc(0.82, 0.5, 0.14, 0.45), _disc(0.50, 0.5, 0.12, 0.38))),
    "hook": Lamp(
        (((0.45, 0.70), (0.98, 0.70), (0.98, -0.1), (0.82, -0.1), (0.82, 0.45), (0.45, 0.45)),),
        (((0.0, 0.95), (0.45, 0.8), (0.0, 0.3)),),
    ),
    "wedge": Lamp(
        (((0.40, 0.75), (0.98, 0.05), (0.98, 1.0), (0.45, 0.95)),), (((0.0, 0.05), (0.6, 0.95), (0.0, 1.0)),)
    ),
    "slats": Lamp((_rect(0.55, 0.72, 0.98, 0.95), _rect(0.55, 0.38, 0.98, 0.60), _rect(0.55, 0.05, 0.98, 0.27))),
    "dot": Lamp((_disc(0.80, 0.45, 0.15, 0.50),), (_rect(0.0, 0.3, 0.08, 0.6),)),
}


class Grille(NamedTuple):
    """Openings on the nose (u: 0 middle, 1 edge, mirrored; v: 0 bumper .. 1 bonnet edge), bars, a bright frame."""

    holes: tuple[Outline, ...]
    bars: int  # horizontal if positive, vertical if negative
    bright: bool


GRILLES = {
    "wide": Grille((_rect(0.0, 0.62, 0.48, 0.86), _rect(0.0, 0.16, 0.70, 0.36)), 2, True),
    "shield": Grille((((0.0, 0.18), (0.34, 0.30), (0.46, 0.92), (0.0, 0.92)),), 5, True),
    "kidneys": Grille((_rect(0.04, 0.50, 0.28, 0.90), _rect(0.0, 0.12, 0.75, 0.30)), -5, True),
    "closed": Grille((_rect(0.0, 0.10, 0.80, 0.26),), 0, False),
    "full": Grille((_rect(0.0, 0.22, 0.50, 0.92),), -7, True),
    "smile": Grille((((0.0, 0.14), (0.62, 0.34), (0.70, 0.56), (0.0, 0.40)),), 1, False),
    "ladder": Grille(
        (_rect(0.0, 0.64, 0.56, 0.78), _rect(0.0, 0.40, 0.60, 0.54), _rect(0.0, 0.16, 0.64, 0.30)), 0, False
    ),
    "hexagon": Grille((((0.0, 0.20), (0.38, 0.20), (0.54, 0.54), (0.42, 0.88), (0.0, 0.88)),), 0, True),
}


class Wheel(NamedTuple):
    """A rim: spokes (width as a share of the room they have), a twist in radians, pairs, or a plate with holes."""

    spokes: int
    width: float
    twist: float = 0.0
    paired: bool = False
    plate: bool = False  # closed plate with `spokes` holes instead of spokes
    tone: float = 200.0  # grey level of the metal


WHEELS = {
    "five": Wheel(5, 0.42),
    "many": Wheel(14, 0.36, tone=215),
    "plate": Wheel(5, 0.20, plate=True, tone=215),
    "steel": Wheel(8, 0.36, plate=True, tone=78),
    "pairs": Wheel(5, 0.20, paired=True),
    "turbine": Wheel(8, 0.50, twist=0.75),
    "cross": Wheel(4, 0.52, tone=165),
    "night": Wheel(6, 0.36, tone=52),
}


class WindowLine(NamedTuple):
    """The side windows' lower edge and end: how far its rear corner rises (share of the glass height), where the glass
    ends (share of the last pillar left over), whether the last pillar is black, and a bright frame."""

    rise: float
    pillar: float
    black_pillar: bool
    bright: bool


WINDOW_LINES = {
    "straight": WindowLine(0.0, 0.10, False, True),
    "kick": WindowLine(0.55, 0.06, False, False),
    "floating": WindowLine(0.0, 0.02, True, False),
    "short": WindowLine(0.15, 0.55, False, False),
    "wedge": WindowLine(0.35, 0.30, False, True),
}
TRIMS = ("plain", "cladding", "moulding", "crease", "sill")
ROOFS = ("plain", "rails", "wing", "black")


@dataclass(frozen=True)
class Vehicle:
    """One class: what its pictures have in common. Styles are keys of the tables above."""

    body: Body
    head_lamp: str
    tail_lamp: str
    grille: str
    wheel: str
    window_line: str
    trim: str
    roof: str


@cache
def design(seed: int, index: int) -> Vehicle:
    """The vehicle of class `index`; every class of a family has its own wheels, lamps and grille."""
    family, member = divmod(index, FAMILY)
    order = np.random.default_rng([seed, 1]).permutation(len(BODIES))
    rng = np.random.default_rng([seed, 2, family])
    body = BODIES[order[family % len(BODIES)]]
    grow = rng.normal(0, 0.025, 4)
    body = replace(
        body,
        length=body.length * (1 + grow[0]),
        height=body.height * (1 + grow[1]),
        nose=body.nose * (1 + grow[2]),
        belt=body.belt * (1 + grow[3]),
    )

    def styles(names: list[str]) -> list[str]:
        return [names[i] for i in rng.permutation(len(names))[:FAMILY]]

    heads, tails, grilles = styles(list(HEAD_LAMPS)), styles(list(TAIL_LAMPS)), styles(list(GRILLES))
    wheels, lines = styles(list(WHEELS)), styles(list(WINDOW_LINES))
    trims, roofs = styles(list(TRIMS)), styles(list(ROOFS))
    generation = member // 2  # the facelift keeps its body
    if generation:
        lower = 1 if rng.random() < 0.5 else -1
        body = replace(
            body,
            height=body.height * (1 - 0.035 * lower),
            length=body.length * (1 + 0.02 * lower),
            nose=body.nose * (1 + 0.07 * lower),
            share_cowl=body.share_cowl - 0.025 * lower * (body.share_cowl > 0.15),
            share_roof_end=min(body.share_roof_end + 0.04 * lower, body.share_deck - 0.03),
            wheel=body.wheel * (1 + 0.04 * lower),
        )
    return Vehicle(
        body,
        heads[member],
        tails[member],
        grilles[member],
        wheels[member],
        lines[generation],
        trims[member],
        roofs[member],
    )


def class_names(seed: int, count: int) -> list[str]:
    """Names in the manner of a used-car market: maker, kind, generation and years; class number to name."""
    order = np.random.default_rng([seed, 1]).permutation(len(BODIES))
    names = []
    for index in range(count):
        family, member = divmod(index, FAMILY)
        rng = np.random.default_rng([seed, 3, family])
        generation, start = int(rng.integers(1, 5)), int(rng.integers(2006, 2015))
        years = np.cumsum([start, *rng.integers(2, 5, FAMILY)])
        maker_order = np.random.default_rng([seed, 4, family % len(BODIES)]).permutation(len(BRANDS))
        model = f"{BRANDS[maker_order[family // len(BODIES)]]}_{BODIES[order[family % len(BODIES)]].name}"
        prefix = "더_뉴_" if member == 1 else ""
        names.append(f"{prefix}{model}_{generation + member // 2}세대_{years[member]}_{years[member + 1]}")
    return names


MOST_CLASSES = FAMILY * len(BODIES) * len(BRANDS)
