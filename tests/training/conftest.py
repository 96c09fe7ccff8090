"""Small photos of three kinds of shapes, and runs over them that take a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from engine.events import (
    EpochEnded,
    EpochRecord,
    Event,
    FileSetAside,
    FoldBegan,
    HeldOutAnswered,
    ImagesDone,
    Notice,
    Watcher,
)
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.training.prepare import prepare
from engine.training.run import Result, train

COLORS = {"고리": (220, 40, 40), "네모": (40, 200, 60), "세모": (50, 60, 220)}
PER_CLASS = 16
ALONE = Ranks(0, 1, torch.device("cpu"))


def draw_shape(kind: int, number: int) -> Image.Image:
    """A ring, a square or a triangle, mostly in the colour of its class."""
    random = np.random.default_rng((kind, number))
    image = Image.new("RGB", (48, 40), tuple(random.integers(60, 200, 3).tolist()))
    pen = ImageDraw.Draw(image)
    x, y = random.integers(2, 20, 2).tolist()
    color = tuple(np.clip(np.array(list(COLORS.values())[kind]) + random.integers(-30, 30, 3), 0, 255).tolist())
    if kind == 2:
        pen.polygon([x, y + 18, x + 20, y + 18, x + 10, y], fill=color)
    else:
        (pen.ellipse, pen.rectangle)[kind]([x, y, x + 20, y + 18], fill=color)
    return image


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sub-folder for each of three classes, 16 JPEGs in each. Read only."""
    folder = tmp_path_factory.mktemp("shapes")
    for kind, name in enumerate(COLORS):
        (folder / name).mkdir()
        for i in range(PER_CLASS):
            draw_shape(kind, i).save(folder / name / f"{name}_{i:02d}.jpg", quality=92)
    return folder


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def recipe(shapes: Path, tmp_path: Path) -> MakeRecipe:
    """Two folds, the first of them run, one stage of two epochs of four steps, nothing fitted afterwards; the keywords
    change that."""

    def make(**changes: Any) -> Recipe:
        base = {
            "seed": 3,
            "output": str(tmp_path / "models"),
            "data": {"train": str(shapes), "cache": str(tmp_path / "cache"), "folds": {"count": 2, "run": [0]}},
            "decode": {"threads": 1},
            "model": {"backbone": "test_convnext", "pretrained": False},
            "stage": [stage()],
            "ensemble": {"calibrate": "off"},
        }
        return parse_recipe(merge(base, changes))

    return make


def stage(**changes: Any) -> dict[str, Any]:
    """One stage of two epochs of three steps."""
    return {"size": 32, "batch": 8, "epochs": 2, "lr": 3e-3} | changes


class Diary(Watcher):
    """Writes down what a run tells."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.notices: list[str] = []
        self.bad_files: list[str] = []
        self.images = 0
        self.begun: list[tuple[int, int, int, int]] = []
        self.answered: list[tuple[int, int, int]] = []

    def hear(self, event: Event) -> None:
        match event:
            case FoldBegan(fold=fold, images=images, done=done, epoch=epoch):
                self.begun.append((fold, images, done, epoch))
            case ImagesDone(count=count):
                self.images += count
            case HeldOutAnswered(fold=fold, done=done, images=images):
                self.answered.append((fold, done, images))
            case EpochEnded(record=record):
                self.records.append(record)
            case FileSetAside(entry=entry):
                self.bad_files.append(str(entry))
            case Notice(message=message):
                self.notices.append(message)


Run = Callable[..., tuple[Result, Diary]]


@pytest.fixture
def run() -> Run:
    """Prepare and train a recipe; the result, and what was told on the way."""

    def run(recipe: Recipe, stop: Callable[[], bool] = lambda: False, **options: Any) -> tuple[Result, Diary]:
        diary = Diary()
        return train(prepare(recipe), ALONE, diary, stop, **options), diary

    return run


@pytest.fixture
def make_stage() -> Callable[..., dict[str, Any]]:
    """`stage`."""
    return stage
