"""Photos to prove an export by: made so that what goes wrong in deployments shows in them.

Each is there for something: one of exactly the size that networks are shown needs no resize, so where it alone is
answered rightly the resize is at fault; a PNG has no rounding in its decoder; some lie on their side and are turned by
EXIF; others are far from square. None is symmetric or gray.

They are made of the run's own training photos, made small, where these are at hand and may travel with the file: of
drawn ones a model is often too sure to be moved by anything. Which of many: those of which the model is least sure.
Into a part of each a fine grating is drawn, because a resize without antialiasing makes other patterns of it, and
photos that were made small have nothing as fine. JPEGs keep colours at full size: how these are made large again is
each decoder's own affair, and would hide smaller faults.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.errors import DataError
from engine.pictures import RGB, WHITE, read_pixels
from engine.quarantine import Fault, read_file
from engine.recipe.sections import DataSection

Pixels = NDArray[np.uint8]
Answer = Callable[[Sequence[Pixels]], NDArray[np.floating]]
"""Upright pixels (H, W, 3) to probabilities (N, C)."""

CANDIDATES = 16
_LONGEST = 640  # pixels a side: a proof travels with its file
_QUALITY = 95
_WAVES = ((2.3, 0.4), (2.9, 1.2), (3.7, 2.2))  # of gratings: period in pixels and direction
_SEED = 11


@dataclasses.dataclass(frozen=True)
class Made:
    """A photo of a proof: its file's name and content, and what is particular to it."""

    name: str
    content: bytes
    what: str


@dataclasses.dataclass(frozen=True)
class _Kind:
    """times: the photo's sides, as multiples of the contract's. orientation: EXIF's."""

    name: str
    what: str
    times: tuple[float, float]
    orientation: int = 1


KINDS = (
    _Kind("1_exact.png", "of the size that is shown: no resize, no lossy decoder", (1.0, 1.0)),
    _Kind("2_large.png", "to be made smaller: no lossy decoder", (2.3, 2.6)),
    _Kind("3_wide.jpg", "wide", (1.7, 2.9)),
    _Kind("4_tall.jpg", "tall", (2.8, 1.6)),
    _Kind("5_lying.jpg", "lies on its side: turned by EXIF (6)", (2.4, 1.8), 6),
    _Kind("6_upside_down.jpg", "upside down: turned by EXIF (3)", (1.9, 2.5), 3),
    _Kind("7_small.jpg", "to be made larger", (0.7, 0.8)),
)


def make(size: tuple[int, int], sources: Sequence[Pixels], answer: Answer) -> list[Made]:
    """A photo of each of `KINDS` for networks that are shown images of `size` (height, width), out of `sources`, those
    first of which `answer` is least sure. Raises ValueError for no sources."""
    if not sources:
        raise ValueError("no photos to make a proof of")
    p_SC = np.asarray(answer([_shaped(source, KINDS[1], size) for source in sources]), dtype=np.float64)
    order = np.argsort((p_SC * np.log(p_SC.clip(1e-12))).sum(1), kind="stable").tolist()
    made = []
    for number, kind in enumerate(KINDS):
        source = sources[order[number % len(order)]]
        made.append(Made(kind.name, _encoded(_shaped(source, kind, size), kind), kind.what))
    return made


def photos_of(section: DataSection, background: RGB = WHITE) -> list[Pixels]:
    """Upright pixels of some of a recipe's training photos, spread over all of them; [] where they are not at hand.
    background: over which transparent ones lie."""
    from engine.data.sources.listing import list_samples

    try:
        paths = [str(path) for path in list_samples(section.train, section).columns["path"]]
    except (DataError, OSError):
        return []
    found = []
    for place in np.random.default_rng(_SEED).permutation(len(paths))[: 2 * CANDIDATES].tolist():
        content = read_file(paths[place])
        pixels = content if isinstance(content, Fault) else read_pixels(content, background)
        if not isinstance(pixels, Fault) and _is_telling(pixels):
            found.append(pixels)
        if len(found) == CANDIDATES:
            break
    return found


def drawn() -> list[Pixels]:
    """Pictures without symmetry, in strong colours: for whoever has no photos."""
    return [_draw(number) for number in range(CANDIDATES)]


def _draw(number: int) -> Pixels:
    random = np.random.default_rng((_SEED, number))
    image = Image.new("RGB", tuple(random.integers(320, 640, 2).tolist()))
    for side in (5, 9, 40):  # large shapes, small ones upon them, and texture
        coarse = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
        layer = coarse.resize(image.size, Image.Resampling.BICUBIC)
        image = layer if side == 5 else Image.blend(image, layer, 0.3)
    return np.asarray(image)


def _is_telling(pixels_HW3: Pixels) -> bool:
    """Large enough, and coloured enough that red taken for blue shows."""
    height, width = pixels_HW3.shape[:2]
    if min(height, width) < 64:
        return False
    small = np.asarray(Image.fromarray(pixels_HW3).resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    return bool(np.abs(small[:, :, 0] - small[:, :, 2]).mean() > 8 and np.abs(small - small[:, ::-1]).mean() > 8)


def _shaped(source_HW3: Pixels, kind: _Kind, size: tuple[int, int]) -> Pixels:
    """The middle of a photo at the kind's aspect, upright, in the kind's size."""
    height, width = _size(kind, size)
    image = ImageOps.fit(Image.fromarray(source_HW3), (width, height), Image.Resampling.LANCZOS)
    return _with_gratings(np.asarray(image))


def _with_gratings(pixels_HW3: Pixels) -> Pixels:
    """Gratings of three colours in the lower right part."""
    made_HW3 = pixels_HW3.astype(np.float64)
    height, width = pixels_HW3.shape[:2]
    y_HW, x_HW = np.mgrid[:height, :width]
    part_HW = (y_HW > 0.35 * height) & (x_HW > 0.45 * width)
    for channel, (period, angle) in enumerate(_WAVES):
        wave_HW = np.sin((x_HW * np.cos(angle) + y_HW * np.sin(angle)) * 2 * np.pi / period)
        made_HW3[:, :, channel] += np.where(part_HW, 70 * wave_HW, 0)
    return np.asarray(made_HW3.clip(0, 255).astype(np.uint8))


def _size(kind: _Kind, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the photo, upright."""
    if kind.times == (1.0, 1.0):
        return size
    height, width = (side * times for side, times in zip(size, kind.times, strict=True))
    share = min(1.0, _LONGEST / max(height, width))
    # Not below what is shown, where the photo is there to be made smaller.
    share = (
        max(share, *(1.25 * side / own for side, own in zip(size, (height, width), strict=True)))
        if min(kind.times) > 1
        else share
    )
    return max(8, round(height * share)), max(8, round(width * share))


_TURNED_BACK = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}  # EXIF turns by 180, and clockwise by 90


def _encoded(upright_HW3: Pixels, kind: _Kind) -> bytes:
    image, out = Image.fromarray(upright_HW3), io.BytesIO()
    if kind.name.endswith(".png"):
        image.save(out, "PNG", optimize=True)
        return out.getvalue()
    exif = Image.Exif()
    if kind.orientation != 1:
        image = image.transpose(_TURNED_BACK[kind.orientation])
        exif[0x0112] = kind.orientation
    image.save(out, "JPEG", quality=_QUALITY, subsampling=0, exif=exif)
    return out.getvalue()
