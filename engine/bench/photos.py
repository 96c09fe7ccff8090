"""The bench's own photos, so that a figure means the same on every machine.

How long a JPEG takes to decode depends on its pixels and on its bytes. Flat drawings compress to far fewer bytes than
photos and flatter a decoder, so these are made to weigh what phone and catalogue photos weigh: noise with a photo's
1/f spectrum (Field 1987) and a few hard-edged shapes, 400 x 533 pixels either way up, 0.1 to 0.2 bytes a pixel on
average (`tests/bench/test_photos.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engine.files import atomic_write
from engine.system import cache_folder

COUNT = 256
SHORT, LONG = 400, 533  # pixels
QUALITY = 75
_VERSION = 1  # raise it when the drawing changes: old caches are then left alone


def photos(folder: Path | None = None, count: int = COUNT) -> list[str]:
    """Paths of `count` JPEGs, drawn on the first call and kept in `folder` (default: the user's cache folder).

    The same bytes everywhere for the same library versions; photo i does not depend on `count`.
    """
    folder = folder or cache_folder() / "bench" / f"photos-v{_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    missing = [(i, path) for i, path in enumerate(paths) if not path.is_file()]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: _write(*job), missing))
    return [str(path) for path in paths]


def draw(number: int) -> NDArray[np.uint8]:
    """Photo `number`: uint8 RGB, (533, 400, 3) or, for every fourth, (400, 533, 3)."""
    random = np.random.default_rng([_VERSION, number])
    height, width = (SHORT, LONG) if number % 4 == 3 else (LONG, SHORT)
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


def _write(number: int, path: Path) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(draw(number)).save(temporary, "JPEG", quality=QUALITY)
