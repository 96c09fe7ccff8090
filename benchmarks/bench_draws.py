"""Drawing what is done to a batch: C++ beside plain torch, which defines it.

    python benchmarks/bench_draws.py [--recipe recipes/progressive_768.toml] [--repeats 15] [--json FILE]

For each stage of the recipe (by default the flagship: affine, perspective, jitter, rectangles, extras, CutMix) a batch
is drawn for photos of 200 to 3,000 pixels a side, from numbers to what the decoder and the pass are told: the plan, the
extras, the regions to decode, the labels as they are mixed, as the loader asks for them. Both ways, and their parts,
take turns on one thread; figures are processor time of a batch, medians over the rounds.

Then what drawing costs a training thread: the time of 800 tiny operations of torch (a step's launches, to the host)
alone, and while another thread draws a batch, rests for 7 ms, and draws the next; wall time of a step, medians over the
rounds, of 40 steps each.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import frame
from engine.augment.mix import mix_at, mixed_labels, reference_labels
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions_B5, reference_regions_B5
from engine.bench.envelope import Row
from engine.kernels import draws
from engine.recipe.load import load_recipe
from engine.recipe.sections.augment import AugmentSection, MixSection
from frame import Contender, take_turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES, LAUNCHES, STEPS, SEED = 1000, 800, 40, 2025
PAUSE_S = 0.007  # between batches; 15,000 images a second are one in 15 ms
CALLS = {"torch": 3, "C++": 60}  # in a turn: long enough for the clock
PARTS = ("all", "plan", "extras", "regions", "labels")

Draw = Callable[[], object]


class Batch:
    """The draws of one batch of `count` photos at `side` x `side` pixels, each time of another epoch."""

    def __init__(self, section: AugmentSection, mix: MixSection | None, count: int, side: int) -> None:
        random = np.random.default_rng(0)
        self.policy, self.mix, self.side = Policy(section, MEAN, STD), mix, side
        self.keys_B = torch.from_numpy(random.integers(-(2**62), 2**62, count))
        self.sizes_B2 = torch.from_numpy(random.integers(200, 3000, (count, 2)).astype(np.int32))
        self.own_B = torch.from_numpy(random.integers(0, CLASSES, count))
        self.plan = self.policy.draw(self.keys_B, self.sizes_B2, side, side, SEED, 0, mix)
        self._epoch = 0

    def compiled(self) -> dict[str, Draw]:
        return {
            "all": self._all_by_compiled,
            "plan": lambda: self.policy.draw(self.keys_B, self.sizes_B2, self.side, self.side, *self._next(), self.mix),
            "extras": lambda: self.policy.extras(self.keys_B, *self._next()),
            "regions": lambda: needed_regions_B5(self.plan, self.sizes_B2, True),
            "labels": lambda: mixed_labels(self.plan, self.own_B),
        }

    def torchs(self) -> dict[str, Draw]:
        return {
            "all": self._all_by_torch,
            "plan": self._plan_by_torch,
            "extras": lambda: self.policy.reference_extras(self.keys_B, *self._next()),
            "regions": lambda: reference_regions_B5(self.plan, self.sizes_B2, True),
            "labels": lambda: reference_labels(self.plan, self.own_B),
        }

    def _all_by_compiled(self) -> object:
        at = self._next()
        plan = self.policy.draw(self.keys_B, self.sizes_B2, self.side, self.side, *at, self.mix)
        regions_B5 = needed_regions_B5(plan, self.sizes_B2, True)
        return plan, regions_B5, self.policy.extras(self.keys_B, *at), mixed_labels(plan, self.own_B)

    def _plan_by_torch(self) -> object:
        size = (self.side, self.side)
        return self.policy.reference_draw(self.keys_B, self.sizes_B2, *size, *self._next(), self.mix)

    def _all_by_torch(self) -> object:
        at = self._next()
        plan = self.policy.reference_draw(self.keys_B, self.sizes_B2, self.side, self.side, *at, self.mix)
        regions_B5 = reference_regions_B5(plan, self.sizes_B2, True)
        return plan, regions_B5, self.policy.reference_extras(self.keys_B, *at), reference_labels(plan, self.own_B)

    def _next(self) -> tuple[int, int]:
        self._epoch += 1
        return SEED, self._epoch


def often(draw: Draw, calls: int) -> Draw:
    def run() -> None:
        for _ in range(calls):
            draw()

    return run


def costs(batch: Batch, repeats: int) -> list[Row]:
    """Processor milliseconds of a batch, by who draws and by part."""
    ways = {"torch": batch.torchs(), "C++": batch.compiled()}
    contenders = {
        (way, part): Contender(f"{way}, {part}", often(parts[part], CALLS[way]), CALLS[way])
        for part in PARTS
        for way, parts in ways.items()
    }
    take_turns(list(contenders.values()), repeats, clock=time.process_time)
    rows = []
    for (way, part), contender in contenders.items():
        times_ms = [round(1000 * seconds / contender.images, 5) for seconds in contender.seconds]
        rows.append({"kind": "cost", "way": way, "part": part, "cpu_ms": times_ms})
    return rows


@contextmanager
def drawing(draw: Draw | None) -> Iterator[None]:
    """While the block runs, another thread draws."""
    stop = threading.Event()

    def work() -> None:
        while draw is not None and not stop.wait(PAUSE_S):
            draw()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def launches(batch: Batch, repeats: int) -> list[Row]:
    """Milliseconds that a step's launches take, alone and beside a thread that draws."""
    beside = {"nothing": None, "torch": batch.torchs()["all"], "C++": batch.compiled()["all"]}
    value = torch.zeros(16)
    times_ms: dict[str, list[float]] = {name: [] for name in beside}
    for turn in range(repeats + 1):
        for name, draw in beside.items():
            with drawing(draw):
                start_s = time.perf_counter()
                for _ in range(STEPS * LAUNCHES):
                    value.add_(1)
                took_ms = 1000 * (time.perf_counter() - start_s) / STEPS
            if turn:
                times_ms[name].append(round(took_ms, 3))
    return [{"kind": "launches", "beside": name, "ms": times} for name, times in times_ms.items()]


