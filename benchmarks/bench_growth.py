"""How rates, times and memory grow with what users have more of: rows, megapixels, images in a batch, threads, ranks.

    python benchmarks/bench_growth.py [--only rows,megapixels,batch,threads,ranks] [--json FILE]

Every point is a process of its own, so that its memory is its own and no thread is left over. What is measured is the
loader that trains, at 256 pixels with the flagship recipe's augmentation, and for batches and ranks the training step
of convnext_atto:

* rows: 1,000 to 1,000,000 samples, links to 256 photos: seconds to the order of an epoch, seconds to the first batch
  and images a second after it, and the most that the process has held.
* megapixels: photos of one size each, 0.2 to 12 million pixels: images and megapixels a second, decoded by parts
  (libjpeg-turbo) and whole (DALI).
* batch: images a second of loader and step at 1 to 128 images, 96 pixels.
* threads: the loader with 1 thread and as many as cores.
* ranks: processes side by side that share the cores out: images a second of all of them together.

Points are measured one after the other and not in turns: a curve's shape is what counts, and the machine is named.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import frame
from engine.augment.mix import MixedLabels
from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import photos
from engine.kernels import cpu_pass
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.source import Files
from engine.model.build import backbone_config
from engine.model.runtime import Runtime
from engine.order import Sampler
from engine.recipe.load import load_recipe
from engine.recipe.sections import DecodeSection, StageSection
from engine.recipe.sections.train import SamplingSection
from engine.system import cores
from engine.training.learner import Learner

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "progressive_768.toml"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
MEGAPIXELS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SIZE, BATCH, SECONDS, WINDOWS = 256, 64, 1.5, 3
SMALL = 96  # pixels, where a step of 128 images takes seconds and not minutes
Point = dict[str, Any]


def points(name: str) -> list[Point]:
    """What is measured, in the order of growth."""
    counts = sorted({1, cores()})
    found: dict[str, list[Point]] = {
        "rows": [{"rows": rows} for rows in ROWS],
        "megapixels": [{"megapixels": size, "decoder": by} for by in ("turbo", "dali") for size in MEGAPIXELS],
        "batch": [{"batch": batch} for batch in BATCHES],
        "threads": [{"threads": threads} for threads in counts],
        "ranks": [{"ranks": ranks} for ranks in counts],
    }
    return found[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="rows,megapixels,batch,threads,ranks")
    parser.add_argument("--point", help=argparse.SUPPRESS)  # the child's
    frame.json_option(parser)
    options = parser.parse_args()
    if options.point:
        name, point = json.loads(options.point)
        print(json.dumps(MEASURES[name](point)))
        return
    photos()  # drawn now, so that no point pays for it
    rows: list[Row] = []
    for name in options.only.split(","):
        for point in points(name):
            rows.append({"curve": name, **point, **_measured(name, point)})
            print(json.dumps(rows[-1]), flush=True)
    settings = {"recipe": RECIPE.stem, "size": SIZE, "batch": BATCH, "seconds": SECONDS, "windows": WINDOWS}
    frame.finish(frame.result(rows, settings | {"simd_level": cpu_pass.simd_level()}), options.json)


def _measured(name: str, point: Point) -> Row:
    """A point in processes of its own: one, or as many as ranks."""
    count = int(point.get("ranks", 1))
    command = [sys.executable, __file__, "--point", json.dumps([name, point])]
    environment = os.environ | {"LOCAL_WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment | {"LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    answers = []
    for child in running:
        said, _ = child.communicate()
        if child.returncode:
            raise SystemExit(f"{name}, {point}: exit code {child.returncode}")
        answers.append(json.loads(said.splitlines()[-1]))
    together = {key: sum(answer[key] for answer in answers) for key in answers[0]}
    return {key: round(value, 4) for key, value in together.items()}


# --- points -----------------------------------------------------------------------------------------------------------


def by_rows(point: Point) -> dict[str, float]:
    """Of a set with so many samples."""
    some, count = photos(), int(point["rows"])
    paths = [some[number % len(some)] for number in range(count)]
    rows_N = np.arange(count)
    samples = Samples([f"{number:07d}" for number in range(count)], Files(paths), rows_N * 7919, rows_N % 10)
    began = time.perf_counter()
    steps = Sampler(rows_N, samples.labels_N, SamplingSection(), 0).epoch(0, BATCH)
    order_s = time.perf_counter() - began
    began = time.perf_counter()
    around = [*steps] * (1 + 20_000 // len(steps))  # a small set's epoch is over in no time
    with closing(_batches(samples, around, DecodeSection(device="cpu"))) as running:
        next(running)
        first_s = time.perf_counter() - began
        rate = _rate(lambda: len(next(running).rows_B))
    return {"order_s": order_s, "first_batch_s": first_s, "images_per_second": rate, "host_mib": _resident_mib()}


def by_megapixels(point: Point) -> dict[str, float]:
    """Of photos of so many million pixels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = photos_of(Path(folder), float(point["megapixels"]))
        decode = DecodeSection(device="cpu", decoder=point["decoder"])
        with closing(_batches(_samples(paths), _orders(len(paths), 16), decode)) as running:
            rate = _rate(lambda: len(next(running).rows_B))
    return {
        "images_per_second": rate,
        "megapixels_per_second": rate * float(point["megapixels"]),
        "host_mib": _resident_mib(),
    }


