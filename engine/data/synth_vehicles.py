"""Drawn vehicles whose classes differ in small ways: the stand-in for fine-grained photographs.

A class is a `Vehicle`: proportions and a few styles, worked out from the seed and the class number alone. Classes come in
families of three, as a car maker would have them: a generation, its facelift (same body; lamps, grille and wheels
changed) and the next generation (new window line and proportions as well). Telling families apart is easy, telling the
three in a family apart takes a look at the details, and both remain possible at 96 pixels.

The body is a loft of a rounded profile, not a flat sprite, so that one design is seen from any side: a facet is drawn when
it faces the camera, shaded by its normal, far ones first. Styles are tables of outlines rather than code: lamps, grilles
and windows are polygons in the coordinates of the surface they lie on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.data.synth_paint import (
    SUBPIXEL_BITS,
    Colour,
    Image,
    Points,
    encode_jpeg,
    expose,
    fill,
    fixed_point,
    mix,
    round_off,
    shade,
    stamp,
    stroke,
    write,
)
from engine.data.synth_scenes import Camera, Scene, draw_backdrop

BRANDS = ("한빛", "새별", "가람", "미르", "누리", "다온", "아라", "해솔", "온새", "라온") + (
    "단비", "나래", "도담", "슬기", "초롱", "별하", "마루", "여울", "바론", "시온",
)  # fmt: skip
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
    """Openings on the nose (u: 0 middle, 1 edge, mirrored; v: 0 bumper .. 1 bonnet edge), bars across them, a bright frame."""

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
    """A rim: spokes (their width as a share of the room they have), a twist in radians, pairs, or a plate with holes."""

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
ROOFS = ("plain", "rails", "fin", "black")


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
        trims[generation],
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


class _Shape:
    """The vehicle's surfaces in the world's axes: profiles, widths, and maps from surface coordinates to points."""

    def __init__(self, body: Body) -> None:
        self.body = body
        half = body.length / 2
        self.half = half
        low, nose, tail, belt = body.clearance, body.nose, body.tail, body.belt
        cowl, deck = self.along(body.share_cowl), self.along(body.share_deck)
        rounding = 0.16 if body.share_cowl > 0.15 else 0.10
        lower = [
            (half - 0.16, low),
            (half - 0.02, low + 0.10),
            (half, (low + nose) / 2),
            (half - 0.04, nose - 0.08),
            (half - rounding, nose + 0.02),
            (cowl + 0.25 * (half - cowl), 0.45 * nose + 0.55 * belt),
            (cowl, belt),
            (deck, belt + 0.01),
            (-half + 0.10, tail),
            (-half, tail - 0.12),
            (-half + 0.02, (low + tail) / 2),
            (-half + 0.04, low + 0.14),
            (-half + 0.18, low),
        ]
        self.lower = round_off(np.array(lower))
        roof, roof_end, top = self.along(body.share_roof), self.along(body.share_roof_end), body.height
        upper = [
            (cowl + 0.02, belt - 0.02),
            (roof, top - 0.05),
            (roof - 0.25, top),
            (roof_end + 0.3, top - 0.01),
            (roof_end, top - 0.06),
            (deck, belt + 0.02),
        ]
        self.upper_corners = np.array(upper)
        self.upper = round_off(self.upper_corners)

    def along(self, share: float) -> float:
        """Position of a share of the length, nose 0 to tail 1, on the x axis."""
        return self.body.length * (0.5 - share)

    def half_width(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Half the car's width at a point of its profile: rounded in plan, widest at knee height, leaning in above."""
        body = self.body
        along = (x / self.half) ** 2
        plan = 1 - 0.15 * along * along * along
        off = y / body.belt - 0.6
        glass = np.maximum((y - body.belt) / (body.height - body.belt), 0)
        return body.width / 2 * plan * np.where(glass > 0, 0.965 - 0.20 * glass, np.maximum(1 - 0.2 * off * off, 0.9))

    def strip(self, profile_N2: Points, columns: int = 5) -> NDArray[np.float64]:
        """The surface across the car along a profile: (N, columns, 3)."""
        s = np.linspace(-1, 1, columns)
        x, y = profile_N2[:, 0:1], profile_N2[:, 1:2]
        return np.stack([self._bulged(x, s), np.broadcast_to(y, (len(x), columns)), self.half_width(x, y) * s], axis=-1)

    def _bulged(self, x: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
        along = x / self.half
        squared = along * along
        return x + 0.13 * squared * squared * along * (1 - s * s)

    def flank(self, profile_N2: Points, base: float, rows: int) -> NDArray[np.float64]:
        """The near side under a profile down to height `base`: (N, rows, 3)."""
        t = np.linspace(0, 1, rows)
        x = np.broadcast_to(profile_N2[:, 0:1], (len(profile_N2), rows))
        lifted = base + 0.11 * np.clip(
            (np.abs(profile_N2[:, 0:1]) - self.half + 0.16) / 0.14, 0, 1
        )  # bumper's underside
        y = lifted + np.maximum(profile_N2[:, 1:2] - lifted, 0) * t
        return np.stack([x, y, self.half_width(x, y)], axis=-1)

    def on_side(self, points_N2: Points, lift: float = 0.005) -> Points:
        """(x, y) on the near side to world points, `lift` metres proud of the surface."""
        x, y = points_N2[:, 0], points_N2[:, 1]
        return np.stack([x, y, self.half_width(x, y) + lift], axis=1)

    def on_end(self, points_N2: Points, front: bool) -> Points:
        """(s across -1..1, height) on the nose or the tail to world points."""
        s, y = points_N2[:, 0], points_N2[:, 1]
        turn = int(np.argmax(self.lower[:, 0] < 0))
        part = self.lower[:turn] if front else self.lower[turn:][::-1]
        upright = part[np.abs(part[:, 0]) > self.half - 0.19]  # before the profile bends into bonnet or boot
        rising = upright[: int(np.argmax(upright[:, 1])) + 1]
        x = np.interp(y, rising[:, 1], rising[:, 0])
        return np.stack([self._bulged(x, s), y, self.half_width(x, y) * s], axis=1)

    def on_screen(self, points_N2: Points, first: int, last: int) -> Points:
        """(s across -1..1, share of the way) on the slope between two corners of the upper profile to world points."""
        s, t = points_N2[:, 0], points_N2[:, 1]
        a, b = self.upper_corners[first], self.upper_corners[last]
        x, y = a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t
        outward = 0.02 * np.sign(a[0] - b[0]) * (1 if first < last else -1)
        return np.stack([self._bulged(x, s) + outward, y, self.half_width(x, y) * s], axis=1)

    def everything(self) -> Points:
        """Points that bound the car, tyres on the ground included."""
        hull = np.concatenate([self.strip(self.lower).reshape(-1, 3), self.strip(self.upper).reshape(-1, 3)])
        axles = [self.along(self.body.share_front_axle), self.along(self.body.share_rear_axle)]
        feet = [[x, 0.0, z] for x in axles for z in (-self.body.width / 2, self.body.width / 2)]
        return np.concatenate([hull, feet])


def _cross(a_N3: Points, b_N3: Points) -> Points:
    """Row by row cross product; numpy's own spends most of its time on axis bookkeeping."""
    return a_N3[:, [1, 2, 0]] * b_N3[:, [2, 0, 1]] - a_N3[:, [2, 0, 1]] * b_N3[:, [1, 2, 0]]


class _Painter:
    """Puts surfaces of the world on the picture: what faces away is left out, the rest is shaded by its direction."""

    def __init__(self, image: Image, camera: Camera, scene: Scene) -> None:
        self.image, self.camera = image, camera
        high = 0.9
        flat = np.array([np.sin(scene.sun), high, np.cos(scene.sun)])
        self.sun = flat / np.linalg.norm(flat)
        self.sunshine = scene.sunshine

    def faces(self, points_N3: Points) -> tuple[bool, NDArray[np.float64]]:
        """Whether a flat polygon faces the camera, and its outward normal (away from the middle of the car)."""
        third = len(points_N3) // 3  # three corners well apart; plain floats beat numpy at this size
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points_N3[[0, third, 2 * third]].tolist()
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        outward = nx * (ax - min(max(ax, -1.0), 1.0)) + ny * (ay - 0.6) + nz * az
        size = math.copysign(math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12, outward)
        normal = (nx / size, ny / size, nz / size)
        towards = sum(n * (p - a) for n, p, a in zip(normal, self.camera.position.tolist(), (ax, ay, az), strict=True))
        return towards > 0.02, np.array(normal)

    def lit(self, colour: Colour, normal_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """A paint under this light, for each normal: (N, 3)."""
        sun = np.clip(normal_N3 @ self.sun, 0, 1)
        sky = 0.5 + 0.5 * normal_N3[:, 1]
        level = 0.42 + 0.36 * sky + 0.40 * self.sunshine * sun
        gloss = 70 * np.clip(sky - 0.55, 0, 1) + 60 * self.sunshine * sun**8
        return np.clip(np.array(colour) * level[:, None] + gloss[:, None], 0, 255)

    def mesh(self, grid_RC3: NDArray[np.float64], colour: Colour) -> None:
        """A grid of points as shaded facets, farthest first."""
        quads = np.stack([grid_RC3[:-1, :-1], grid_RC3[1:, :-1], grid_RC3[1:, 1:], grid_RC3[:-1, 1:]], axis=2).reshape(
            -1, 4, 3
        )
        normals = _cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
        size = np.linalg.norm(normals, axis=1)
        quads, normals = quads[size > 1e-6], normals[size > 1e-6] / size[size > 1e-6, None]
        centres = quads.mean(axis=1)
        inner = np.stack([np.clip(centres[:, 0], -1, 1), np.full(len(centres), 0.6), np.zeros(len(centres))], axis=1)
        normals *= np.where((normals * (centres - inner)).sum(axis=1) < 0, -1, 1)[:, None]
        sight = self.camera.position - centres
        seen = (normals * sight).sum(axis=1) > 0
        quads, normals, sight = quads[seen], normals[seen], sight[seen]
        colours = self.lit(colour, normals).tolist()
        corners = self.camera.project(quads.reshape(-1, 3)).reshape(-1, 4, 2)
        middle = corners.mean(axis=1, keepdims=True)
        corners = middle + (corners - middle) * 1.03 + np.sign(corners - middle) * 0.4  # no seams between neighbours
        fixed = fixed_point(corners)
        for i in np.argsort(-(sight**2).sum(axis=1), kind="stable").tolist():
            cv2.fillConvexPoly(self.image, fixed[i], colours[i], cv2.LINE_AA, SUBPIXEL_BITS)

    def panel(self, points_N3: Points, colour: Colour, glow: bool = False) -> None:
        """A flat shape lying on a surface; `glow` keeps its colour whatever the light."""
        facing, normal = self.faces(points_N3)
        if facing:
            shown = colour if glow else tuple(self.lit(colour, normal[None])[0])
            fill(self.image, self.camera.project(points_N3), shown)  # type: ignore[arg-type]

    def line(self, points_N3: Points, colour: Colour, width_m: float, closed: bool = False) -> None:
        """A line of a given width in metres."""
        flat = self.camera.project(points_N3)
        metres = np.linalg.norm(points_N3[1] - points_N3[0])
        pixels = np.linalg.norm(flat[1] - flat[0]) / max(metres, 1e-6)
        stroke(self.image, flat, colour, float(width_m * pixels), closed)

    def label(self, corners_43: Points, texture: Image) -> None:
        """A texture on a surface, readable from where the camera is: corners from its lower left, against the clock."""
        facing, _ = self.faces(corners_43)
        if facing:
            flat = self.camera.project(corners_43)[[3, 2, 1, 0]]
            stamp(self.image, texture, flat[[1, 0, 3, 2]] if self.camera.mirrored else flat)


GLASS: Colour = (58, 50, 44)
RUBBER: Colour = (30, 28, 28)
CHROME: Colour = (205, 205, 205)
PLASTIC: Colour = (48, 46, 45)


def draw_vehicle(vehicle: Vehicle, scene: Scene) -> Image:
    """The drawing before it is exposed: uint8 BGR (scene.height, scene.width, 3)."""
    shape = _Shape(vehicle.body)
    camera = Camera(scene, shape.everything())
    image = draw_backdrop(scene, camera)
    painter = _Painter(image, camera, scene)
    _shadow(painter, shape, scene)
    for near in (False, True):
        if near:
            _hull(painter, shape, vehicle, scene)
        for share in sorted((vehicle.body.share_front_axle, vehicle.body.share_rear_axle), reverse=scene.azimuth > 0):
            _wheel(painter, shape, WHEELS[vehicle.wheel], shape.along(share), near, scene.wheel_turn)
    return image


def photograph(vehicle: Vehicle, scene: Scene) -> bytes:
    """The vehicle in its scene as JPEG bytes."""
    return encode_jpeg(expose(draw_vehicle(vehicle, scene), scene.exposure), scene.exposure.quality)


def _shadow(painter: _Painter, shape: _Shape, scene: Scene) -> None:
    half, side = shape.half, shape.body.width / 2
    foot = np.array([[half, 0, -side], [half, 0, side], [-half, 0, side], [-half, 0, -side]], float)
    flat = painter.camera.project(foot)
    blur = 0.03 * float(np.ptp(flat[:, 0]))
    cast = foot - painter.sun * [1.1, 0, 1.1]
    shade(painter.image, painter.camera.project(cast), 0.18 + 0.25 * scene.sunshine, blur)
    shade(painter.image, painter.camera.project(foot * [0.98, 1, 0.98]), 0.72, blur * 0.55)
    under = foot * [0.84, 1, 0.80]
    fill(painter.image, painter.camera.project(under), (22, 22, 22))


def _hull(painter: _Painter, shape: _Shape, vehicle: Vehicle, scene: Scene) -> None:
    body, paint = vehicle.body, scene.paint
    painter.mesh(shape.flank(shape.lower, body.clearance, 6), paint)
    painter.mesh(shape.strip(shape.lower), paint)
    _flank_details(painter, shape, vehicle, scene)
    _end_details(painter, shape, vehicle, scene, front=scene.azimuth > 0)
    roof_paint = PLASTIC if vehicle.roof == "black" else paint
    painter.mesh(shape.flank(shape.upper, body.belt - 0.03, 4), paint)
    painter.mesh(shape.strip(shape.upper), roof_paint)
    _glass(painter, shape, vehicle, scene)


def _flank_details(painter: _Painter, shape: _Shape, vehicle: Vehicle, scene: Scene) -> None:
    body, low = vehicle.body, vehicle.body.clearance
    dark = mix(scene.paint, (0, 0, 0), 0.45)

    def side(points: list[tuple[float, float]]) -> Points:
        return shape.on_side(np.array(points))

    front, rear = shape.along(body.share_front_axle), shape.along(body.share_rear_axle)
    inner_front, inner_rear = front - body.wheel, rear + body.wheel
    mid = 0.5 * (low + body.belt)
    if vehicle.trim == "cladding":
        edge = [
            (shape.half - 0.10, low),
            (-shape.half + 0.10, low),
            (-shape.half + 0.02, low + 0.20),
            (shape.half - 0.03, low + 0.20),
        ]
        painter.panel(side(edge), PLASTIC)
        for x in (front, rear):
            arch = [
                (x + 1.30 * body.wheel * np.cos(a), body.wheel + 1.30 * body.wheel * np.sin(a))
                for a in np.linspace(0, np.pi, 14)
            ]
            painter.panel(side(arch), PLASTIC)
    elif vehicle.trim == "moulding":
        painter.panel(
            side(
                [
                    (inner_rear, mid - 0.05),
                    (inner_front, mid - 0.05),
                    (inner_front, mid + 0.05),
                    (inner_rear, mid + 0.05),
                ]
            ),
            PLASTIC,
        )
    elif vehicle.trim == "crease":
        crease = [
            (inner_rear - 0.1, mid + 0.16),
            (inner_front + 0.1, mid - 0.06),
            (inner_front + 0.1, mid - 0.16),
            (inner_rear - 0.1, mid + 0.02),
        ]
        painter.panel(side(crease), mix(scene.paint, (0, 0, 0), 0.35))
    elif vehicle.trim == "sill":
        painter.panel(
            side(
                [
                    (inner_rear, low + 0.05),
                    (inner_front, low + 0.05),
                    (inner_front, low + 0.14),
                    (inner_rear, low + 0.14),
                ]
            ),
            CHROME,
        )

    width = 0.012
    door_front = min(shape.along(body.share_cowl) - 0.12, inner_front - 0.10)
    door_end = inner_rear - 0.05 if body.doors == 2 else inner_rear + 0.15
    for k in range(body.doors + 1):
        x = door_front + (door_end - door_front) * k / body.doors
        painter.line(side([(x, low + 0.10), (x - 0.01, mid), (x - 0.03, body.belt)]), dark, width)
        if k < body.doors:
            handle = door_front + (door_end - door_front) * (k + 0.80) / body.doors
            y = body.belt - 0.13
            painter.panel(
                side([(handle, y), (handle + 0.2, y), (handle + 0.2, y + 0.045), (handle, y + 0.045)]),
                mix(dark, CHROME, 0.4),
            )
    painter.line(side([(door_end, low + 0.10), (door_front, low + 0.10)]), dark, width)
    if scene.door_words:
        shown = painter.lit(scene.paint, np.array([[0.0, 0.0, 1.0]]))[0]
        texture = np.full((80, 40 * len(scene.door_words), 3), shown, np.uint8)
        light = sum(scene.paint) < 330
        write(texture, scene.door_words, (12, 62), 40, (240, 240, 240) if light else (40, 30, 120), 6)
        middle, wide = (door_front + door_end) / 2, 0.085 * len(scene.door_words)
        corners = [
            (middle - wide, mid - 0.10),
            (middle + wide, mid - 0.10),
            (middle + wide, mid + 0.16),
            (middle - wide, mid + 0.16),
        ]
        painter.label(side(corners), texture)

    lamp_low, lamp_high = _lamp_zone(body, front=True)
    for outline in HEAD_LAMPS[vehicle.head_lamp].side:
        points = [(shape.half - 0.05 - u, lamp_low + v * (lamp_high - lamp_low)) for u, v in outline]
        painter.panel(side(points), (225, 228, 230))
    lamp_low, lamp_high = _lamp_zone(body, front=False)
    for outline in TAIL_LAMPS[vehicle.tail_lamp].side:
        points = [(-shape.half + 0.05 + u, lamp_low + v * (lamp_high - lamp_low)) for u, v in outline]
        painter.panel(side(points), (30, 26, 190))


def _lamp_zone(body: Body, front: bool) -> tuple[float, float]:
    top = (body.nose if front else body.tail) - 0.05
    return top - (0.26 if front else 0.30) * top / 0.8, top


def _end_details(painter: _Painter, shape: _Shape, vehicle: Vehicle, scene: Scene, front: bool) -> None:
    body = vehicle.body
    low, top = body.clearance + 0.06, body.nose - 0.03

    def end(points: list[tuple[float, float]], across: int) -> Points:
        return shape.on_end(np.array(points) * [across, 1], front)

    if front:
        grille = GRILLES[vehicle.grille]
        for outline in grille.holes:
            for across in (-1, 1):
                points = [(u, low + v * (top - low)) for u, v in outline]
                painter.panel(end(points, across), (26, 24, 24), glow=True)
                u, v = np.array(outline).T
                v0, v1 = low + v.min() * (top - low), low + v.max() * (top - low)
                for k in range(1, abs(grille.bars) + 1):
                    t = k / (abs(grille.bars) + 1)
                    if grille.bars > 0:
                        y, reach = v0 + (v1 - v0) * t, u.max() * 0.92
                        painter.line(end([(u.min(), y), (reach, y)], across), (150, 150, 150), 0.016)
                    else:
                        x = u.min() + (u.max() - u.min()) * t
                        painter.line(end([(x, v0), (x, v1)], across), (150, 150, 150), 0.014)
                if grille.bright:
                    painter.line(end(points, across), CHROME, 0.022, closed=bool(u.min() > 0))
    else:
        for across in (-1, 1):
            bumper = [(0.0, low), (0.86, low), (0.80, low + 0.16), (0.0, low + 0.16)]
            painter.panel(end(bumper, across), PLASTIC)

    lamp_low, lamp_high = _lamp_zone(body, front)
    lamp = (HEAD_LAMPS if front else TAIL_LAMPS)[vehicle.head_lamp if front else vehicle.tail_lamp]
    glass, heart = ((232, 232, 228), (255, 255, 255)) if front else ((24, 20, 150), (60, 50, 235))
    for outline in lamp.end:
        points = np.array([(u, lamp_low + v * (lamp_high - lamp_low)) for u, v in outline])
        middle = points.mean(axis=0)
        for across in (-1, 1):
            painter.panel(end((middle + (points - middle) * 1.12).tolist(), across), (40, 38, 38), glow=True)
            painter.panel(end(points.tolist(), across), glass)
            painter.panel(end((middle + (points - middle) * 0.55).tolist(), across), heart, glow=True)

    plate = np.full((60, 260, 3), 238, np.uint8)
    cv2.rectangle(plate, (2, 2), (257, 57), (90, 60, 40), 3)
    write(plate, scene.plate, (14, 44), 27, (40, 34, 30), 4)
    y0 = low + (0.07 if front else 0.24 * (body.tail - low) + 0.05)
    share = 0.52 / body.width  # a plate is 52 cm wide
    spread = np.array([(-share, y0), (share, y0), (share, y0 + 0.12), (-share, y0 + 0.12)])
    corners = shape.on_end(spread * ([-1, 1] if front else [1, 1]), front)
    corners[:, 0] = (np.abs(corners[:, 0]).max() + 0.02) * (1 if front else -1)
    painter.label(corners, plate)


def _glass(painter: _Painter, shape: _Shape, vehicle: Vehicle, scene: Scene) -> None:
    body, line = vehicle.body, WINDOW_LINES[vehicle.window_line]
    sky = mix(GLASS, (215, 200, 185), 0.25 + 0.3 * scene.sunshine)
    s = np.linspace(-0.90, 0.90, 5)
    for first, last in ((0, 1), (5, 4)):
        bottom, top = np.stack([s, np.full(5, 0.10)], 1), np.stack([s[::-1] * 0.97, np.full(5, 0.95)], 1)
        painter.panel(shape.on_screen(np.concatenate([bottom, top]), first, last), GLASS)
        gleam = np.array([(-0.9, 0.45), (-0.1, 0.95), (-0.87, 0.95)])
        painter.panel(shape.on_screen(gleam, first, last), sky)

    belt, top = body.belt + 0.03, body.height - 0.11
    cowl, roof = shape.along(body.share_cowl), shape.along(body.share_roof)
    roof_end, deck = shape.along(body.share_roof_end), shape.along(body.share_deck)
    head = [cowl - 0.14, roof - 0.10]  # lower and upper front corner
    tail = [
        deck + 0.10 + line.pillar * (head[0] - deck) * 0.28,
        roof_end + 0.08 + line.pillar * (head[0] - deck) * 0.22,
    ]
    raised = belt + line.rise * (top - belt)

    def side(points: list[tuple[float, float]]) -> Points:
        return shape.on_side(np.array(points), 0.01)

    if line.black_pillar:
        painter.panel(
            side([(deck + 0.06, belt), (head[0], belt), (head[1], top), (roof_end + 0.04, top)]), GLASS, glow=True
        )
    outline = [
        (tail[0] + 0.12 * (line.rise > 0), raised),
        (tail[0] + 0.30 + 0.35 * line.rise, belt),
        (head[0], belt),
        (head[1], top),
        (tail[1], top),
    ]
    painter.panel(side(outline), GLASS)
    painter.panel(
        side(
            [
                (head[0] - 0.9, belt + 0.16),
                (head[0] - 0.25, belt + 0.16),
                (head[1] - 0.05, top - 0.03),
                (head[1] - 0.6, top - 0.03),
            ]
        ),
        sky,
    )
    pillars = [0.5] if body.doors == 1 else [0.40, 0.78]
    for share in pillars:
        x = max(head[0] + (tail[0] - head[0]) * share, tail[0] + 0.42 + 0.35 * line.rise)
        x_top = head[1] + (tail[1] - head[1]) * share
        pillar = [(x - 0.05, belt), (x + 0.05, belt), (x_top + 0.04, top), (x_top - 0.04, top)]
        painter.panel(side(pillar), (18, 18, 18), glow=True)
    if line.bright:
        painter.line(side(outline), CHROME, 0.030, closed=True)
    mirror = [
        (head[0] - 0.16, belt - 0.03),
        (head[0] + 0.06, belt - 0.02),
        (head[0] + 0.03, belt + 0.13),
        (head[0] - 0.14, belt + 0.13),
    ]
    painter.panel(side(mirror) + [0, 0, 0.12], mix(scene.paint, (0, 0, 0), 0.15))

    if vehicle.roof == "rails":
        for z in (-0.66, 0.66):
            ends = [
                [roof + 0.05, body.height + 0.04, z * body.width / 2],
                [roof_end - 0.05, body.height + 0.03, z * body.width / 2],
            ]
            painter.line(np.array(ends), (60, 58, 58), 0.05)
    elif vehicle.roof == "fin":
        fin = np.array([[roof_end + 0.42, 0], [roof_end + 0.12, 0], [roof_end + 0.15, 0.11], [roof_end + 0.22, 0.10]])
        fin = np.stack([fin[:, 0], body.height - 0.02 + fin[:, 1], np.zeros(4)], axis=1)
        fill(painter.image, painter.camera.project(fin), (40, 40, 40))


@cache
def _rim(wheel: Wheel) -> tuple[Points, tuple[tuple[int, bool], ...]]:
    """A rim in units of the tyre's radius: the corners of its outlines one after another, (N, 2), and for each outline
    its number of corners and whether it is metal; to be painted in this order."""
    edge, room = 0.74, 2 * np.pi / wheel.spokes
    outlines = [(_round(1.0), False), (_round(edge), True), (_round(edge - 0.07), wheel.plate)]
    for centre in np.arange(wheel.spokes) * room:
        if wheel.plate:
            middle = 0.53 * np.array([np.cos(centre), np.sin(centre)])
            outlines.append((middle + 0.105 * _round(1.0, 12), False))
            continue
        half = wheel.width * room / 2
        for offset in (-0.2 * room, 0.2 * room) if wheel.paired else (0.0,):
            inner = centre + 0.4 * offset + np.array([-2.2, 2.2]) * half
            outer = centre + offset + wheel.twist + np.array([1.0, -1.0]) * half
            angles, radii = np.concatenate([inner, outer]), np.array([0.16, 0.16, edge - 0.04, edge - 0.04])
            outlines.append((np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None], True))
    outlines.append((_round(0.17, 12), True))
    return np.concatenate([o for o, _ in outlines]), tuple((len(o), metal) for o, metal in outlines)


def _round(radius: float, corners: int = 30) -> Points:
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _wheel(painter: _Painter, shape: _Shape, wheel: Wheel, x: float, near: bool, turn: float) -> None:
    radius = shape.body.wheel
    z = float(shape.half_width(np.array(x), np.array(radius))) - 0.02

    def upright(flat_N2: Points, depth: float) -> Points:
        placed = [x, radius] + radius * flat_N2
        return painter.camera.project(np.concatenate([placed, np.full((len(flat_N2), 1), depth)], axis=1))

    if not near:
        for depth in (-z, -z + 0.2):
            fill(painter.image, upright(_round(1.0), depth), RUBBER)
        return
    arch = np.linspace(-0.25, np.pi + 0.25, 24)
    fill(painter.image, upright(1.16 * np.stack([np.cos(arch), np.sin(arch)], axis=1), z + 0.015), (14, 14, 14))
    tyre = np.concatenate([upright(_round(1.0), z - 0.22), upright(_round(1.0), z)]).astype(np.float32)
    fill(painter.image, cv2.convexHull(tyre)[:, 0].astype(float), mix(RUBBER, (0, 0, 0), 0.4))
    metal = painter.lit((wheel.tone,) * 3, np.array([[0.0, 0.0, 1.0]]))[0].tolist()
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners, outlines = _rim(wheel)
    flat, start = fixed_point(upright(corners @ turned, z)), 0
    for count, is_metal in outlines:
        cv2.fillPoly(
            painter.image, [flat[start : start + count]], metal if is_metal else RUBBER, cv2.LINE_AA, SUBPIXEL_BITS
        )
        start += count
