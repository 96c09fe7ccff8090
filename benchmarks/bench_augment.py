"""The one pass against its limits and its peers, side by side in one run.

    python benchmarks/bench_augment.py [--data DIR] [--sizes 256,512] [--repeats 5] [--json FILE]

The work: 400 x 533 photos, decoded and in memory, to normalised float32 batches: random resized crop (8% to 100% of the
area), affine (15 degrees, shift 0.05, scale 0.1), flip, full colour jitter in random order, random erasing, normalise.
Peers do the same operations with their own functions on the same photos. OpenCV's warpAffine alone (uint8, the same
matrices, geometry only) is the yardstick: machines differ and are shared, ratios to it in the same run do not.

Why interleaved: the contenders take turns, one repeat each, so that a slow minute of the machine slows all of them;
what is reported is each one's median. Albumentations and Kornia are measured where they are installed (extra `peers`);
numba, and torch.compile with `--compile`, show what the pass would run at if it were written in them.
Ends with one line of JSON. On a GPU, gpu_suite.py measures the pass.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

import frame
from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import draw as draw_photo
from engine.kernels import Executor, Plan, Ragged, cpu_pass, one_pass
from engine.recipe.sections.augment import (
    AffineSection,
    AugmentSection,
    ColorSection,
    RandomErasingSection,
)
from engine.system import cores
from frame import Contender, take_turns
from gpu_parts.passes import FULL, MEAN, STD, kornia_chain, torchvision_chain

HEIGHT, WIDTH = 533, 400  # of the photos
BATCH = 64
YARDSTICK = "OpenCV warpAffine alone"
PASS = "one pass"
WORK = AugmentSection.model_validate(FULL)

Image = NDArray[np.uint8]


def photos(data: Path | None) -> list[Image]:
    """BATCH upright RGB photos of HEIGHT x WIDTH: from the JPEGs under `data`, or drawn."""
    if data is None:
        return [np.array(upright(draw_photo(i)), order="C") for i in range(BATCH)]
    paths = sorted(data.rglob("*.jpg"))[:BATCH]
    if len(paths) < BATCH:
        raise SystemExit(f"--data {data}: expected at least {BATCH} .jpg files, found {len(paths)}")
    images = [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image is None:
            raise SystemExit(f"{path}: OpenCV cannot decode it; take it out of --data")
    return [
        cv2.resize(upright(image.astype(np.uint8)), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA).astype(np.uint8)
        for image in images
        if image is not None
    ]


def upright(image: Image) -> Image:
    return np.rot90(image) if image.shape[1] > image.shape[0] else image


def make_plan(size: int, section: AugmentSection = WORK) -> Plan:
    sizes_B2 = torch.tensor([[HEIGHT, WIDTH]] * BATCH)
    return Policy(section, MEAN, STD).draw(torch.arange(BATCH), sizes_B2, size, size, seed=0, epoch=0)


# --- contenders on the CPU --------------------------------------------------------------------------------------------


def pass_on(images: Ragged, plan: Plan, executor: Executor, dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    out = torch.empty(
        (len(images), 3, plan.height, plan.width),
        dtype=dtype,
        device=images.device,
        memory_format=torch.channels_last,
    )
    return lambda: one_pass(images, plan, out, executor)


def at_level(level: str, run: Callable[[], object]) -> Callable[[], None]:
    """`run` with the compiled kernel held to one instruction set."""

    def held() -> None:
        os.environ["ENGINE_CPU_SIMD"] = level
        run()
        del os.environ["ENGINE_CPU_SIMD"]

    return held


def warp_affine(images: list[Image], plan: Plan, pool: ThreadPoolExecutor, threads: int) -> Callable[[], object]:
    matrices = plan.matrix_B33[:, :2].double().numpy()
    out = np.empty((BATCH, plan.height, plan.width, 3), np.uint8)

    def share(first: int) -> None:
        for i in range(first, BATCH, threads):
            cv2.warpAffine(
                images[i], matrices[i], (plan.width, plan.height), out[i], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            )

    return lambda: list(pool.map(share, range(threads)))


def kornia_on(chain: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> Tensor:
        return chain(images_BCHW.float() / 255)

    return run


def albumentations_chain(size: int) -> Callable[[Image], Image]:
    import albumentations as a

    chain = a.Compose(
        [
            a.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            a.Affine(rotate=(-15, 15), translate_percent=(-0.05, 0.05), scale=(0.9, 1.1), p=1.0),
            a.HorizontalFlip(),
            a.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=1.0),
            a.Erasing(p=0.5),
            a.Normalize(MEAN, STD),
        ]
    )
    return lambda image: chain(image=image)["image"]


_worker_images: list[Any] = []  # what a forked worker inherits
_worker_chain: list[Callable[[Any], Any]] = []


def _work(share: tuple[int, int]) -> int:
    first, step = share
    for image in _worker_images[first::step]:
        _worker_chain[0](image)
    return 0


def _in_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@contextlib.contextmanager
def per_image(chain: Callable[[Any], Any], images: list[Any], workers: int) -> Iterator[Callable[[], object]]:
    """A chain that takes one image at a time, in a process a core. What they make stays there: no transfer counts."""
    _worker_images[:], _worker_chain[:] = images, [chain]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _in_worker) as pool:
        yield lambda: list(pool.map(_work, [(i, workers) for i in range(workers)]))


def cpu_contenders(
    images: list[Image], size: int, threads: int, with_compile: bool, stack: contextlib.ExitStack
) -> list[Contender]:
    plan = make_plan(size)
    tensors = [torch.from_numpy(image) for image in images]
    ragged, few = Ragged(tensors), Ragged(tensors[:4])
    batch_BCHW = torch.stack(tensors).permute(0, 3, 1, 2)
    pool = stack.enter_context(ThreadPoolExecutor(threads))

    # Processes first: they fork, and should inherit no running threads.
    contenders = []
    chains: list[tuple[str, str, Callable[[int], Callable[[Any], Any]], list[Any]]] = [
        ("torchvision v2", "torchvision", torchvision_chain, [t.permute(2, 0, 1).contiguous() for t in tensors]),
        ("Albumentations", "albumentations", albumentations_chain, list(images)),
    ]
    for name, module, chain, inputs in chains:
        if importlib.util.find_spec(module):
            run = stack.enter_context(per_image(chain(size), inputs[: BATCH // 2], threads))
            contenders.append(Contender(name, run, BATCH // 2))

    contenders.insert(0, Contender(YARDSTICK, warp_affine(images, plan, pool, threads), BATCH))
    if cpu_pass.available():
        whole = pass_on(ragged, plan, "cpu")
        contenders.append(Contender(PASS, whole, BATCH))
        contenders.append(Contender("one pass, bfloat16", pass_on(ragged, plan, "cpu", torch.bfloat16), BATCH))
        no_pixels = {"color": ColorSection(), "random_erasing": RandomErasingSection()}
        bare = make_plan(size, WORK.model_copy(update=no_pixels))
        contenders.append(Contender("one pass, geometry only", pass_on(ragged, bare, "cpu"), BATCH))
        plain = dataclasses.replace(bare, antialias=False)
        contenders.append(Contender("one pass, geometry only, no antialias", pass_on(ragged, plain, "cpu"), BATCH))
        straight = make_plan(size, WORK.model_copy(update={"affine": AffineSection(), **no_pixels}))
        contenders.append(Contender("one pass, geometry only, no rotation", pass_on(ragged, straight, "cpu"), BATCH))
        slower = cpu_pass.LEVELS[: cpu_pass.LEVELS.index(cpu_pass.simd_level())]
        contenders += [Contender(f"one pass, {level}", at_level(level, whole), BATCH) for level in slower]
    contenders.append(Contender("reference", pass_on(few, part_of(plan, 4), "reference"), 4))
    if importlib.util.find_spec("kornia"):
        contenders.append(Contender("Kornia", kornia_on(kornia_chain(size), batch_BCHW[:16]), 16))
    contenders += alternatives(tensors, plan, with_compile)
    return contenders


def alternatives(tensors: list[Tensor], plan: Plan, with_compile: bool) -> list[Contender]:
    """The pass as it would be in numba and torch.compile; without antialiasing, which neither has."""
    import augment_alternatives  # beside this file

    arguments = augment_alternatives.arguments(tensors, plan)
    found = []
    if importlib.util.find_spec("numba"):
        found.append(Contender("in numba, no antialias", augment_alternatives.numba_pass(arguments), BATCH))
    if with_compile:
        found.append(Contender("in torch.compile, no antialias", augment_alternatives.compiled_pass(arguments), BATCH))
    return found


def part_of(plan: Plan, count: int) -> Plan:
    """The plan of the first `count` samples."""
    cut: dict[str, Any] = {
        f.name: value[:count] for f in dataclasses.fields(plan) if isinstance(value := getattr(plan, f.name), Tensor)
    }
    return dataclasses.replace(plan, **cut)


def memory(images: list[Image], size: int, batches: int = 50) -> dict[str, float]:
    """What the compiled pass takes from the system after its first batch: resident memory and page faults."""
    run = pass_on(Ragged([torch.from_numpy(image) for image in images]), make_plan(size), "cpu")
    run()
    run()
    before, faults = resident_mib(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        run()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {
        "batches": batches,
        "resident_growth_mib": round(resident_mib() - before, 2),
        "page_faults_per_batch": faults / batches,
    }


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


# --- measuring and telling --------------------------------------------------------------------------------------------


def show(title: str, contenders: list[Contender], yardstick: float | None, console: Console) -> None:
    against = ["of warpAffine"] if yardstick else []
    cells = [
        [
            c.name,
            f"{c.rate:,.0f}",
            *([f"{c.rate / yardstick:.2f}"] if yardstick else []),
            *(f"{rate:,.0f}" for rate in (min(c.windows), max(c.windows))),
        ]
        for c in contenders
    ]
    console.print(frame.table(title, ["", "images/s", *against, "slowest", "fastest"], cells))


def rows_of(device: str, size: int, contenders: list[Contender]) -> list[Row]:
    return [
        {"device": device, "size": size, "contender": c.name, "images_per_second": round(c.rate, 1)} for c in contenders
    ]


def on_cpu(images: list[Image], size: int, options: argparse.Namespace, console: Console) -> list[Row]:
    with contextlib.ExitStack() as stack:
        contenders = cpu_contenders(images, size, cores(), options.compile, stack)
        take_turns(contenders, options.repeats)
    show(f"CPU, {cores()} cores, {size} px, batches of {BATCH}", contenders, contenders[0].rate, console)
    rows = rows_of("cpu", size, contenders)
    if cpu_pass.available():
        taken = memory(images, size)
        console.print(f"after the first batch, {taken['batches']} more: {taken}\n")
        next(row for row in rows if row["contender"] == PASS)["memory"] = taken
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="folder with JPEGs (default: drawn photos)")
    parser.add_argument("--sizes", default="256,512", help="output sides in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too (takes minutes)")
    frame.json_option(parser)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    device = frame.device()
    torch.set_num_threads(cores())
    cv2.setNumThreads(1)  # its calls are shared out to threads here
    images = photos(options.data)

    console = Console(width=110)
    rows = [row for size in sizes for row in on_cpu(images, size, options, console)]
    settings = {
        "photos": f"{BATCH} {'from --data' if options.data else 'drawn'}, {HEIGHT} x {WIDTH}",
        "simd_level": cpu_pass.simd_level() if cpu_pass.available() else cpu_pass.why_not(),
        "repeats": options.repeats,
    }
    frame.finish(frame.result(rows, settings, device), options.json)


if __name__ == "__main__":
    main()