def show(rows: list[Row], console: Console) -> None:
    cost = {(row["size"], row["way"], row["part"]): statistics.median(row["cpu_ms"]) for row in rows if "way" in row}
    for size, batch in {row["size"]: row["batch"] for row in rows}.items():
        cells = []
        for part in PARTS:
            slow, fast = cost[size, "torch", part], cost[size, "C++", part]
            cells.append([part, f"{slow:.3f}", f"{fast:.3f}", f"{slow / fast:.0f}"])
        title = f"{batch} photos at {size} px, processor ms"
        console.print(frame.table(title, ["", "torch", "C++", "times"], cells))
    cells = [[row["beside"], f"{statistics.median(row['ms']):.1f}"] for row in rows if row["kind"] == "launches"]
    console.print(frame.table(f"{LAUNCHES} launches beside", ["a thread that draws by", "ms"], cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/progressive_768.toml"))
    parser.add_argument("--repeats", type=int, default=15)
    frame.json_option(parser)
    options = parser.parse_args()
    if not draws.available():
        parser.error(f"no compiled draws: {draws.why_not()}")
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    rows: list[Row] = []
    sizes: dict[int, int] = {}
    for stage in recipe.stage:
        sizes.setdefault(stage.size[0], stage.batch)
    for side, count in sizes.items():
        batch = Batch(recipe.augment, mix_at(recipe.augment.mix, 0), count, side)
        found = costs(batch, options.repeats)
        if not rows:
            found += launches(batch, options.repeats)
        rows += [{"size": side, "batch": count, **row} for row in found]
    show(rows, Console(width=100))
    settings = {"recipe": str(options.recipe), "repeats": options.repeats, "launches": LAUNCHES}
    frame.finish(frame.result(rows, settings), options.json)


if __name__ == "__main__":
    main()