def by_batch(point: Point) -> dict[str, float]:
    """Of batches of so many images: the loader, and the training step."""
    batch = int(point["batch"])
    with closing(_batches(_samples(photos()), _orders(256, batch), DecodeSection(device="cpu"), SMALL)) as running:
        loader = _rate(lambda: len(next(running).rows_B))
    return {"images_per_second": loader, "step_images_per_second": _step(batch), "host_mib": _resident_mib()}


def by_threads(point: Point) -> dict[str, float]:
    """Of a loader with so many threads."""
    threads = int(point["threads"])
    cpu_pass.set_threads(threads)
    torch.set_num_threads(threads)
    section = DecodeSection(device="cpu", threads=threads)
    with closing(_batches(_samples(photos()), _orders(256, BATCH), section)) as running:
        return {"images_per_second": _rate(lambda: len(next(running).rows_B))}


def by_ranks(point: Point) -> dict[str, float]:
    """Of one of so many processes, on its share of the cores."""
    share = max(1, cores() // int(point["ranks"]))
    cpu_pass.set_threads(share)
    torch.set_num_threads(share)
    with closing(_batches(_samples(photos()), _orders(256, BATCH), DecodeSection(device="cpu"))) as running:
        rate = _rate(lambda: len(next(running).rows_B))
    return {"images_per_second": rate, "step_images_per_second": _step(16)}


MEASURES: dict[str, Callable[[Point], dict[str, float]]] = {
    "rows": by_rows,
    "megapixels": by_megapixels,
    "batch": by_batch,
    "threads": by_threads,
    "ranks": by_ranks,
}


# --- what they share --------------------------------------------------------------------------------------------------


def photos_of(folder: Path, megapixels: float, count: int = 16) -> list[str]:
    """Photos of one size, 3 to 4, enlarged from the bench's own: about as many bytes a pixel as phones make."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    found = []
    for number, path in enumerate(photos()[:count]):
        with Image.open(path) as image:
            larger = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        found.append(str(folder / f"{number:03d}.jpg"))
        larger.save(found[-1], quality=90)
    return found


def _samples(paths: list[str]) -> Samples:
    rows_N = np.arange(len(paths))
    return Samples(paths, Files(paths), rows_N * 7919, rows_N % 10)


def _orders(count: int, batch: int) -> list[np.ndarray]:
    rows_N = np.arange(count)
    return [np.resize(np.roll(rows_N, -number * batch), batch) for number in range(20_000)]


def _batches(
    samples: Samples, orders: list[np.ndarray], decode: DecodeSection, size: int = SIZE
) -> Generator[Batch, None, None]:
    recipe = load_recipe(RECIPE)
    own = backbone_config(recipe.model.backbone)
    policy = Policy(recipe.augment, own.mean, own.std, own.interpolation)
    return Loader(samples, decode, frame.CPU).train(orders, policy, Epoch(0, 0, size, size, recipe.augment.mix[0]))


def _step(batch: int) -> float:
    """Images a second of the training step, on one batch that is always ready."""
    recipe = load_recipe(RECIPE, ("model.backbone=convnext_atto", "model.pretrained=false", "train.compile=off"))
    stage = StageSection(size=SMALL, batch=batch, epochs=1, lr=1e-4)
    learner = Learner(recipe.model, recipe.train, 100, stage.size, Runtime.of(recipe.train, frame.CPU))
    learner.begin_stage(stage)
    learner.begin_epoch(stage, 0)
    images_BCHW = torch.randn(batch, 3, SMALL, SMALL).to(memory_format=torch.channels_last)
    labels_B = torch.arange(batch) % 100
    made_up = Batch(images_BCHW, MixedLabels(labels_B, labels_B.flip(0), torch.full((batch,), 0.7)), np.arange(batch))

    def step() -> int:
        learner.take_step(made_up)
        return batch

    return _rate(step)


def _rate(step: Callable[[], int]) -> float:
    """Images a second: the median of some windows, after a warm-up."""
    windows = []
    for number in range(WINDOWS + 1):
        began, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - began < SECONDS:
            count += step()
        if number:
            windows.append(count / (time.perf_counter() - began))
    return statistics.median(windows)


def _resident_mib() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
