"""Photos of a few shades and a recipe for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Shades = Callable[[Path, Mapping[str, int], str], Path]


@pytest.fixture(scope="session")
def shades() -> Shades:
    """Writes eight photos of each class, of the gray level given for it, and the recipe with {folder} filled in."""

    def write(folder: Path, levels: Mapping[str, int], recipe: str) -> Path:
        random = np.random.default_rng(0)
        for name, level in levels.items():
            (folder / "photos" / name).mkdir(parents=True)
            for i in range(8):
                pixels = np.clip(level + random.integers(-30, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.jpg")
        path = folder / "recipe.toml"
        path.write_text(recipe.format(folder=folder.as_posix()), "utf-8")
        return path

    return write
