"""Answers that are the same to the last bit: what they cost on the CPU.

    python benchmarks/bench_answers.py [--backbones a,b] [--sizes 96,224] [--json FILE]

Two ways of asking the same model about the same images take turns: "batch", all images at once by all threads of torch,
as is usual; and "parts", as `engine/inference/microbatches.py` does. "differ" are the answers of 64 that get other bits
when the same images come in batches of 7. "one photo" is the time to answer about one, in ms: the least of its turns.

Machines are shared: of the clock it is the fastest turn that counts, which a neighbour disturbed least, and processor
time stands beside it, of threads that do not spin while they wait.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from rich.console import Console
from torch import Tensor

import frame
from engine.bench.envelope import Row
from engine.inference.microbatches import MicroBatches
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection

CLASSES, COUNT, OTHER = 17, 64, 7
BACKBONES = ("tf_efficientnet_lite0", "convnext_atto")
HEADINGS = {
    "backbone": "",
    "size": "px",
    "way": "",
    "images_per_s": "images/s",
    "images_per_cpu_second": "images/CPU s",
    "one_photo_ms": "one photo, ms",
    "differ": "differ",
}
Ask = Callable[[Tensor], Tensor]


def ways(model: Classifier) -> dict[str, Ask]:
    """By name, what answers about images (B, 3, H, W) with logits (B, C)."""
    runtime = Runtime(frame.CPU, bf16=False, channels_last=True, compile=False)
    parts = MicroBatches(lambda images_BCHW: (model(images_BCHW),), runtime)
    return {"batch": torch.no_grad()(model.__call__), "parts": lambda images_BCHW: parts(images_BCHW)[0]}


def measured(backbone: str, size: int, repeats: int) -> list[Row]:
    """A row for each way."""
    torch.manual_seed(0)
    model = build_model(ModelSection(backbone=backbone, pretrained=False), CLASSES, (size, size)).eval()
    model = model.to(memory_format=torch.channels_last)
    images_BCHW = torch.randn(COUNT, 3, size, size).contiguous(memory_format=torch.channels_last)
    asks = ways(model)
    times = [_turns(asks, images_BCHW, repeats, clock) for clock in (time.perf_counter, time.process_time)]
    ones = _turns(asks, images_BCHW[:1], 4 * repeats, time.perf_counter)
    rows = []
    for name, ask in asks.items():
        again_BC = torch.cat([ask(some) for some in images_BCHW.split(OTHER)])
        row: Row = {
            "backbone": backbone,
            "size": size,
            "way": name,
            "images_per_s": round(COUNT / times[0][name], 1),
            "images_per_cpu_second": round(COUNT / times[1][name], 1),
            "one_photo_ms": round(1000 * ones[name], 1),
            "differ": int((ask(images_BCHW) != again_BC).any(1).sum()),
        }
        rows.append(row)
    return rows


def _turns(asks: dict[str, Ask], images_BCHW: Tensor, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each way's fastest turn."""

    def contender(name: str) -> frame.Contender:
        return frame.Contender(name, lambda: asks[name](images_BCHW), len(images_BCHW))

    contenders = [contender(name) for name in asks]
    frame.take_turns(contenders, repeats, clock=clock)
    return {one.name: min(one.seconds) for one in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--sizes", default="96,224")
    parser.add_argument("--repeats", type=int, default=5)
    frame.json_option(parser)
    options = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "passive"  # read when a process loads torch
    rows: list[Row] = []
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for backbone in options.backbones.split(","):
            for size in options.sizes.split(","):
                rows += pool.submit(measured, backbone, int(size), options.repeats).result()
    cells = [[str(row[key]) for key in HEADINGS] for row in rows]
    Console(width=110).print(frame.table("Answers about 64 images", [*HEADINGS.values()], cells))
    frame.finish(frame.result(rows, {"images": COUNT, "other_batch": OTHER, "repeats": options.repeats}), options.json)


if __name__ == "__main__":
    main()
