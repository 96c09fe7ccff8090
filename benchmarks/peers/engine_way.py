"""The engine's side of a training comparison: a recipe, and the run that `engine train` starts with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from engine.events import EpochEnded, Event, Watcher
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.training.prepare import Prepared, prepare
from engine.training.run import train
from peers.task import EpochResult, Outcome, Report, Task, mark, processor_seconds


def recipe(task: Task) -> Recipe:
    """What a user would write to train this task; keys not named here keep the engine's defaults."""
    augment: dict[str, Any] = {
        "crop": {"kind": "random_resized", "scale": list(task.scale)},
        "flip": 0.5,
        "filter": "bilinear",
        "random_erasing": {"p": task.erase_p, "fill": "noise"},
        "mix": [{"mixup": task.mixup, "cutmix": task.cutmix, "p": task.mix_p}],
    }
    if task.magnitude:
        augment["policy"] = {"kind": "randaugment", "operations": 2, "magnitude": task.magnitude}
    else:
        augment["color"] = {"p": 1.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0}
    return parse_recipe(
        {
            "seed": task.seed,
            "output": task.output,
            "data": {
                "train": task.data,
                "cache": task.cache,
                "folds": {"count": task.folds, "run": [0], "seed": 0},
            },
            "decode": {"device": "cpu", "threads": task.workers},
            "augment": augment,
            "model": {"backbone": task.backbone, "pretrained": False, "weights": task.weights},
            "train": {
                "optimizer": "adamw",
                "weight_decay": task.weight_decay,
                "schedule": {"warmup_epochs": task.warmup_epochs, "min_lr_ratio": task.min_lr_ratio},
                "clip": task.clip,
                "label_smoothing": task.smoothing,
                "ema": task.ema,
                "precision": "fp32",
            },
            "stage": [{"size": task.size, "batch": task.batch, "epochs": task.epochs, "lr": task.lr}],
        }
    )


def run(task: Task, report: Report) -> Outcome:
    """Train and score. Indexing of the data is not counted: timm is handed folders that were made from it."""
    torch.set_num_threads(task.threads)
    prepared = prepare(recipe(task))
    diary = _Diary(report)
    began_s, worked_s = time.perf_counter(), processor_seconds()
    train(prepared, Ranks(0, 1, torch.device("cpu")), diary, lambda: False)
    total_s, cpu_s = time.perf_counter() - began_s, processor_seconds() - worked_s
    return Outcome(tuple(diary.epochs), total_s, cpu_s, *_marks(prepared))


class _Diary(Watcher):
    def __init__(self, report: Report) -> None:
        self.epochs: list[EpochResult] = []
        self._report = report

    def hear(self, event: Event) -> None:
        if not isinstance(event, EpochEnded):
            return
        record = event.record
        assert record.waited is not None  # unknown only in older logs
        self.epochs.append(
            EpochResult(
                images=record.images,
                train_s=record.train_seconds,
                waited_s=record.waited * record.train_seconds,
                valid_s=record.valid_seconds,
                train_loss=record.train_loss,
                log_loss=record.metrics["log_loss"],
                accuracy=record.metrics["accuracy"],
            )
        )
        self._report(self.epochs[-1])


def _marks(prepared: Prepared) -> tuple[str, str]:
    data = prepared.fold_data(0)
    where = prepared.samples.source.where
    return mark(map(where, data.train_rows_N.tolist())), mark(map(where, data.held_rows_N.tolist()))


def pretrain(data: str, backbone: str, size: int, epochs: int, folder: Path, threads: int) -> dict[str, torch.Tensor]:
    """Train `backbone` on all of `data` from random weights; its state dict under timm's names, without classifier."""
    from engine.store import checkpoint

    torch.set_num_threads(threads)
    settings = {
        "seed": 1,
        "output": str(folder / "models"),
        "data": {"train": data, "cache": str(folder / "cache"), "folds": {"count": 1}},
        "augment": {
            "crop": {"kind": "random_resized", "scale": [0.5, 1.0]},
            "color": {"p": 0.5, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05},
        },
        "model": {"backbone": backbone, "pretrained": False},
        "train": {"schedule": {"warmup_epochs": 1.0}, "label_smoothing": 0.05, "ema": 0.99},
        "stage": [{"size": size, "batch": 16, "epochs": epochs, "lr": 3e-3}],
    }
    train(prepare(parse_recipe(settings)), Ranks(0, 1, torch.device("cpu")), Watcher(), lambda: False)
    weights = checkpoint.load(folder / "models" / "0").weights
    prefix = "backbone."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
