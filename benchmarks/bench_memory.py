"""The memory that `engine train --dry-run` estimates, beside the memory that training takes, on the CPU.

    python benchmarks/bench_memory.py [--only NAME,NAME] [--json FILE]

Each case is trained in a process of its own: photos are drawn, the run is prepared and estimated, and then trained for
one epoch, scored, and asked for its out-of-fold predictions. Measured is how much main memory the process held at most
from there on, over what it held when training began, with Python and its libraries (Linux: VmHWM after its mark has
been reset, less VmRSS). Estimated is the larger of the stage's figure and that of answering.

An estimate has to be good enough to choose a batch by: too low and the run dies, far too high and the machine lies
idle. `BOUNDS` is what the test holds one case to, and what the table below is read by.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console

import frame
from engine.bench.envelope import Row
from engine.events import Watcher
from engine.ranks import Ranks
from engine.recipe.load import parse_recipe
from engine.system import host_bytes, peak_host_bytes, reset_peak
from engine.training.plan import plan_run
from engine.training.prepare import prepare
from engine.training.run import train

BOUNDS = (0.75, 1.75)  # estimate over measured peak
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """A training to be measured. `photo`: height, width and suffix of its photos; `changes`: of the recipe below."""

    name: str
    photo: tuple[int, int, str] = (400, 533, ".jpg")
    photos: int = 64
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _case(
    name: str, backbone: str, size: int, batch: int, *, photo: tuple[int, int, str] = (400, 533, ".jpg"), **keys: Any
) -> Case:
    photos = keys.pop("photos", 64)
    stage = {"size": size, "batch": batch, "epochs": 1, "lr": 1e-3, **keys.pop("stage", {})}
    changes = {"model": {"backbone": backbone, "pretrained": False}, "stage": [stage], **keys}
    return Case(name, photo, photos, changes)


CASES = {
    case.name: case
    for case in (
        _case("resnet18 160 px", "resnet18", 160, 16),
        _case("resnet18 accumulated", "resnet18", 160, 8, stage={"accumulate": 2}),
        _case("resnet18 sgd ema", "resnet18", 160, 16, train={"optimizer": "sgd", "ema": 0.9}),
        _case("convnext_atto 160 px", "convnext_atto", 160, 32),
        _case("lite0 lion swa", "tf_efficientnet_lite0", 128, 24, train={"optimizer": "lion", "swa_epochs": 1}),
        _case("vit small weights", "vit_small_patch16_224", 224, 4),
        _case("6 megapixels", "test_convnext", 96, 4, photo=(2000, 3000, ".jpg"), predict={"batch": 4}),
        _case(
            "6 megapixels prefetch 6",
            "test_convnext",
            96,
            2,
            photo=(2000, 3000, ".jpg"),
            decode={"prefetch": 6},
            predict={"batch": 2},
        ),
        _case("png", "test_convnext", 96, 16, photo=(1000, 1500, ".png"), predict={"batch": 16}),
        _case("dali", "test_convnext", 96, 16, decode={"decoder": "dali"}, predict={"batch": 16}),
        _case(
            "dali 6 megapixels",
            "test_convnext",
            96,
            4,
            photo=(2000, 3000, ".jpg"),
            decode={"decoder": "dali"},
            predict={"batch": 4},
        ),
        _case("extras", "test_convnext", 224, 24, augment={"extras": {"blur": 1.0}}),
    )
}
TINY = _case("tiny", "test_resnet", 224, 32, photo=(120, 160, ".jpg"), photos=96, predict={"batch": 32})


def measure(case: Case, folder: Path) -> Row:
    """Train a case in this process. The row has bytes: `estimated`, `measured`."""
    _draw(case, folder / "photos")
    values = {
        "output": str(folder / "models"),
        "data": {"train": str(folder / "photos"), "cache": str(folder / "cache"), "folds": {"count": 2, "run": [0]}},
        "track": {"tensorboard": False},
        **case.changes,
    }
    prepared, ranks = prepare(parse_recipe(values)), Ranks(0, 1, frame.CPU)
    plan = plan_run(prepared, ranks)
    parts = {"training": plan.stages[0].memory.host, "answering": plan.answering.host if plan.answering else 0}
    reset_peak()
    before = host_bytes()
    train(prepared, ranks, Watcher(), lambda: False)
    measured = peak_host_bytes() - before
    return {"name": case.name, "estimated": max(parts.values()), "measured": measured, **parts}


def apart(case: Case, threads: int = 0) -> Row:
    """`measure` in a process of its own, with so many torch threads (0: its own choice)."""
    arguments = [sys.executable, __file__, "--one", json.dumps(dataclasses.asdict(case)), "--threads", str(threads)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # as the command line sets it
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr}")
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def _draw(case: Case, folder: Path) -> None:
    height, width, suffix = case.photo
    for i in range(case.photos):
        coarse = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        path = folder / "ab"[i % 2] / f"{i}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def table(rows: Sequence[Row]) -> Any:
    headings = ("case", "estimated MiB", "measured MiB", "estimated / measured")
    shown = [
        (
            row["name"],
            f"{row['estimated'] / MIB:,.0f}",
            f"{row['measured'] / MIB:,.0f}",
            f"{row['estimated'] / row['measured']:.2f}",
        )
        for row in rows
    ]
    return frame.table("memory of training on the CPU, over what the process held before", headings, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of cases, separated by commas")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # the process of one case
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    frame.json_option(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Case(**json.loads(options.one)), Path(folder))))
        return
    chosen = [CASES[name.strip()] for name in options.only.split(",")] if options.only else CASES.values()
    console, rows = Console(stderr=True), []
    for case in chosen:
        rows.append(apart(case, options.threads))
        console.print(table(rows[-1:]))
    console.print(table(rows))
    frame.finish(frame.result(rows, {"photos": "drawn", "epochs": 1, "folds": 2}), options.json)


if __name__ == "__main__":
    main()
