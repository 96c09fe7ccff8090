"""Ways of taking a training step, side by side: what each makes of images a second, and of memory.

    python benchmarks/bench_steps.py [--backbone convnext_tiny] [--size 128] [--batch 8] [--ways "plain;fused all"]

The ways are keys of a recipe (WAYS): none changes what is learnt, but for rounding. They take turns on one batch that
lies on the device, so that their ratios hold; on a GPU a turn ends when the GPU has done it. What a way takes before
its first turn (compiling, recording) is told apart, and so is the peak of a GPU's memory in a turn, or on a CPU, where
there is none to ask, the estimate that `--dry-run` goes by. On a CPU those ways are left out that change nothing there.

The last rows are what a step costs the host besides the model's own launches, for the tensors of the backbone, each of
them tiny so that computing takes no time: clipping, the optimiser, the moving average.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

import frame
from engine.augment.mix import MixedLabels
from engine.bench.envelope import Row
from engine.loader.batches import Batch
from engine.model.build import build_shapes
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection, StageSection, TrainSection
from engine.training.averaging import Average
from engine.training.learner import Learner
from engine.training.memory import step_memory

CLASSES = 100
WAYS: dict[str, dict[str, dict[str, Any]]] = {  # keys of model, train and stage
    "plain": {},
    "fused norm": {"model": {"fused": "norm"}},
    "fused depthwise": {"model": {"fused": "depthwise"}},
    "fused all": {"model": {"fused": "all"}},
    "bf16 weights": {"train": {"precision": "bf16_weights"}},
    "fused all, bf16 weights": {"model": {"fused": "all"}, "train": {"precision": "bf16_weights"}},
    "CUDA graph": {"train": {"cuda_graphs": True}},
    "CUDA graph, fused all, bf16 weights": {
        "model": {"fused": "all"},
        "train": {"cuda_graphs": True, "precision": "bf16_weights"},
    },
    "checkpointed": {"stage": {"checkpoint_activations": True}},
    "compiled": {"train": {"compile": "on"}},
    "compiled, fused depthwise": {"train": {"compile": "on"}, "model": {"fused": "depthwise"}},
    "compiled, bf16 weights": {"train": {"compile": "on", "precision": "bf16_weights"}},
    "compiled, fused depthwise, bf16 weights": {
        "train": {"compile": "on", "precision": "bf16_weights"},
        "model": {"fused": "depthwise"},
    },
    "compiled, CUDA graph": {"train": {"compile": "on", "cuda_graphs": True}},
    "compiled, checkpointed": {"train": {"compile": "on"}, "stage": {"checkpoint_activations": True}},
    "reduce-overhead": {"train": {"compile": "on", "compile_mode": "reduce-overhead"}},
}
ON_CPU = ("plain", "bf16 weights", "checkpointed")


class Way:
    """A learner that takes its steps in one of the ways; the first steps are taken when it is made."""

    def __init__(self, name: str, backbone: str, size: int, batch: int, device: torch.device) -> None:
        keys = WAYS[name]
        self.device = device
        self.model = ModelSection(backbone=backbone, pretrained=False).model_copy(update=keys.get("model", {}))
        base = TrainSection(compile="off", ema=0.999, precision="bf16")
        self.train = TrainSection.model_validate(base.model_dump() | keys.get("train", {}))
        self.stage = StageSection(size=size, batch=batch, epochs=1, lr=1e-4, drop_path=0.1, **keys.get("stage", {}))
        self.runtime = Runtime.of(self.train, device)
        torch.manual_seed(0)
        self.learner = Learner(self.model, self.train, CLASSES, self.stage.size, self.runtime)
        self.learner.begin_stage(self.stage)
        self.learner.begin_epoch(self.stage, 0)
        self.learner.set_rate(self.stage.lr)
        labels_B = torch.arange(batch, device=device) % CLASSES
        labels = MixedLabels(labels_B, labels_B.flip(0), torch.ones(batch, device=device))
        images_BCHW = torch.randn(batch, 3, size, size, device=device, dtype=self.runtime.dtype)
        self.batch = Batch(images_BCHW.to(memory_format=torch.channels_last), labels, np.arange(batch))
        began = time.perf_counter()
        self.turn(steps=5)  # a recording is made with the fourth
        self.first_s = time.perf_counter() - began

    def turn(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.learner.take_step(self.batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_mib(self) -> int:
        """Of memory, in a step."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.turn()
            return torch.cuda.max_memory_allocated() >> 20
        return step_memory(self.model, self.train, CLASSES, self.stage, self.runtime.bf16).peak >> 20


