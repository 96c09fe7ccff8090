"""Folders of photos, and of fold models that were never trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    """Ten JPEGs, some upright and some not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        Image.fromarray(picture(i, 40 + i, 56 - i)).save(folder / f"TEST_{i:05d}.jpg", quality=95)
    return folder


@pytest.fixture
def models(tmp_path: Path, photos: Path, fold: Callable[..., Checkpoint]) -> Path:
    """Two folds that agree about nothing, not even the order of their classes."""
    folder = tmp_path / "models"
    checkpoint.save(folder / "0", fold(0, data=str(photos)))
    checkpoint.save(folder / "1", fold(1, ("신발", "모자", "가방"), size=40, counts=(1, 3, 6), data=str(photos)))
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("prediction asked timm's hub for weights")

    monkeypatch.setattr("engine.model.build._from_hub", refuse)
