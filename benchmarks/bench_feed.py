"""What the host can feed: images a second that a training loop takes from the loader when neither decoding nor the GPU
takes any time.

    python benchmarks/bench_feed.py --json benchmarks/results/feed_cpu.json

The loop's thread queues so many tiny operations of torch a step, as a model and its optimiser do, and does nothing
else: what it waits for is the loader. Real is all that the host does about an image: files are read (few enough to come
from the page cache), headers walked, plans, extras, labels and tables made, memory goes round. Stubbed is decoding (the
pixels are there at once), and what is queued on the GPU costs the host that and no more (idle_gpu.py; so the machine
needs none): `--launch-us` and `--copy-us` say how long, and are set, not measured.

* "the loop alone": the operations, no loader. What is left of a step's time beyond it, the loader has taken.
* "the loader alone": no operations.
* "both", pixels decoded on the GPU, and decoded on the CPU and carried there.

"turnover": from the moment when a second epoch is asked for until its first batch is there; a first one makes the
decoder and the memory.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console

import frame
from engine.augment.mix import mix_at
from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import photos
from engine.decode.decoder import Opened, Pixels
from engine.decode.pillow import PillowDecoder
from engine.decode.turbo import TurboDecoder
from engine.kernels import Placed
from engine.kernels.files import Content
from engine.kernels.jpeg import Region
from engine.loader import supply
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.source import Files
from engine.quarantine import Fault
from engine.recipe.load import load_recipe
from engine.recipe.sections import DecodeSection, Recipe
from idle_gpu import DEVICE, IdleGpu

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "progressive_768.toml"
MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
CLASSES = 396


class OnTheGpu:
    """Where DALI stands: whole photos, there at once, in memory that is its own."""

    device = DEVICE

    def __init__(self, *_: object) -> None:
        self._others = PillowDecoder(1)
        self._known: dict[tuple[int, int, int], Pixels] = {}

    def data_ptr(self) -> int:
        return 1 << 32

    def open(self, contents: Sequence[Content]) -> list[Opened | Fault]:
        return self._others.open(contents)

    def pixels(self, opened: Sequence[Opened], regions: object = None, rough: bool = False) -> list[Pixels | Fault]:
        return [self._at(i, one.height, one.width) for i, one in enumerate(opened)]

    def _at(self, place: int, height: int, width: int) -> Pixels:
        found = self._known.get((place, height, width))
        if found is None:
            address = self.data_ptr() + 3 * 640 * 640 * place
            found = self._known[place, height, width] = Pixels(Placed(address, height, width, self), height, width)
        return found


class OnTheCpu(TurboDecoder):
    """Where libjpeg-turbo stands: the regions that are asked for, at once, side by side in a slab."""

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None = None, rough: bool = False
    ) -> list[Pixels | Fault]:
        assert regions is not None
        sizes = [((r.y1 - r.y0) // r.reduction or 1, (r.x1 - r.x0) // r.reduction or 1) for r in regions]
        starts = [0, *itertools.accumulate(3 * height * width for height, width in sizes)]
        slab = self._memory(starts[-1])
        base = slab.data_ptr()
        return [
            Pixels(Placed(base + start, *size, slab), one.height, one.width, region.x0, region.y0, region.reduction)
            for one, region, start, size in zip(opened, regions, starts, sizes, strict=False)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=224)
    parser.add_argument("--steps", type=int, default=150, help="that are measured, after some that are not")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--operations", type=int, default=800, help="that the loop's thread queues in a step")
    parser.add_argument("--launch-us", type=float, default=30, help="of the host, for one of the loader's own kernels")
    parser.add_argument("--copy-us", type=float, default=10, help="of the host, for a copy to the GPU")
    parser.add_argument("--extras", choices=("recipe", "none"), default="recipe")
    parser.add_argument("--photos", type=int, default=512)
    frame.json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(RECIPE)
    if options.extras == "none":
        recipe = load_recipe(RECIPE, ["augment.extras={}"])
    paths = photos(count=options.photos)
    with IdleGpu(options.launch_us, options.copy_us) as gpu:
        rows = [*measured(recipe, paths, gpu, options)]
    cells = [
        [row["what"], row["decoded"], f"{statistics.median(row['windows']):,.0f}", f"{row['step_ms']:.2f}"]
        for row in rows
        if "windows" in row
    ]
    console = Console(width=110)
    console.print(frame.table("What the host can feed", ["", "decoded", "images/s", "ms a step"], cells, words=2))
    for row in rows:
        if row["what"] == "turnover":
            console.print(
                f"first batch, decoded on the {row['decoded']}: {row['first_s']:.3f} s in the first epoch, "
                f"{row['second_s']:.3f} s in the second"
            )
    settings = {key: value for key, value in vars(options).items() if key != "json"}
    settings |= {"recipe": f"recipes/{RECIPE.name}", "size": recipe.stage[0].size, "dtype": "bfloat16"}
    frame.finish(frame.result(rows, settings), options.json)


def measured(recipe: Recipe, paths: Sequence[str], gpu: IdleGpu, options: argparse.Namespace) -> Iterator[Row]:
    images = options.batch * options.steps
    model = Operations(options.operations)
    alone = [timed(lambda: model.steps(options.steps)) for _ in range(options.windows)]
    yield row("the loop alone", "", images, alone, options)
    for decoded, decoder in (("gpu", OnTheGpu), ("cpu", OnTheCpu)):
        with mock.patch.object(supply, "decoder_for", lambda section, device, memory, own=decoder: own(1, memory)):
            feed = Feed(recipe, paths, decoded, options.batch)
            yield feed.turnover()
            for what, step in (("the loader alone", None), ("both", model.step)):
                before = gpu.launches, gpu.copies
                windows = feed.windows(step, options.windows, options.steps)
                steps = options.steps * (options.windows + 1)
                counts = {
                    "launches": round((gpu.launches - before[0]) / steps, 2),
                    "copies": round((gpu.copies - before[1]) / steps, 2),
                }
                yield row(what, decoded, images, windows, options) | counts


class Operations:
    """What a model and its optimiser queue in a step, as far as the host goes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._value, self._scale = torch.ones(64), torch.ones(64)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def step(self) -> None:
        value, scale = self._value, self._scale
        for _ in range(self._count):
            torch.nn.functional.layer_norm(value, (64,), scale, scale)


