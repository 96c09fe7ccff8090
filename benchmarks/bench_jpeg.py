"""Decoding JPEGs on the CPU: the part a training crop needs by libjpeg-turbo, beside whole photos by DALI.

    python benchmarks/bench_jpeg.py [--repeats 7] [--json FILE]

Photos of 0.2, 1.3 and 10 megapixels, drawn for the purpose and held in memory, are decoded in batches on one thread
and on all cores:

* DALI: whole photos, as the loader decodes without the compiled library;
* simplejpeg: whole photos by libjpeg-turbo, the usual binding, into memory that is used again;
* turbo alone, whole: the same by kernels/jpeg.cpp, libjpeg-turbo reading the Huffman codes;
* turbo, whole: with these read by kernels/jpeg_huffman.h, to the same pixels;
* turbo, whole, fast: as training decodes with decode.fast = "on";
* turbo, crop: only the region a random resized crop reads (0.08 to 1 of the area as on ImageNet, and 0.6 to 1);
* turbo, crop, reduced: also no larger than an output of 256 or 512 pixels needs.

Contenders take turns; figures are medians over the rounds. Differences follow, in steps of 1/255: between whole photos
as decoded by DALI and by libjpeg-turbo, by libjpeg-turbo fast and exactly (on average, and what 1 % of the values are
off by at least), and between 256-pixel crops read from whole photos and from regions that were decoded reduced, exactly
and fast.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from rich.console import Console

import frame
from engine.augment.policy import Policy
from engine.augment.regions import fit_to_regions, needed_regions
from engine.bench.envelope import Row
from engine.bench.photos import QUALITY, draw
from engine.decode.dali import DaliDecoder
from engine.decode.decoder import Decoder, Pixels
from engine.decode.turbo import TurboDecoder
from engine.kernels import Ragged, jpeg, one_pass
from engine.kernels.jpeg import Region
from engine.quarantine import Fault
from engine.recipe.sections.augment import AugmentSection, CropSection
from engine.system import cores
from frame import Contender, take_turns

TILES = {"533 x 400": (1, 1, 32), "1066 x 1200": (2, 3, 16), "3198 x 3200": (6, 8, 4)}  # down, across, photos
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
HOST = torch.device("cpu")
WARM_UP = 2

Run = Callable[[], object]
Regions = Callable[[torch.Tensor], list[Region]]  # of photos of these (height, width)


def encoded_photos(down: int, across: int, count: int) -> list[bytes]:
    """Photos put together from the bench's own, upright ones."""
    drawn = [draw(number) for number in range(24)]
    tiles = [tile for tile in drawn if tile.shape[0] > tile.shape[1]]
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        chosen = random.integers(0, len(tiles), (down, across))
        pixels_HW3 = np.concatenate([np.concatenate([tiles[i] for i in row], axis=1) for row in chosen])
        file = io.BytesIO()
        Image.fromarray(pixels_HW3).save(file, "JPEG", quality=QUALITY)
        encoded.append(file.getvalue())
    return encoded


def crop_plan(scale: tuple[float, float], size: int, count: int, sizes_B2: torch.Tensor) -> Any:
    policy = Policy(AugmentSection(crop=CropSection(scale=scale)), MEAN, STD)
    return policy.draw(torch.arange(count), sizes_B2, size, size, seed=0, epoch=0)


def crops(scale: tuple[float, float], size: int, reduce: bool) -> Regions:
    """The regions that random resized crops of photos need."""
    return lambda sizes_B2: needed_regions(crop_plan(scale, size, len(sizes_B2), sizes_B2), sizes_B2, reduce)


def decode(
    decoder: Decoder, encoded: Sequence[bytes], regions: Regions | None = None, rough: bool = False
) -> list[Pixels]:
    """Photos that are all good; None: whole."""
    opened = [one for one in decoder.open(encoded) if not isinstance(one, Fault)]
    sizes_B2 = torch.tensor([(one.height, one.width) for one in opened])
    pixels = decoder.pixels(opened, regions(sizes_B2) if regions else None, rough)
    return [one for one in pixels if not isinstance(one, Fault)]


def contenders(encoded: Sequence[bytes], threads: int) -> dict[str, Run]:
    dali, turbo = DaliDecoder(HOST, threads), TurboDecoder(threads)
    runs: dict[str, Run] = {"DALI": lambda: decode(dali, encoded)}
    pool = ThreadPoolExecutor(threads)
    room = [np.zeros(40_000_000 if len(content) > 1e6 else 4_000_000, dtype=np.uint8) for content in encoded]
    runs["simplejpeg"] = lambda: list(
        pool.map(lambda content, out: simplejpeg.decode_jpeg(content, buffer=out), encoded, room)
    )
    runs |= whole_by_turbo(encoded, threads)
    for name, scale in (("0.08 to 1", (0.08, 1.0)), ("0.6 to 1", (0.6, 1.0))):
        runs[f"turbo, crop of {name}"] = partial(decode, turbo, encoded, crops(scale, 256, reduce=False))
        for size in (512, 256):
            runs[f"turbo, crop of {name}, for {size}"] = partial(
                decode, turbo, encoded, crops(scale, size, reduce=True)
            )
    return runs


