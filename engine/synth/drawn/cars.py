"""A vehicle in its scene: the order in which its parts are painted, and what each part looks like."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from engine.synth.drawn.bodywork import Painter, bodywork
from engine.synth.drawn.paint import (
    SUBPIXEL_BITS,
    Colour,
    Image,
    Points,
    encode_jpeg,
    expose,
    fill,
    fixed_point,
    mix,
    rectangle,
    shade,
    write,
)
from engine.synth.drawn.scenes import Camera, Scene, draw_backdrop
from engine.synth.drawn.vehicles import GRILLES, HEAD_LAMPS, TAIL_LAMPS, WHEELS, WINDOW_LINES, Vehicle, Wheel

BLACK: Colour = (0, 0, 0)
GLASS: Colour = (58, 50, 44)
RUBBER: Colour = (28, 27, 27)
CHROME: Colour = (205, 205, 205)
PLASTIC: Colour = (48, 46, 45)
OPENING: Colour = (24, 22, 22)


def photograph(vehicle: Vehicle, scene: Scene) -> bytes:
    """The vehicle in its scene as JPEG bytes."""
    return encode_jpeg(expose(draw_vehicle(vehicle, scene), scene.exposure), scene.exposure.quality)


def draw_vehicle(vehicle: Vehicle, scene: Scene) -> Image:
    """The drawing before it is exposed: uint8 BGR (scene.height, scene.width, 3)."""
    return _Drawing(vehicle, scene).image


class _Drawing:
    """One vehicle in one scene, painted from back to front."""

    def __init__(self, vehicle: Vehicle, scene: Scene) -> None:
        self.vehicle, self.scene, self.body = vehicle, scene, vehicle.body
        self.work = bodywork(vehicle.body)
        camera = Camera(scene, self.work.extent)
        self.image = draw_backdrop(scene, camera)
        self.painter = Painter(self.image, camera, scene.sun, scene.sunshine)
        self._shadow()
        for x in (self.work.front_axle, self.work.rear_axle):
            self._far_wheel(x)
        self.painter.surface(self.work.hull_side, scene.paint)
        self.painter.surface(self.work.hull_top, scene.paint)
        self._trim()
        self._doors()
        self._lamps(front=True)
        self._lamps(front=False)
        if scene.azimuth > 0:
            self._grille()
        else:
            self._rear_bumper()
        self._plate(front=scene.azimuth > 0)
        self._cabin()
        self._roof()
        for x in (self.work.front_axle, self.work.rear_axle):
            self._near_wheel(WHEELS[vehicle.wheel], x)

    def _shadow(self) -> None:
        half, side = self.work.half, self.body.width / 2
        foot = np.array([[half, 0, -side], [half, 0, side], [-half, 0, side], [-half, 0, -side]])
        project = self.painter.camera.project
        blur = 0.03 * float(np.ptp(project(foot)[:, 0]))
        cast = foot - self.painter.sun * [1.1, 0, 1.1]
        shade(self.image, project(cast), 0.18 + 0.25 * self.scene.sunshine, blur)
        shade(self.image, project(foot * [0.98, 1, 0.98]), 0.72, 0.55 * blur)
        fill(self.image, project(foot * [0.84, 1, 0.80]), OPENING)

    def _on_side(self, points_N2: Points, colour: Colour, glow: bool = False) -> None:
        self.painter.panel(self.work.on_side(points_N2), colour, glow)

    def _trim(self) -> None:
        """What sits on the flank below the windows."""
        low, wheel, half = self.body.clearance, self.body.wheel, self.work.half
        front, rear = self.work.front_axle - wheel, self.work.rear_axle + wheel  # the flank between the wheels
        mid = 0.5 * (low + self.body.belt)
        match self.vehicle.trim:
            case "cladding":
                skirt = [(half - 0.1, low), (0.1 - half, low), (0.02 - half, low + 0.2), (half - 0.03, low + 0.2)]
                self._on_side(np.array(skirt), PLASTIC)
                for x in (self.work.front_axle, self.work.rear_axle):
                    self._on_side([x, wheel] + 1.3 * wheel * _arc(0, np.pi, 14), PLASTIC)
            case "moulding":
                self._on_side(rectangle(rear, mid - 0.05, front, mid + 0.05), PLASTIC)
            case "crease":
                fold = [
                    (rear - 0.1, mid + 0.16),
                    (front + 0.1, mid - 0.06),
                    (front + 0.1, mid - 0.16),
                    (rear - 0.1, mid),
                ]
                self._on_side(np.array(fold), mix(self.scene.paint, BLACK, 0.35))
            case "sill":
                self._on_side(rectangle(rear, low + 0.05, front, low + 0.14), CHROME)

    def _doors(self) -> None:
        low, belt, doors = self.body.clearance + 0.10, self.body.belt, self.body.doors
        dark, width = mix(self.scene.paint, BLACK, 0.45), 0.012
        front = min(self.work.cowl - 0.12, self.work.front_axle - self.body.wheel - 0.10)
        rear = self.work.rear_axle + self.body.wheel + (0.15 if doors == 1 else -0.05)
        for k in range(doors + 1):
            x = front + (rear - front) * k / doors
            seam = np.array([(x, low), (x - 0.01, 0.5 * (low + belt)), (x - 0.03, belt)])
            self.painter.line(self.work.on_side(seam), dark, width)
        for k in range(doors):
            x = front + (rear - front) * (k + 0.80) / doors
            self._on_side(rectangle(x, belt - 0.13, x + 0.2, belt - 0.085), mix(dark, CHROME, 0.4))
        self.painter.line(self.work.on_side(np.array([(rear, low), (front, low)])), dark, width)
        if self.scene.door_words:
            self._lettering(0.5 * (front + rear), 0.5 * (low + belt))

    def _lettering(self, x: float, y: float) -> None:
        words, paint = self.scene.door_words, self.scene.paint
        texture: Image = np.full((80, 40 * len(words), 3), self.painter.lit_side(paint), np.uint8)
        write(texture, words, (12, 62), 40, (240, 240, 240) if sum(paint) < 330 else (40, 30, 120), 6)
        reach = 0.085 * len(words)
        self.painter.label(self.work.on_side(rectangle(x - reach, y - 0.12, x + reach, y + 0.12)), texture)

    def _lamps(self, front: bool) -> None:
        """Both lamps of one end, and their part around the corner."""
        low, top = self.work.lamp_zone(front)
        lamp = HEAD_LAMPS[self.vehicle.head_lamp] if front else TAIL_LAMPS[self.vehicle.tail_lamp]
        glass, heart = ((232, 232, 228), (255, 255, 255)) if front else ((24, 20, 150), (60, 50, 235))
        corner, backwards = (self.work.half - 0.05, -1) if front else (0.05 - self.work.half, 1)
        for outline in lamp.side:
            self._on_side(np.array(outline) * [backwards, top - low] + [corner, low], glass)
        if front != (self.scene.azimuth > 0):
            return  # that end is out of sight
        for outline in lamp.end:
            shape = np.array(outline) * [1, top - low] + [0, low]
            middle = shape.mean(axis=0)
            for grown, colour in ((1.12, PLASTIC), (1.0, glass), (0.55, heart)):
                for across in (-1, 1):
                    points = (middle + (shape - middle) * grown) * [across, 1]
                    self.painter.panel(self.work.on_end(points, front), colour, glow=grown != 1.0)

    def _grille(self) -> None:
        grille, low, top = GRILLES[self.vehicle.grille], self.body.clearance + 0.06, self.body.nose - 0.03
        bars = np.arange(1, abs(grille.bars) + 1) / (abs(grille.bars) + 1)
        for outline in grille.holes:
            hole = np.array(outline) * [1, top - low] + [0, low]
            (left, bottom), (right, upper) = hole.min(axis=0), hole.max(axis=0)
            lines = [
                [(left, bottom + (upper - bottom) * t), (0.92 * right, bottom + (upper - bottom) * t)]
                if grille.bars > 0
                else [(left + (right - left) * t, bottom), (left + (right - left) * t, upper)]
                for t in bars
            ]
            for across in (-1, 1):
                side = np.array([across, 1])
                self.painter.panel(self.work.on_end(hole * side, True), OPENING, glow=True)
                for line in lines:
                    self.painter.line(self.work.on_end(np.array(line) * side, True), (150, 150, 150), 0.015)
                if grille.bright:
                    self.painter.line(self.work.on_end(hole * side, True), CHROME, 0.022, closed=bool(left > 0))

    def _rear_bumper(self) -> None:
        low = self.body.clearance + 0.06
        for across in (-1, 1):
            bumper = np.array([(0.0, low), (0.86, low), (0.80, low + 0.16), (0.0, low + 0.16)]) * [across, 1]
            self.painter.panel(self.work.on_end(bumper, False), PLASTIC)

    def _plate(self, front: bool) -> None:
        texture: Image = np.full((60, 260, 3), 238, np.uint8)
        cv2.rectangle(texture, (2, 2), (257, 57), (90, 60, 40), 3)
        write(texture, self.scene.plate, (14, 44), 27, (40, 34, 30), 4)
        low = self.body.clearance + (0.13 if front else 0.11 + 0.24 * (self.body.tail - self.body.clearance))
        reach = 0.52 / self.body.width  # a plate is 52 cm wide
        across = -1 if front else 1  # its left is the car's right at one end and the car's left at the other
        corners = self.work.on_end(rectangle(-reach, low, reach, low + 0.12) * [across, 1], front)
        corners[:, 0] = (np.abs(corners[:, 0]).max() + 0.02) * -across
        self.painter.label(corners, texture)

    def _cabin(self) -> None:
        work, body, line = self.work, self.body, WINDOW_LINES[self.vehicle.window_line]
        self.painter.surface(work.cabin_side, self.scene.paint)
        self.painter.surface(work.cabin_top, PLASTIC if self.vehicle.roof == "black" else self.scene.paint)
        sky = mix(GLASS, (215, 200, 185), 0.25 + 0.3 * self.scene.sunshine)
        s = np.linspace(-0.90, 0.90, 5)
        screen = np.concatenate([np.stack([s, np.full(5, 0.10)], 1), np.stack([0.97 * s[::-1], np.full(5, 0.95)], 1)])
        gleam = np.array([(-0.9, 0.45), (-0.1, 0.95), (-0.87, 0.95)])
        for front in (True, False):
            self.painter.panel(work.on_screen(screen, front), GLASS)
            self.painter.panel(work.on_screen(gleam, front), sky)

        def side(*corners: tuple[float, float]) -> Points:
            return work.on_side(np.array(corners), 0.01)

        # a window has a lower and an upper corner at either end: a screen slopes, and so do they
        low, top = body.belt + 0.03, body.height - 0.11
        head_low, head_top = work.cowl - 0.14, work.roof - 0.10
        pillar = line.pillar * (head_low - work.deck)
        tail_low, tail_top = work.deck + 0.10 + 0.28 * pillar, work.roof_end + 0.08 + 0.22 * pillar
        if line.black_pillar:
            whole = side((work.deck + 0.06, low), (head_low, low), (head_top, top), (work.roof_end + 0.04, top))
            self.painter.panel(whole, GLASS, glow=True)
        tail_mid = tail_low + line.rise * (tail_top - tail_low)  # the corner that rises, along the screen's slope
        tail_foot = max(tail_low + 0.30 + 0.35 * line.rise, tail_mid + 0.15)
        window = side(
            (tail_mid, low + line.rise * (top - low)),
            (tail_foot, low),
            (head_low, low),
            (head_top, top),
            (tail_top, top),
        )
        self.painter.panel(window, GLASS)
        reflection = side(
            (head_low - 0.9, low + 0.16),
            (head_low - 0.25, low + 0.16),
            (head_top - 0.05, top - 0.03),
            (head_top - 0.6, top - 0.03),
        )
        self.painter.panel(reflection, sky)
        for share in (0.5,) if body.doors == 1 else (0.40, 0.78):
            x = max(head_low + (tail_low - head_low) * share, tail_foot + 0.10)
            x_top = head_top + (tail_top - head_top) * share
            post = side((x - 0.05, low), (x + 0.05, low), (x_top + 0.04, top), (x_top - 0.04, top))
            self.painter.panel(post, OPENING, glow=True)
        if line.bright:
            self.painter.line(window, CHROME, 0.030, closed=True)
        mirror = side(
            (head_low - 0.16, low - 0.06),
            (head_low + 0.06, low - 0.05),
            (head_low + 0.03, low + 0.1),
            (head_low - 0.14, low + 0.1),
        )
        self.painter.panel(mirror + np.array([0, 0, 0.12]), mix(self.scene.paint, BLACK, 0.15))

    def _roof(self) -> None:
        top, front, rear = self.body.height, self.work.roof, self.work.roof_end
        if self.vehicle.roof == "rails":
            for z in (-0.33 * self.body.width, 0.33 * self.body.width):
                rail = np.array([[front + 0.05, top + 0.04, z], [rear - 0.05, top + 0.03, z]])
                self.painter.line(rail, PLASTIC, 0.05)
        elif self.vehicle.roof == "wing":
            low, high, side = (rear + 0.10, top - 0.03), (rear - 0.26, top + 0.09), 0.36 * self.body.width
            blade = np.array([(*low, -side), (*high, -side), (*high, side), (*low, side)])
            fill(self.image, self.painter.camera.project(blade), PLASTIC)

    def _wheel_plane(self, x: float) -> float:
        return float(self.work.half_width(np.array(x), np.array(self.body.wheel))) - 0.02

    def _upright(self, flat_N2: Points, x: float, z: float) -> Points:
        """Points in units of a wheel's radius around its hub, to pixels."""
        placed = [x, self.body.wheel] + self.body.wheel * flat_N2
        return self.painter.camera.project(np.concatenate([placed, np.full((len(flat_N2), 1), z)], axis=1))

    def _far_wheel(self, x: float) -> None:
        z = self._wheel_plane(x)
        for depth in (-z, -z + 0.2):
            fill(self.image, self._upright(_arc(), x, depth), RUBBER)

    def _near_wheel(self, wheel: Wheel, x: float) -> None:
        z = self._wheel_plane(x)
        fill(self.image, self._upright(1.16 * _arc(-0.25, np.pi + 0.25, 24), x, z + 0.015), (14, 14, 14))
        tyre = np.concatenate([self._upright(_arc(), x, z - 0.22), self._upright(_arc(), x, z)]).astype(np.float32)
        fill(self.image, cv2.convexHull(tyre)[:, 0].astype(float), mix(RUBBER, BLACK, 0.4))
        metal = self.painter.lit_side((wheel.tone,) * 3)
        cos, sin = np.cos(self.scene.wheel_turn), np.sin(self.scene.wheel_turn)
        corners, outlines = _rim(wheel)
        flat, start = fixed_point(self._upright(corners @ np.array([[cos, sin], [-sin, cos]]), x, z)), 0
        for count, is_metal in outlines:
            outline, colour = flat[start : start + count], metal if is_metal else RUBBER
            cv2.fillPoly(self.image, [outline], colour, cv2.LINE_AA, SUBPIXEL_BITS)
            start += count


