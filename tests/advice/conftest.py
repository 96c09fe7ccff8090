"""Small folders and tables, and a machine that they are suggested a recipe for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.advice import network
from engine.advice.machine import Machine
from engine.system import GIB

CPU = Machine("", 16 * GIB, 2, False)

Photos = Callable[..., list[str]]
Table = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory in proportion to images, at once: how it is estimated is tried in tests/training/test_memory.py. And
    weights that are not here."""
    monkeypatch.setattr(network, "_step_bytes", lambda backbone, classes, side, batch, bf16: batch * 2**25)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def photos() -> Photos:
    """Write so many photos into a folder, all unlike each other; their names without the suffix."""
    random = np.random.default_rng(0)

    def make(folder: Path, number: int, size: tuple[int, int] = (24, 32), prefix: str = "p") -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{prefix}{i}" for i in range(number)]
        for name in names:
            pixels_HW3 = random.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels_HW3).save(folder / f"{name}.jpg")
        return names

    return make


@pytest.fixture
def table() -> Table:
    """Write a .csv table of columns."""

    def make(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        return path

    return make