class Feed:
    """The loader of the recipe's first stage."""

    def __init__(self, recipe: Recipe, paths: Sequence[str], decoded: str, batch: int) -> None:
        rows_N = np.arange(len(paths))
        self._decoded, self._batch, self._count = decoded, batch, len(paths)
        self._recipe, self._policy = recipe, Policy(recipe.augment, MEAN, STD, "bicubic")
        samples = Samples(paths, Files(paths), rows_N * 7919, rows_N % CLASSES)
        section = DecodeSection(device=decoded, prefetch=recipe.decode.prefetch)
        self._loader = Loader(samples, section, DEVICE, dtype=torch.bfloat16)

    def batches(self, number: int, steps: int) -> Iterator[Batch]:
        random = np.random.default_rng(number)
        orders = [random.permutation(self._count)[: self._batch] for _ in range(steps)]
        epoch = Epoch(0, number, *self._recipe.stage[0].size, mix_at(self._recipe.augment.mix, 0))
        return self._loader.train(orders, self._policy, epoch)

    def turnover(self) -> Row:
        def first(number: int) -> float:
            def take() -> None:
                with closing(self.batches(number, 4)) as running:  # type: ignore[type-var]
                    next(running)

            return timed(take)

        return {"what": "turnover", "decoded": self._decoded, "first_s": first(0), "second_s": first(1)}

    def windows(self, step: Any, count: int, steps: int) -> list[float]:
        """Seconds of `count` times `steps` steps of one epoch."""

        def some() -> None:
            for _ in range(steps):
                next(running)
                if step is not None:
                    step()

        with closing(self.batches(2, (count + 1) * steps)) as running:  # type: ignore[type-var]
            return [timed(some) for _ in range(count + 1)][1:]


def row(what: str, decoded: str, images: int, seconds: Sequence[float], options: argparse.Namespace) -> Row:
    step_ms = 1000 * statistics.median(seconds) / options.steps
    return {"what": what, "decoded": decoded, "windows": [images / one for one in seconds], "step_ms": step_ms}


def timed(run: Any) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.setswitchinterval(sys.getswitchinterval())
    main()
