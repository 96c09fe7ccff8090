"""The training step with each of the options for GPUs: rate, memory, the time that compiling takes, and the loss.

One made-up batch that is always ready, so that nothing but the step is measured. Every option is off in a recipe until
what stands here shows that it pays.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from engine.augment.mix import MixedLabels
from engine.bench.envelope import Row
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.system import GIB
from engine.training.learner import Learner
from gpu_parts.context import DEVICE, Context, host_seconds

CLASSES = 400
EAGER, COMPILED = {"train.compile": "off"}, {"train.compile": "on"}
# What is set, and at which of the recipe's stages: the first has its largest batch, the last its largest images.
OPTIONS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("eager", EAGER, 0),
    ("compiled", COMPILED, 0),
    ("eager", EAGER, -1),
)


def run(context: Context) -> Iterator[Row]:
    """A row an option; one that fails is said, and costs the others nothing."""
    for name, sets, at in OPTIONS:
        size, batch = context.stages[at]
        gc.collect()
        torch.cuda.empty_cache()
        row: Row = {"option": name, "size": size, "batch": batch, "sets": sets}
        try:
            yield row | measured(context, sets, size, batch)
        except Exception as error:
            yield row | {"ok": False, "failed": f"{type(error).__name__}: {error}"[:300]}


def measured(context: Context, sets: dict[str, Any], size: int, batch: int) -> Row:
    """Images a second of five windows, GiB at most, seconds until the first step was done, and the loss by then."""
    if context.rehearsed:
        sets = sets | {"train.compile": "off"}  # torch.compile does not see the double
    values = {
        "model": {"backbone": context.backbone, "pretrained": False},
        "stage": [{"size": size, "batch": batch, "epochs": 1, "lr": 1e-4}],
    }
    words = tuple(
        f"{key}={value if isinstance(value, (bool, int, float)) else repr(value)}" for key, value in sets.items()
    )
    recipe = parse_recipe(values, words, "the suite")
    stage = recipe.stage[0]
    torch.manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    learner = Learner(recipe.model, recipe.train, CLASSES, stage.size, Runtime.of(recipe.train, DEVICE))
    learner.begin_stage(stage)
    learner.begin_epoch(stage, 0)
    learner.set_rate(stage.lr)
    images_BCHW = torch.randn(batch, 3, size, size, device=DEVICE, dtype=learner.runtime.dtype)
    images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
    labels_B = torch.arange(batch).to(DEVICE) % CLASSES
    made_up = Batch(
        images_BCHW, MixedLabels(labels_B, labels_B.flip(0), torch.full((batch,), 0.7).to(DEVICE)), np.arange(batch)
    )
    began = time.perf_counter()
    loss = float(learner.take_step(made_up))
    first_s = time.perf_counter() - began
    for _ in range(context.few(4, 1)):
        learner.take_step(made_up)
    steps = context.few(10, 1)

    def some() -> None:
        for _ in range(steps):
            learner.take_step(made_up)

    seconds = [host_seconds(some) for _ in range(context.few(5))]
    return {
        "windows": [round(batch * steps / each, 1) for each in seconds],
        "device_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "first_step_s": round(first_s, 1),
        "loss": round(loss, 4),
    }