def measured(names: Sequence[str], backbone: str, size: int, batch: int, repeats: int, steps: int) -> list[Row]:
    """A row a way. All are in memory at once on a CPU; on a GPU, where they may not fit, pairs with "plain" are."""
    device = frame.device()
    if device.type == "cpu":
        return _together(names, backbone, size, batch, repeats, steps, device)
    rows = []
    for name in names:
        pair = [name] if name == "plain" else ["plain", name]
        rows += _together(pair, backbone, size, batch, repeats, steps, device)[-1:]
        torch.compiler.reset()
        torch.cuda.empty_cache()
        print(f"{name}: measured", file=sys.stderr, flush=True)
    return rows


def _together(
    names: Sequence[str], backbone: str, size: int, batch: int, repeats: int, steps: int, device: torch.device
) -> list[Row]:
    ways = {name: Way(name, backbone, size, batch, device) for name in names}
    contenders = [frame.Contender(name, _turns(way, steps), batch * steps) for name, way in ways.items()]
    frame.take_turns(contenders, repeats)
    plain = contenders[0].rate
    return [
        {
            "way": contender.name,
            "backbone": backbone,
            "size": size,
            "batch": batch,
            "images_per_second": round(contender.rate, 2),
            "over_plain": round(contender.rate / plain, 3),
            "windows": [round(window, 2) for window in contender.windows],
            "first_steps_s": round(ways[contender.name].first_s, 1),
            "peak_mib": ways[contender.name].peak_mib(),
            "peak_is": "measured" if device.type == "cuda" else "estimated",
        }
        for contender in contenders
    ]


def _turns(way: Way, steps: int) -> Callable[[], object]:
    return lambda: way.turn(steps)


def host_rows(backbone: str, repeats: int) -> list[Row]:
    """What clipping, optimiser and average cost the host for as many tensors as the backbone has."""
    shapes = build_shapes(ModelSection(backbone=backbone, pretrained=False), 2, (224, 224))
    model = nn.ParameterList([nn.Parameter(torch.randn(2, 2)) for _ in shapes.parameters()])
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    average = Average(model, 0.999)  # type: ignore[arg-type]  # of any module
    works = {
        "clipping": lambda: nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True),
        "optimiser": optimizer.step,
        "average": average.update,
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    contenders = [frame.Contender(name, work, 1) for name, work in works.items()]
    frame.take_turns(contenders, 10 * repeats, warm_up=3)
    torch.set_num_threads(threads)
    return [
        {
            "host": contender.name,
            "backbone": backbone,
            "tensors": len(parameters),
            "ms": round(1000 * statistics.median(contender.seconds), 3),
        }
        for contender in contenders
    ]


def show(rows: Sequence[Row], console: Console) -> None:
    ways = [row for row in rows if "way" in row]
    cells = [
        [row["way"], f"{row['images_per_second']:.1f}", f"{row['over_plain']:.2f}", str(row["peak_mib"]),
         f"{row['first_steps_s']:.1f}"]
        for row in ways
    ]  # fmt: skip
    console.print(frame.table("", ["way", "images a second", "over plain", "peak MiB", "first steps s"], cells))
    cells = [[row["host"], str(row["tensors"]), f"{row['ms']:.2f}"] for row in rows if "host" in row]
    console.print(frame.table("", ["on the host", "tensors", "ms a step"], cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="convnext_tiny")
    parser.add_argument("--host-backbone", default="convnext_base", help="of whose tensors the host's cost is taken")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="in a turn")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", default="", help="separated by ';'; else all that change something on the device")
    frame.json_option(parser)
    options = parser.parse_args()
    device = frame.device()
    names = options.ways.split(";") if options.ways else list(WAYS if device.type == "cuda" else ON_CPU)
    rows = measured(names, options.backbone, options.size, options.batch, options.repeats, options.steps)
    rows += host_rows(options.host_backbone, options.repeats)
    show(rows, Console(width=110))
    settings = {"classes": CLASSES, "steps": options.steps, "repeats": options.repeats}
    frame.finish(frame.result(rows, settings, device), options.json)


if __name__ == "__main__":
    main()