def whole_by_turbo(encoded: Sequence[bytes], threads: int) -> dict[str, Run]:
    """Whole photos into memory that is used again, by each way to decode them."""
    opened = [one for one in TurboDecoder(threads).open(encoded) if not isinstance(one, Fault)]
    photos = [(one.content, one.header) for one in opened if one.header is not None]
    contents, headers = zip(*photos, strict=True)
    regions = [Region(0, 0, header.width, header.height) for header in headers]
    memory = np.zeros(sum(3 * header.width * header.height + 64 for header in headers), dtype=np.uint8)

    def run(fast: bool = False, alone: bool = False) -> object:
        return jpeg.decode(contents, headers, regions, threads, lambda count: memory[:count], fast, alone)

    return {
        "turbo alone, whole": partial(run, alone=True),
        "turbo, whole": run,
        "turbo, whole, fast": partial(run, fast=True),
    }


def differences(encoded: Sequence[bytes]) -> dict[str, float]:
    """Mean absolute differences in steps of 1/255."""
    turbo = TurboDecoder(cores(), fast=True)
    theirs, ours = decode(DaliDecoder(HOST, cores()), encoded), decode(turbo, encoded)
    fast = decode(turbo, encoded, rough=True)
    off_N = torch.cat([(a.pixels_HW3.int() - b.pixels_HW3).abs().flatten() for a, b in zip(fast, ours, strict=True)])
    whole = [float((a.pixels_HW3.int() - b.pixels_HW3).abs().float().mean()) for a, b in zip(ours, theirs, strict=True)]
    whole_B = Ragged([one.pixels_HW3 for one in theirs])
    plan = crop_plan((0.6, 1.0), 256, len(encoded), whole_B.sizes_B2)
    exact_BCHW = one_pass(whole_B, plan)

    def seen(rough: bool) -> float:
        reduced = decode(turbo, encoded, crops((0.6, 1.0), 256, reduce=True), rough)
        fitted = fit_to_regions(plan, torch.tensor([one[1:] for one in reduced], dtype=torch.int32))
        seen_BCHW = one_pass(Ragged([one.pixels_HW3 for one in reduced]), fitted)
        return float((seen_BCHW - exact_BCHW).abs().mean()) * STD[0] * 255

    return {
        "whole, turbo to DALI": statistics.mean(whole),
        "whole, fast to exact": float(off_N.float().mean()),
        "whole, fast to exact, 99 %": float(np.percentile(off_N.numpy(), 99)),
        "256-pixel crop, reduced to whole": seen(rough=False),
        "256-pixel crop, reduced and fast to whole": seen(rough=True),
    }


def measured(encoded: Sequence[bytes], repeats: int) -> dict[int, list[Contender]]:
    """The contenders after their turns, by how many threads they had."""
    found = {}
    for threads in sorted({1, cores()}):
        found[threads] = [Contender(name, run, len(encoded)) for name, run in contenders(encoded, threads).items()]
        take_turns(found[threads], repeats, WARM_UP)
    return found


def show(title: str, found: dict[int, list[Contender]], console: Console) -> None:
    headings, columns = ["images a second"], []
    for threads, group in found.items():
        headings += [f"{threads} thread{'s'[: threads > 1]}", "times DALI"]
        columns.append([f"{c.rate:,.0f}" if c.rate >= 100 else f"{c.rate:.1f}" for c in group])
        columns.append([f"{c.rate / group[0].rate:.2f}" for c in group])  # DALI comes first
    names = [c.name for c in next(iter(found.values()))]
    console.print(frame.table(title, headings, zip(names, *columns, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding JPEGs on the CPU.")
    parser.add_argument("--repeats", type=int, default=7)
    frame.json_option(parser)
    arguments = parser.parse_args()

    console = Console(width=110)
    rows: list[Row] = []
    for label, (down, across, count) in TILES.items():
        encoded = encoded_photos(down, across, count)
        kilobytes = round(sum(map(len, encoded)) / count / 1000)
        found = measured(encoded, arguments.repeats)
        show(f"{label} pixels, {kilobytes} kB", found, console)
        far = {name: round(value, 3) for name, value in differences(encoded).items()}
        console.print(far)
        rows += [
            {"photo": label, "kilobytes": kilobytes, "threads": threads, "contender": c.name, "windows": c.windows}
            for threads, group in found.items()
            for c in group
        ]
        rows += [{"photo": label, "between": name, "mean_difference": value} for name, value in far.items()]
    settings = {"repeats": arguments.repeats, "photos": {label: count for label, (_, _, count) in TILES.items()}}
    frame.finish(frame.result(rows, settings), arguments.json)


if __name__ == "__main__":
    torch.set_num_threads(1)  # plans are small: torch's threads would only be in the way
    main()