@cache
def _rim(wheel: Wheel) -> tuple[Points, tuple[tuple[int, bool], ...]]:
    """A wheel in units of its radius: the corners of its outlines one after another, (N, 2), and for each outline its
    number of corners and whether it is metal; to be painted in this order."""
    edge, room = 0.74, 2 * np.pi / wheel.spokes
    outlines = [(_arc(), False), (edge * _arc(), True), ((edge - 0.07) * _arc(), wheel.plate)]
    for centre in np.arange(wheel.spokes) * room:
        if wheel.plate:
            middle = 0.53 * np.array([np.cos(centre), np.sin(centre)])
            outlines.append((middle + 0.105 * _arc(corners=12), False))
            continue
        half = wheel.width * room / 2
        for offset in (-0.2 * room, 0.2 * room) if wheel.paired else (0.0,):
            inner = centre + 0.4 * offset + np.array([-2.2, 2.2]) * half
            outer = centre + offset + wheel.twist + np.array([1.0, -1.0]) * half
            angles, radii = np.concatenate([inner, outer]), np.array([0.16, 0.16, edge - 0.04, edge - 0.04])
            outlines.append((np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None], True))
    outlines.append((0.17 * _arc(corners=12), True))
    return np.concatenate([o for o, _ in outlines]), tuple((len(o), metal) for o, metal in outlines)


def _arc(start: float = 0.0, stop: float = 2 * np.pi, corners: int = 30) -> Points:
    """Points on the unit circle, (corners, 2); a whole circle unless told otherwise."""
    whole = stop - start >= 2 * np.pi
    angles = np.linspace(start, stop, corners, endpoint=not whole)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
