"""Fold models that were never trained but answer decidedly, and photos whose halves differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import checkpoint
from engine.augment.contract import Contract
from engine.checkpoint import Checkpoint
from engine.model.build import build_model
from engine.recipe.load import parse_recipe

CLASSES = ("가방", "모자", "신발")


def draw(number: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A uint8 RGB picture, another for each number, without any symmetry."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_fold(
    seed: int,
    classes: Sequence[str] = CLASSES,
    size: int = 32,
    counts: Sequence[int] = (6, 3, 1),
    data: str = "",
    precision: str = "auto",
) -> Checkpoint:
    """A fold model with random weights; the head is loud, so that answers differ between images."""
    recipe = parse_recipe(
        {
            "train": {"precision": precision},
            "model": {"backbone": "test_convnext", "pretrained": True, "weights": "long/gone.safetensors"},
            "stage": [{"size": size, "batch": 4, "epochs": 1, "lr": 1e-3}],
            "data": {"test": data},
        }
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        architecture = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
        model = build_model(architecture, len(classes), (size, size))
        torch.nn.init.normal_(model.head.linear.weight, std=1.0)
    contract = Contract.of(recipe.augment, (size, size), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    return Checkpoint(
        weights=model.state_dict(),
        recipe=recipe.model_dump(mode="json"),
        contract=contract.to_dict(),
        classes=tuple(classes),
        class_counts=tuple(counts),
        data_fingerprint="",
        metrics={"log_loss": 1.0},
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten JPEGs, some upright and some not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.fromarray(draw(i, 40 + i, 56 - i)).save(folder / f"TEST_{i:05d}.jpg", quality=95)
    return folder


@pytest.fixture
def models(tmp_path: Path, photos: Path) -> Path:
    """Two folds that agree about nothing, not even the order of their classes."""
    folder = tmp_path / "models"
    checkpoint.save(folder / "0", make_fold(0, data=str(photos)))
    checkpoint.save(folder / "1", make_fold(1, CLASSES[::-1], size=40, counts=(1, 3, 6), data=str(photos)))
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("prediction asked timm's hub for weights")

    monkeypatch.setattr("engine.model.build._from_hub", refuse)


FoldMaker = Callable[..., Checkpoint]


@pytest.fixture
def fold() -> FoldMaker:
    """`make_fold`, for tests that need a model of their own."""
    return make_fold


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """`draw`."""
    return draw
