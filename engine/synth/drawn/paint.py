"""Paint for drawn data: antialiased shapes, gradients, and what turns a clean drawing into something like a photograph.

OpenCV rather than Pillow: its polygons are antialiased, have corners at sixteenths of a pixel and cost little, and a
car is made of some two hundred of them. All images here are uint8 BGR of shape (height, width, 3), drawn on in
place. Nothing here draws random numbers of its own except the fixed film grain, so equal inputs give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]  # (N, 2) pixels or (N, 3) metres
Colour = tuple[float, float, float]  # blue, green, red in 0..255
Rng = np.random.Generator

SUBPIXEL_BITS = 4
TEXT_UNITS = 21  # the height of a capital at OpenCV's font scale 1, in pixels
GRAIN_SIDE = 1500  # pixels, a multiple of 3; larger than any drawn image, so that a crop of the tile covers it


def fixed_point(points_N2: Points) -> NDArray[np.int32]:
    """Pixel coordinates as OpenCV's fixed-point integers."""
    return np.rint(points_N2 * (1 << SUBPIXEL_BITS)).astype(np.int32)


def fill(image: Image, points_N2: Points, colour: Colour) -> None:
    """Fill one polygon of any shape with a flat colour."""
    cv2.fillPoly(image, [fixed_point(points_N2)], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def stroke(image: Image, points_N2: Points, colour: Colour, width: float, closed: bool = False) -> None:
    """Draw a polyline `width` pixels wide; less than one pixel is drawn as one."""
    cv2.polylines(image, [fixed_point(points_N2)], closed, colour, max(1, round(width)), cv2.LINE_AA, SUBPIXEL_BITS)


def mix(a: Colour, b: Colour, share_b: float) -> Colour:
    """The colour between two others."""
    return tuple(float(x + (y - x) * share_b) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """The corners of an upright rectangle, (4, 2), clockwise from the upper left one (where y points up: against the
    clock from the lower left one)."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def gradient(image: Image, rows: slice, top: Colour, bottom: Colour) -> None:
    """Fill whole rows with a vertical gradient."""
    part = image[rows]
    if part.size:
        ramp = np.clip(np.linspace(top, bottom, part.shape[0]), 0, 255).astype(np.uint8)[:, None, :]
        # a nearest-neighbour resize copies a column sideways faster than broadcasting does
        cv2.resize(ramp, (part.shape[1], part.shape[0]), dst=part, interpolation=cv2.INTER_NEAREST)


def round_off(points: Points, times: int = 2, closed: bool = False) -> Points:
    """Chaikin's corner cutting: a smooth curve from a few control points; an open line keeps its two ends."""
    for _ in range(times):
        following = np.roll(points, -1, axis=0) if closed else points[1:]
        before = points if closed else points[:-1]
        cut = np.stack([0.75 * before + 0.25 * following, 0.25 * before + 0.75 * following], axis=1)
        cut = cut.reshape(-1, points.shape[1])
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


def stamp(image: Image, texture: Image, corners_42: Points, opacity: float = 1.0) -> None:
    """Lay `texture` over the quadrilateral given as upper left, upper right, lower right, lower left pixels."""
    height, width = image.shape[:2]
    x0, y0 = np.floor(corners_42.min(axis=0)).astype(int) - 1
    x1, y1 = np.ceil(corners_42.max(axis=0)).astype(int) + 2
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if x1 <= x0 or y1 <= y0:
        return
    texture_height, texture_width = texture.shape[:2]
    # Shrink first: a warp alone would skip most of the texture's pixels and alias.
    longest = max(np.linalg.norm(corners_42 - np.roll(corners_42, 1, axis=0), axis=1))
    if longest * 1.5 < texture_width:
        shrink = max(longest / texture_width, 8 / texture_width)
        texture = cv2.resize(texture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        texture_height, texture_width = texture.shape[:2]
    source = np.array([[0, 0], [texture_width, 0], [texture_width, texture_height], [0, texture_height]], np.float32)
    matrix = cv2.getPerspectiveTransform(source - 0.5, (corners_42 - [x0, y0]).astype(np.float32))
    warped = cv2.warpPerspective(
        texture, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    cover = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fill(cover, corners_42 - [x0, y0], (255.0 * opacity, 0, 0))
    blend(image[y0:y1, x0:x1], warped, cover)


def blend(under: Image, over: Any, cover_HW: Image) -> None:
    """Mix `over` into `under` in place where `cover_HW` (0..255) says so."""
    cover_HW3 = cv2.merge([cover_HW] * 3)
    kept = cv2.multiply(under, cv2.bitwise_not(cover_HW3), scale=1 / 255)
    added = cv2.multiply(over, cover_HW3, scale=1 / 255)
    cv2.add(kept, added, dst=under)


def shade(image: Image, points_N2: Points, darkness: float, softness: float) -> None:
    """Darken a soft-edged polygon: a cast shadow. `softness` is the blur's sigma in pixels."""
    height, width = image.shape[:2]
    margin = 3 * softness + 2
    x0, y0 = np.maximum(np.floor(points_N2.min(axis=0) - margin), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points_N2.max(axis=0) + margin), [width, height]).astype(int)
    if x1 - x0 < 4 or y1 - y0 < 4:
        return
    step = 4  # shadows are soft: a quarter of the resolution is enough, with a sixteenth of the pixels
    small = np.full((-(-(y1 - y0) // step), -(-(x1 - x0) // step)), 255, np.uint8)
    fill(small, (points_N2 - [x0, y0]) / step, (255 * (1 - darkness), 0, 0))
    small = cv2.GaussianBlur(small, (0, 0), max(softness / step, 0.3))
    light = cv2.resize(small, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    part = image[y0:y1, x0:x1]
    cv2.multiply(part, cv2.merge([light] * 3), dst=part, scale=1 / 255)


def write(image: Image, text: str, place: tuple[float, float], height: float, colour: Colour, bold: int = 1) -> None:
    """Write Latin text with its lower left corner at `place`; capital letters are about `height` pixels tall."""
    origin = (round(place[0]), round(place[1]))
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, height / TEXT_UNITS, colour, bold, cv2.LINE_AA)


def text_width(text: str, height: float, bold: int = 1) -> float:
    """How many pixels wide `write` makes a text."""
    return float(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, height / TEXT_UNITS, bold)[0][0])


@cache
def film_grain() -> Image:
    """Gaussian noise around 128 with deviation 30, the same in every process; one tile repeated."""
    side = GRAIN_SIDE // 3
    rng = np.random.default_rng(20_260_101)
    shared = rng.standard_normal((side, side, 1), dtype=np.float32)
    apart = rng.standard_normal((side, side, 3), dtype=np.float32)
    tile = np.clip(128 + 30 * (0.7 * shared + 0.7 * apart), 0, 255).astype(np.uint8)
    return np.tile(tile, (3, 3, 1))


@dataclass(frozen=True)
class Exposure:
    """What the camera and the light do to a drawing."""

    gain: float  # overall brightness, 1 is neutral
    tint: Colour  # per-channel factor around 1
    slope: tuple[float, float]  # how much brighter the right and the lower edge are than the middle
    vignette: float  # darkening of the corners, 0..1
    noise: float  # standard deviation of the grain in grey levels
    grain_place: tuple[int, int]  # which part of the grain tile lies on this image
    blur: float  # sigma in pixels, 0 for none
    quality: int  # of the JPEG

    @staticmethod
    def draw(rng: Rng) -> Exposure:
        """A random exposure; depends on the generator alone."""
        warmth = rng.normal(0, 0.05)
        return Exposure(
            gain=float(np.clip(rng.normal(1.05, 0.13), 0.65, 1.4)),
            tint=(1 - warmth, 1.0, 1 + warmth),
            slope=(float(rng.normal(0, 0.11)), float(rng.normal(0, 0.08))),
            vignette=float(rng.uniform(0, 0.25)),
            noise=float(rng.gamma(2.0, 2.2)),
            grain_place=(int(rng.integers(GRAIN_SIDE)), int(rng.integers(GRAIN_SIDE))),
            blur=float(rng.uniform(0.5, 1.4)) if rng.random() < 0.3 else 0.0,
            quality=int(rng.integers(70, 96)),
        )


def expose(image: Image, exposure: Exposure) -> Image:
    """Turn a drawing into a photograph, in place: light falling off, colour cast, blur and grain. Returns the image."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1:1:9j, -1:1:9j]
    light = exposure.gain * (
        1 + exposure.slope[0] * x + exposure.slope[1] * y - exposure.vignette * (x * x + y * y) / 2
    )
    small = np.clip(128 * exposure.gain * light[..., None] * np.array(exposure.tint), 0, 255).astype(np.uint8)
    gains = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(image, gains, dst=image, scale=1 / 128)
    if exposure.blur:
        cv2.GaussianBlur(image, (0, 0), exposure.blur, dst=image)
    top = exposure.grain_place[0] % (GRAIN_SIDE - height)
    left = exposure.grain_place[1] % (GRAIN_SIDE - width)
    grain = film_grain()[top : top + height, left : left + width]
    share = exposure.noise / 30
    cv2.addWeighted(image, 1.0, grain, share, -128 * share, dst=image)
    return image


def encode_jpeg(image: Image, quality: int) -> bytes:
    """The image as JPEG bytes."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:  # cannot happen for a uint8 BGR array; a silent empty file would be worse than stopping
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape}")
    return data.tobytes()
