"""Sixteen photos, dark and bright, and recipes over them whose runs take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes, eight JPEGs in each. Read only."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, level in (("어두운", 60), ("bright", 180)):
        (folder / name).mkdir()
        for i in range(8):
            pixels = np.clip(level + random.integers(-40, 40, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="session")
def recipe_in(photos: Path) -> Callable[..., Recipe]:
    """A recipe that writes into a folder: two folds of eight photos, one stage of two epochs of two steps; changed by
    `--set` texts."""

    def make(folder: Path, *sets: str) -> Recipe:
        base = {
            "seed": 3,
            "output": str(folder / "models"),
            "data": {"train": str(photos), "cache": str(folder / "cache"), "folds": {"count": 2}},
            "decode": {"threads": 1},
            "model": {"backbone": "test_convnext", "pretrained": False},
            "stage": [{"size": 32, "batch": 4, "epochs": 2, "lr": 3e-3}],
        }
        return parse_recipe(base, sets)

    return make


@pytest.fixture
def recipe(recipe_in: Callable[..., Recipe], tmp_path: Path) -> MakeRecipe:
    """`recipe_in` this test's folder."""
    return lambda *sets: recipe_in(tmp_path, *sets)


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """This process alone, on the CPU."""
    return Ranks(0, 1, torch.device("cpu"))
