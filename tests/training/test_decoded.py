"""A run that keeps its photos decoded: it learns the same whatever fits, over its folds and after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import Interrupted
from engine.loader import decoded_cache
from engine.loader.source import Files
from engine.quarantine import Fault
from engine.recipe.sections import Recipe

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are read of files, in order."""
    rows: list[int] = []

    def noted(self: Files, asked: np.ndarray) -> list[bytes | Fault]:
        rows.extend(asked.tolist())
        return plain(self, asked)

    plain = Files.read
    monkeypatch.setattr(Files, "read", noted)
    return rows


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def test_a_run_learns_the_same_whatever_fits(
    recipe: MakeRecipe,
    run: Run,
    make_stage: Stage,
    tmp_path: Path,
    read: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two folds of two stages: once a photo is there, it is read only to be scored and to answer in the end."""
    counts, learnt = [], []
    stages = [make_stage(), make_stage(size=(40, 32), epochs=1)]
    ways: tuple[tuple[int, dict[str, Any]], ...] = (
        (10_000, {"cache": "host"}),  # bytes: one photo
        (10_000_000, {"cache": "host"}),
        (10_000_000, {"cache": "disk", "cache_dir": str(tmp_path / "kept")}),
    )
    for number, (limit, decode) in enumerate(ways):
        monkeypatch.setattr(decoded_cache, "kept_bytes", lambda *_, limit=limit: limit)
        output = tmp_path / str(number)
        read.clear()
        _, diary = run(recipe(output=str(output), decode=decode, stage=stages, data={"folds": {"run": [0, 1]}}))
        counts.append(len(read))
        learnt.append(weights(output))
        assert sum("photos that stay decoded" in one for one in diary.notices) >= 2
    assert learnt[0] == learnt[1] == learnt[2]
    # Each of the 48 photos: to train, to score in one of two stages each, to answer out of fold.
    assert counts[1] == counts[2] <= 4 * 48 < counts[0]
    assert not [*(tmp_path / "kept").iterdir()]


def test_an_interrupted_run_goes_on_with_what_is_on_disk(
    recipe: MakeRecipe, run: Run, tmp_path: Path, read: list[int]
) -> None:
    def made(name: str, cache: str) -> Recipe:
        folder = {"cache_dir": str(tmp_path / "kept")} if cache == "disk" else {}
        return recipe(output=str(tmp_path / name), decode={"cache": cache, **folder})

    run(made("whole", "host"))
    asked = iter([False] * 4 + [True] * 9)
    with pytest.raises(Interrupted):
        run(made("pieces", "disk"), stop=lambda: next(asked))
    assert [*(tmp_path / "kept").iterdir()]
    read.clear()
    run(made("pieces", "disk"))
    assert weights(tmp_path / "pieces") == weights(tmp_path / "whole")
    assert len(read) < 2 * 24 + 24  # scored and answered; what is trained on is there
