"""Photos on disk, small and made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakePhoto = Callable[..., Path]


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
