"""Photos on disk, small and made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePhoto = Callable[..., Path]
MakeScene = Callable[..., Image.Image]


@pytest.fixture
def photo(tmp_path: Path) -> MakePhoto:
    """Write an image of distinct content below tmp_path; the suffix chooses the format."""
    made = 0

    def make(name: str, height: int = 12, width: int = 20, orientation: int | None = None, kind: str = "") -> Path:
        nonlocal made
        made += 1
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(made).integers(0, 256, (height, width, 3), dtype=np.uint8)
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, format=kind or None, exif=exif)
        return path

    return make


@pytest.fixture
def scene() -> MakeScene:
    """A picture with large and small shapes, another for each number, that survives being saved as a JPEG."""

    def make(number: int, height: int = 120, width: int = 160) -> Image.Image:
        random = np.random.default_rng(number)
        layers = [
            Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for side in (3, 7, 16)
        ]
        mixed = np.mean([np.asarray(layer, dtype=np.float32) for layer in layers], axis=0)
        return Image.fromarray(mixed.astype(np.uint8))

    return make
