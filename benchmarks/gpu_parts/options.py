"""The training step with each of the options for GPUs: rate, memory, the time that compiling takes, and the loss.

One made-up batch that is always ready, so that nothing but the step is measured. Every option is off in a recipe until
what stands here shows that it pays.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench_steps import WAYS
from engine.augment.mix import MixedLabels
from engine.bench.envelope import Row
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.system import GIB
from engine.training.learner import Learner
from gpu_parts.context import DEVICE, Context, host_seconds

CLASSES = 400
# At the last stage's size, with its smaller batch; all of them at the first one's.
LARGE = ("plain", "fused all", "checkpointed")
# What the double of a rehearsal has not: bf16, and recordings.
_NATIVE = ("bf16_weights", "cuda_graphs", "compile", "compile_mode")


def run(context: Context) -> Iterator[Row]:
    """A row a way and size; one that fails is said, and costs the others nothing. What compiles comes last: each takes
    most of a minute."""
    compiled = [name for name, keys in WAYS.items() if "compile" in keys.get("train", {})]
    first, large = context.stages[0], context.stages[-1]
    planned = [(name, first) for name in WAYS if name not in compiled] + [(name, large) for name in LARGE]
    for name, (size, batch) in [*planned, *((name, first) for name in compiled)]:
        keys = WAYS[name]
        if context.rehearsed and any(word in json.dumps(keys) for word in _NATIVE):
            continue
        gc.collect()
        torch.cuda.empty_cache()
        row: Row = {"option": name, "size": size, "batch": batch}
        try:
            yield row | measured(context, keys, size, batch)
        except Exception as error:
            yield row | {"ok": False, "failed": f"{type(error).__name__}: {error}"[:300]}


def measured(context: Context, keys: dict[str, dict[str, Any]], size: int, batch: int) -> Row:
    """Images a second of five windows, GiB at most, seconds until the first step was done, and the loss by then."""
    values = {
        "model": {"backbone": context.backbone, "pretrained": False, **keys.get("model", {})},
        "train": {"compile": "off", **keys.get("train", {})},
        "stage": [{"size": size, "batch": batch, "epochs": 1, "lr": 1e-4, **keys.get("stage", {})}],
    }
    recipe = parse_recipe(values, (), "the suite")
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
