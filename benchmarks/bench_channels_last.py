"""Channels-last on the CPU: what the memory format of the weights and of the batches is worth, backbone by backbone.

    python benchmarks/bench_channels_last.py [--backbones a,b] [--sizes 128] [--levels native,avx2] [--json FILE]

Three layouts take turns: "first", weights and batches channels-first, as torch has them by default; "batch",
channels-last batches for channels-first weights, which is what `train.channels_last = "off"` means, for the one pass
writes batches channels-last in any case; "last", both, which is `"on"`. Training is the engine's own step, inference
the model alone.

Machines are shared, and a neighbour takes seconds from the clock but hardly any from the processor: what is reported is
processor time, of one thread (two that wait for each other would count their waiting). The levels are run one after the
other, each in a process of its own: native, and avx2, which hides AVX-512 from torch and oneDNN where there is any. So
ratios within a level compare, rates between levels less so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from rich.console import Console

import frame
from engine.augment.mix import MixedLabels
from engine.bench.envelope import Row
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection, StageSection, TrainSection
from engine.training.learner import Learner

CLASSES = 17
BACKBONES = (
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "regnety_004",
    "resnet18",
    "convnext_zepto_rms",
    "convnext_atto",
    "convnext_tiny",
    "vit_tiny_patch16_224",
)
LAYOUTS = {
    "first": ("off", torch.contiguous_format),
    "batch": ("off", torch.channels_last),
    "last": ("on", torch.channels_last),
}
LEVELS = {"native": {}, "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}


def contenders(backbone: str, size: int, batch: int, compiled: bool) -> list[frame.Contender]:
    """Each layout's training step, then, where that is not compiled, each layout's inference."""
    labels_B = torch.arange(batch) % CLASSES
    labels = MixedLabels(labels_B, labels_B, torch.ones(batch))
    steps, answers = [], []
    for name, (switch, layout) in LAYOUTS.items():
        train = TrainSection(channels_last=switch, compile="on" if compiled else "off")
        stage = StageSection(size=size, batch=batch, epochs=1, lr=1e-4)
        torch.manual_seed(0)
        model = ModelSection(backbone=backbone, pretrained=False)
        learner = Learner(model, train, CLASSES, stage.size, Runtime.of(train, frame.CPU))
        learner.begin_stage(stage)
        learner.begin_epoch(stage, 0)
        learner.set_rate(stage.lr)
        images_BCHW = torch.randn(batch, 3, *stage.size).to(memory_format=layout)
        made = Batch(images_BCHW, labels, np.arange(batch))
        steps.append(frame.Contender(f"training, {name}", _step(learner, made), batch))
        if not compiled:  # only the training step ever is
            answers.append(frame.Contender(f"inference, {name}", _answer(learner, images_BCHW), batch))
    return [*steps, *answers]


def _step(learner: Learner, batch: Batch) -> Callable[[], object]:
    def run() -> None:
        learner.model.train()
        learner.take_step(batch)

    return run


def _answer(learner: Learner, images_BCHW: torch.Tensor) -> Callable[[], object]:
    def run() -> None:
        learner.model.eval()
        with torch.inference_mode():
            learner.model(images_BCHW)

    return run


def measured(level: str, backbone: str, size: int, batch: int, repeats: int, compiled: bool) -> list[Row]:
    """A row for each kind of work and layout, on one thread of this process."""
    torch.set_num_threads(1)
    found = contenders(backbone, size, batch, compiled)
    frame.take_turns(found, repeats, clock=time.process_time)
    rows = []
    for contender in found:
        work, layout = contender.name.split(", ")
        rows.append(
            {
                "level": level,
                "capability": torch.backends.cpu.get_cpu_capability(),
                "backbone": backbone,
                "size": size,
                "compiled": compiled,
                "work": work,
                "layout": layout,
                "images_per_cpu_second": [round(rate, 2) for rate in contender.windows],
            }
        )
    return rows


def rate(rows: Sequence[Row], **asked: object) -> float:
    """Images a processor second of the one row that is as asked: the median."""
    (row,) = (row for row in rows if all(row[key] == value for key, value in asked.items()))
    return statistics.median(row["images_per_cpu_second"])


def show(rows: Sequence[Row], console: Console) -> None:
    """For each backbone: the rate of "batch", and how many times as fast it is as "first", and "last" as it."""
    cells = []
    for kind in dict.fromkeys(
        (row["level"], row["backbone"], row["size"], row["compiled"], row["work"]) for row in rows
    ):
        asked = dict(zip(("level", "backbone", "size", "compiled", "work"), kind, strict=True))
        first, batch, last = (rate(rows, **asked, layout=layout) for layout in LAYOUTS)
        name = f"{asked['backbone']}, {asked['size']} px" + (", compiled" if asked["compiled"] else "")
        cells.append([kind[0], name, kind[4], f"{batch:.1f}", f"{batch / first:.2f}", f"{last / batch:.2f}"])
    headings = ["level", "", "", "batch", "batch / first", "last / batch"]
    console.print(frame.table("Images a processor second, one thread", headings, cells, words=3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--sizes", default="128")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--levels", default=",".join(LEVELS))
    parser.add_argument("--compiled", default="", help="backbones to measure compiled, too")
    frame.json_option(parser)
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "passive"
    work = [(name, int(size), False) for name in options.backbones.split(",") for size in options.sizes.split(",")]
    work += [(name, int(options.sizes.split(",")[0]), True) for name in filter(None, options.compiled.split(","))]
    rows: list[Row] = []
    for level in options.levels.split(","):
        os.environ |= LEVELS[level]  # read when a process loads torch
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            for name, size, compiled in work:
                one = (level, name, size, options.batch, options.repeats, compiled)
                rows += pool.submit(measured, *one).result()
                print(f"{level} {name}: measured", file=sys.stderr, flush=True)
    show(rows, Console(width=110))
    torch.set_num_threads(1)  # as in the processes that measured: the result names it
    frame.finish(frame.result(rows, {"batch": options.batch, "repeats": options.repeats}), options.json)


if __name__ == "__main__":
    main()
