"""What a switch of stages costs where steps are compiled: with the next one compiled ahead of time, and without.

    python benchmarks/bench_switch.py [--backbone test_convnext] [--sizes 64,96,128] [--json FILE]

A recipe of one stage a size is trained as `engine bench` does to measure switches (engine/bench/switch.py): some steps
of a stage, then the next stage's first. Lost is what that first step takes beyond a usual one of its stage. Each way
has a process and an empty folder for torch's caches, so that neither finds what the other has compiled. On a machine
that others use, both are slow, and the process that compiles ahead is the last to get a core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from rich.console import Console

import frame
from engine.bench.ceilings import Ceilings
from engine.bench.envelope import Row
from engine.bench.photos import photos
from engine.bench.recipe import FULL_POLICY
from engine.bench.switch import switch_rows
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe

WAYS = ("compiled at the switch", "compiled ahead")


def recipe(backbone: str, sizes: Sequence[int], batch: int) -> Recipe:
    """A stage for each size, whose steps are compiled."""
    stages = [{"size": size, "batch": batch, "epochs": 1, "lr": 1e-4, "drop_path": 0.1} for size in sizes]
    return parse_recipe(
        {
            "model": {"backbone": backbone, "pretrained": False},
            "augment": FULL_POLICY,
            "train": {"compile": "on", "ema": 0.99},
            "stage": stages,
        }
    )


def measure(way: str, backbone: str, sizes: Sequence[int], batch: int) -> list[Row]:
    """The switches of one way, in this process."""
    limits = Ceilings(1.0, 1.0)  # shares of limits are no matter here
    rows = switch_rows(recipe(backbone, sizes, batch), photos(), frame.device(), limits, prepared=way == WAYS[1])
    kept = ("size", "batch", "note")
    return [{"way": way} | {key: row[key] for key in kept} | {"lost_s": row["ms"] / 1000} for row in rows]


def apart(way: str, arguments: dict[str, Any]) -> list[Row]:
    """`measure` in a process of its own that finds nothing compiled."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder, "TRITON_CACHE_DIR": f"{folder}/triton"}
        command = [sys.executable, __file__, "--one", json.dumps({"way": way, **arguments})]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr}")
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_convnext")
    parser.add_argument("--sizes", default="64,96,128")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)  # the process of one way
    frame.json_option(parser)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    sizes = [int(size) for size in options.sizes.split(",")]
    arguments = {"backbone": options.backbone, "sizes": sizes, "batch": options.batch}
    rows = [row for way in WAYS for row in apart(way, arguments)]
    cells = [(row["way"], f"{row['size'][0]}", f"{row['lost_s']:.2f}", row["note"]) for row in rows]
    Console(stderr=True).print(frame.table("", ("", "to", "seconds lost", ""), cells))
    frame.finish(frame.result(rows, arguments, frame.device()), options.json)


if __name__ == "__main__":
    main()
