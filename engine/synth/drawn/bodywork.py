"""A vehicle's surfaces, and the painter that puts them on a picture.

The body is a loft of two rounded profiles (the hull and the cabin), not a flat sprite, so that one design can be seen
from any side. There is no depth buffer: a facet is drawn when it faces the camera, shaded by its normal, far ones
first, and details are laid on afterwards as polygons in the coordinates of the surface they belong to. For shapes this
plain that looks as a depth buffer would, and it needs nothing but filled polygons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.synth.drawn.paint import SUBPIXEL_BITS, Colour, Image, Points, fill, fixed_point, round_off, stamp, stroke
from engine.synth.drawn.scenes import Camera
from engine.synth.drawn.vehicles import Body

Grid = NDArray[np.float64]  # (R, C, 3) metres: a surface as rows and columns of points


@dataclass(frozen=True)
class Surface:
    """A curved surface as Q flat quadrilaterals."""

    quads_Q43: NDArray[np.float64]  # corners
    centres_Q3: NDArray[np.float64]
    normals_Q3: NDArray[np.float64]  # of length one, away from the middle of the car

    @staticmethod
    def of(grid_RC3: Grid) -> Surface:
        """The facets between neighbouring points of a grid, without those that have no area."""
        corners = [grid_RC3[:-1, :-1], grid_RC3[1:, :-1], grid_RC3[1:, 1:], grid_RC3[:-1, 1:]]
        quads = np.stack(corners, axis=2).reshape(-1, 4, 3)
        normals = np.cross(quads[:, 2] - quads[:, 0], quads[:, 3] - quads[:, 1])
        size = np.linalg.norm(normals, axis=1)
        quads, normals = quads[size > 1e-6], normals[size > 1e-6] / size[size > 1e-6, None]
        centres = quads.mean(axis=1)
        outward = centres - [0, 0.6, 0]
        outward[:, 0] -= np.clip(centres[:, 0], -1, 1)
        return Surface(quads, centres, normals * np.where((normals * outward).sum(axis=1) < 0, -1, 1)[:, None])


class Bodywork:
    """The surfaces of a body in the world's axes, and maps from coordinates on a surface to points in the world."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.half = half = body.length / 2
        low, nose, tail, belt = body.clearance, body.nose, body.tail, body.belt
        self.cowl, self.deck = self.along(body.share_cowl), self.along(body.share_deck)
        self.roof, self.roof_end = self.along(body.share_roof), self.along(body.share_roof_end)
        self.front_axle, self.rear_axle = self.along(body.share_front_axle), self.along(body.share_rear_axle)
        rounding = 0.16 if body.share_cowl > 0.15 else 0.10
        lower = [
            (half - 0.16, low),
            (half - 0.02, low + 0.10),
            (half, (low + nose) / 2),
            (half - 0.04, nose - 0.08),
            (half - rounding, nose + 0.02),
            (self.cowl + 0.25 * (half - self.cowl), 0.45 * nose + 0.55 * belt),
            (self.cowl, belt),
            (self.deck, belt + 0.01),
            (-half + 0.10, tail),
            (-half, tail - 0.12),
            (-half + 0.02, (low + tail) / 2),
            (-half + 0.04, low + 0.14),
            (-half + 0.18, low),
        ]
        upper = [
            (self.cowl + 0.02, belt - 0.02),
            (self.roof, body.height - 0.05),
            (self.roof - 0.25, body.height),
            (self.roof_end + 0.3, body.height - 0.01),
            (self.roof_end, body.height - 0.06),
            (self.deck, belt + 0.02),
        ]
        self.hull = round_off(np.array(lower))  # (N, 2) profile from the front bumper over the bonnet to the rear one
        self.cabin_corners = np.array(upper)
        self.cabin = round_off(self.cabin_corners)  # (N, 2) profile from windscreen to rear screen
        self.hull_top, self.cabin_top = Surface.of(self.strip(self.hull)), Surface.of(self.strip(self.cabin))
        self.hull_side = Surface.of(self.flank(self.hull, body.clearance, 6))
        self.cabin_side = Surface.of(self.flank(self.cabin, belt - 0.03, 4))
        self.extent = self._extent()  # (N, 3) world points that bound the car, tyres on the ground included

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

    def strip(self, profile_N2: Points, columns: int = 5) -> Grid:
        """The surface across the car along a profile: (N, columns, 3)."""
        s = np.linspace(-1, 1, columns)
        x, y = profile_N2[:, 0:1], profile_N2[:, 1:2]
        return np.stack([self._bulged(x, s), np.broadcast_to(y, (len(x), columns)), self.half_width(x, y) * s], axis=-1)

    def _bulged(self, x: NDArray[np.float64], s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Nose and tail stand out in the middle of the car (s = 0)."""
        along = x / self.half
        squared = along * along
        return x + 0.13 * squared * squared * along * (1 - s * s)

    def flank(self, profile_N2: Points, base: float, rows: int) -> Grid:
        """The near side under a profile, down to height `base` and to the bumpers' undersides: (N, rows, 3)."""
        x, top = profile_N2[:, 0:1], profile_N2[:, 1:2]
        bottom = base + 0.11 * np.clip((np.abs(x) - self.half + 0.16) / 0.14, 0, 1)
        y = bottom + np.maximum(top - bottom, 0) * np.linspace(0, 1, rows)
        x = np.broadcast_to(x, y.shape)
        return np.stack([x, y, self.half_width(x, y)], axis=-1)

    def on_side(self, points_N2: Points, lift: float = 0.005) -> Points:
        """(x, y) on the near side to world points, `lift` metres proud of the surface."""
        x, y = points_N2[:, 0], points_N2[:, 1]
        return np.stack([x, y, self.half_width(x, y) + lift], axis=1)

    def on_end(self, points_N2: Points, front: bool) -> Points:
        """(s across -1..1, height) on the nose or the tail to world points."""
        s, y = points_N2[:, 0], points_N2[:, 1]
        middle = int(np.argmax(self.hull[:, 0] < 0))
        half = self.hull[:middle] if front else self.hull[middle:][::-1]
        upright = half[np.abs(half[:, 0]) > self.half - 0.19]  # before the profile bends into bonnet or boot
        rising = upright[: int(np.argmax(upright[:, 1])) + 1]
        x = np.interp(y, rising[:, 1], rising[:, 0])
        return np.stack([self._bulged(x, s), y, self.half_width(x, y) * s], axis=1)

    def on_screen(self, points_N2: Points, front: bool) -> Points:
        """(s across -1..1, share of the way up) on the windscreen or the rear screen to world points."""
        s, t = points_N2[:, 0], points_N2[:, 1]
        (x0, y0), (x1, y1) = self.cabin_corners[[0, 1] if front else [5, 4]]
        x, y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
        outward = 0.02 if front else -0.02
        return np.stack([self._bulged(x, s) + outward, y, self.half_width(x, y) * s], axis=1)

    def lamp_zone(self, front: bool) -> tuple[float, float]:
        """Lower and upper height of the zone that lamps are described in."""
        top = (self.body.nose if front else self.body.tail) - 0.05
        return top * (1 - (0.26 if front else 0.30) / 0.8), top

    def _extent(self) -> Points:
        side = self.body.width / 2
        feet = [[x, 0.0, z] for x in (self.front_axle, self.rear_axle) for z in (-side, side)]
        return np.concatenate([self.hull_top.quads_Q43.reshape(-1, 3), self.cabin_top.quads_Q43.reshape(-1, 3), feet])


@cache
def bodywork(body: Body) -> Bodywork:
    """The surfaces of a body; kept, because all pictures of a class have the same."""
    return Bodywork(body)


class Painter:
    """Puts surfaces of the world on a picture: what faces away is left out, the rest is shaded by its direction."""

    def __init__(self, image: Image, camera: Camera, sun: float, sunshine: float) -> None:
        self.image, self.camera, self.sunshine = image, camera, sunshine
        towards = np.array([np.sin(sun), 0.9, np.cos(sun)])
        self.sun = towards / np.linalg.norm(towards)

    def facing(self, points_N3: Points) -> tuple[bool, NDArray[np.float64]]:
        """Whether a flat polygon faces the camera, and its outward normal (away from the middle of the car)."""
        third = len(points_N3) // 3  # three corners well apart; plain floats beat numpy at this size
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points_N3[[0, third, 2 * third]].tolist()
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        outward = nx * (ax - min(max(ax, -1.0), 1.0)) + ny * (ay - 0.6) + nz * az
        size = math.copysign(math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12, outward)
        normal = np.array([nx, ny, nz]) / size
        return bool(normal @ (self.camera.position - points_N3[0]) > 0.02), normal

    def lit(self, colour: Colour, normals_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """A paint under this light, for each normal: (N, 3)."""
        sun = np.clip(normals_N3 @ self.sun, 0, 1)
        sky = 0.5 + 0.5 * normals_N3[:, 1]
        level = 0.42 + 0.36 * sky + 0.40 * self.sunshine * sun
        gloss = 70 * np.clip(sky - 0.55, 0, 1) + 60 * self.sunshine * sun**8
        return np.clip(np.array(colour) * level[:, None] + gloss[:, None], 0, 255)

    def lit_side(self, colour: Colour) -> Colour:
        """A paint on the near side under this light."""
        blue, green, red = self.lit(colour, np.array([[0.0, 0.0, 1.0]]))[0].tolist()
        return blue, green, red

    def surface(self, surface: Surface, colour: Colour) -> None:
        """A surface as shaded facets, farthest first."""
        sight = self.camera.position - surface.centres_Q3
        seen = (surface.normals_Q3 * sight).sum(axis=1) > 0
        colours = self.lit(colour, surface.normals_Q3[seen]).tolist()
        flat = self.camera.project(surface.quads_Q43[seen].reshape(-1, 3)).reshape(-1, 4, 2)
        middle = flat.mean(axis=1, keepdims=True)
        grown = fixed_point(middle + (flat - middle) * 1.03 + np.sign(flat - middle) * 0.4)  # no seams between facets
        for i in np.argsort(-(sight[seen] ** 2).sum(axis=1), kind="stable").tolist():
            cv2.fillConvexPoly(self.image, grown[i], colours[i], cv2.LINE_AA, SUBPIXEL_BITS)

    def panel(self, points_N3: Points, colour: Colour, glow: bool = False) -> None:
        """A flat shape lying on a surface; `glow` keeps its colour whatever the light."""
        seen, normal = self.facing(points_N3)
        if seen:
            shown = colour if glow else self.lit(colour, normal[None])[0].tolist()
            fill(self.image, self.camera.project(points_N3), shown)

    def line(self, points_N3: Points, colour: Colour, width_m: float, closed: bool = False) -> None:
        """A line of a given width in metres."""
        flat = self.camera.project(points_N3)
        pixels_a_metre = np.linalg.norm(flat[1] - flat[0]) / max(
            float(np.linalg.norm(points_N3[1] - points_N3[0])), 1e-6
        )
        stroke(self.image, flat, colour, float(width_m * pixels_a_metre), closed)

    def label(self, corners_43: Points, texture: Image) -> None:
        """A texture, readable also when the world is mirrored: corners from its lower left, against the clock."""
        if self.facing(corners_43)[0]:
            left_low, right_low, right_high, left_high = self.camera.project(corners_43)
            if self.camera.mirrored:
                left_low, right_low, right_high, left_high = right_low, left_low, left_high, right_high
            stamp(self.image, texture, np.stack([left_high, right_high, right_low, left_low]))
