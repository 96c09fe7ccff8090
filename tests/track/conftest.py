"""A run's folder as training leaves it, written by hand: what trackers read."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.events import EpochRecord, Event, Notice, Watcher
from engine.recipe.load import dump_recipe, parse_recipe
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.track.tracker import TrackedFold, TrackedRun

NAME = "고양이 A"


def record(fold: int, epoch: int, **changes: Any) -> EpochRecord:
    """An epoch that gets better with its number."""
    base = EpochRecord(
        fold=fold,
        stage=epoch // 2,
        epoch=epoch,
        size=(32, 48),
        lr=1e-3 / (epoch + 1),
        train_loss=2.0 - 0.1 * epoch,
        metrics={"log_loss": 1.5 - 0.1 * epoch + fold, "accuracy": 0.5 + 0.01 * epoch, "macro_f1": 0.4 + 0.01 * epoch},
        best=True,
        images=100,
        train_seconds=4.0,
        valid_seconds=1.0,
    )
    return dataclasses.replace(base, **changes)


class Models:
    """A folder of models and what training writes into it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        base: dict[str, Any] = {
            "name": NAME,
            "output": str(folder),
            "data": {"folds": {"count": 3, "run": [0, 1]}},
            "stage": [
                {"size": 32, "batch": 8, "epochs": 2, "lr": 1e-3},
                {"size": 48, "batch": 8, "epochs": 1, "lr": 1e-4},
            ],
        }
        self.recipe: Recipe = parse_recipe(base | changes)
        about = {"recipe": self.recipe.model_dump(mode="json"), "data_fingerprint": "0123456789abcdef"}
        (folder / "run.json").write_text(json.dumps(about), "utf-8")

    def log(self, *records: EpochRecord, at: float | None = None) -> None:
        path = self.folder / "log.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(dataclasses.asdict(r) | {"images_per_second": 25.0}) + "\n" for r in records)
        if at is not None:
            os.utime(path, (at, at))

    def scores(self, **metrics: float) -> None:
        scores = {"baseline_log_loss": 2.3, "out_of_fold": metrics}
        (self.folder / "scores.json").write_text(json.dumps(scores), "utf-8")

    def finish(self, log_loss: float = 0.9) -> None:
        """All epochs of both folds, and the scores."""
        self.log(*(record(fold, epoch) for fold in (0, 1) for epoch in range(3)))
        self.scores(log_loss=log_loss, accuracy=0.7, macro_f1=0.6)

    def run(self, id_: str = "run1") -> TrackedRun:
        values = self.recipe.model_dump(mode="json", exclude={"track"})
        folder = RunFolder(self.folder)
        folds = tuple(TrackedFold(folder, number) for number in (0, 1))
        return TrackedRun(folder, id_, self.recipe.name, values, folds, dump_recipe(self.recipe))


MakeModels = Callable[..., Models]


@pytest.fixture
def models(tmp_path: Path) -> MakeModels:
    def make(folder: str = "models", /, **changes: Any) -> Models:
        return Models(tmp_path / folder, **changes)

    return make


@pytest.fixture
def make_record() -> Callable[..., EpochRecord]:
    """`record`."""
    return record


class Diary(Watcher):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.message)


@pytest.fixture
def diary() -> Diary:
    """Writes down what a watcher hears."""
    return Diary()


@pytest.fixture(autouse=True)
def no_services(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reaches a tracker of whoever runs it."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", "/nowhere")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
