"""The bench's own photos, so that a figure means the same on every machine.

How long a JPEG takes to decode depends on its pixels and on its bytes. Flat drawings compress to far fewer bytes than
photos and flatter a decoder, so these are made to weigh what phone and catalogue photos weigh: noise with a photo's
1/f spectrum (Field 1987) and a few hard-edged shapes, 400 x 533 pixels either way up, 0.1 to 0.2 bytes a pixel on
average (`tests/bench/test_photos.py`).

What a loader can do depends on the photos' sizes, too: of a large one it may decode a part, or at a reduction. So there
is a second set, `many_sizes`, whose sizes are spread as those of ImageNet's photos are: most about 500 pixels long, one
in nine over 1,000, from 200 to 3,000.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engine.files import atomic_write
from engine.system import cache_folder

COUNT = 256
SHORT, LONG = 400, 533  # pixels
SHORTEST, LONGEST = 200, 3000  # long side of `many_sizes`, in pixels
_TYPICAL, _SPREAD = 500, 0.55  # of its long sides: median in pixels, and standard deviation of the logarithm
_SQUARER = (1.0, 1.25, 4 / 3, 4 / 3, 4 / 3, 1.5, 1.5, 16 / 9)  # long by short side, one as likely as another
QUALITY = 75
_VERSION = 1  # raise it when the drawing changes: old caches are then left alone


def photos(folder: Path | None = None, count: int = COUNT) -> list[str]:
    """Paths of `count` JPEGs, drawn on the first call and kept in `folder` (default: the user's cache folder).

    The same bytes everywhere for the same library versions; photo i does not depend on `count`.
    """
    return _kept(folder or cache_folder() / "bench" / f"photos-v{_VERSION}", count, draw)


def many_sizes(folder: Path | None = None, count: int = COUNT) -> list[str]:
    """As `photos`, of sizes from SHORTEST to LONGEST."""
    return _kept(folder or cache_folder() / "bench" / f"sizes-v{_VERSION}", count, lambda i: draw(i, size_of(i)))


def size_of(number: int) -> tuple[int, int]:
    """(height, width) of photo `number` of `many_sizes`. Three of four lie, as ImageNet's do."""
    random = np.random.default_rng([_VERSION, number, 1])
    long = round(float(np.clip(_TYPICAL * np.exp(_SPREAD * random.normal()), SHORTEST, LONGEST)))
    short = round(long / float(random.choice(_SQUARER)))
    return (long, short) if random.random() < 0.25 else (short, long)


def draw(number: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Photo `number`: uint8 RGB of this (height, width); by default (533, 400) or, for every fourth, (400, 533)."""
    random = np.random.default_rng([_VERSION, number])
    height, width = size or ((SHORT, LONG) if number % 4 == 3 else (LONG, SHORT))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    roll_off = random.uniform(1.2, 1.7)
    # Three fields: luma, and two weaker colour differences; amplitude falls with 1 / frequency as in photos.
    noise = random.normal(size=(2, 3, *frequency.shape))
    fields = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency**roll_off, s=(height, width))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    luma, red, blue = fields * np.array([38, 14, 14])[:, None, None]
    base = random.uniform(70, 185, 3)
    pixels = np.stack([luma + red, luma - (red + blue) / 2, luma + blue], axis=2) + base
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    paint = ImageDraw.Draw(image, "RGBA")
    for _ in range(random.integers(3, 9)):
        x, y = random.uniform(0, (width, height))
        w, h = random.uniform(20, 220, 2)
        color = (*random.integers(0, 256, 3).tolist(), int(random.integers(60, 160)))
        shape = paint.ellipse if random.random() < 0.5 else paint.rectangle
        shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=color)
    return np.asarray(image)


def _kept(folder: Path, count: int, drawn: Callable[[int], NDArray[np.uint8]]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    missing = [(i, path) for i, path in enumerate(paths) if not path.is_file()]

    def write(job: tuple[int, Path]) -> None:
        with atomic_write(job[1]) as temporary:
            Image.fromarray(drawn(job[0])).save(temporary, "JPEG", quality=QUALITY)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, missing))
    return [str(path) for path in paths]
