"""What keeping photos decoded is worth: images a second of the loader in the first epoch and in later ones.

    python benchmarks/bench_cache.py [--size 256] [--rounds 5] [--json FILE]

Two sets of photos, 400 x 533 as they are everywhere in these benchmarks and the same at 6 megapixels, go from files to
normalised batches of 64: crop, affine, flip, full colour jitter, erasing, normalise. Contenders differ in
`decode.cache`, and in how much of what they would keep fits: all, half, nothing. Without a cache a photo's crop is
decoded; with one the photo, whole, at the largest reduction that the stage can use. So the first epoch is slower with a
cache, later ones are as fast as the pass where all fits, and where nothing does all of them are slower.

Each round goes through all contenders, each with a cache that is empty: a first epoch, then two later ones, of which
the second is measured. Figures are medians over the rounds; processor time is the process's, all threads. The files
that disk's are written to lie in a temporary folder and are read from the system's page cache. "device" is main memory
where there is no GPU, and left out then.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

import frame
from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import draw, photos
from engine.kernels import jpeg
from engine.loader.batches import Epoch, Loader, Samples
from engine.loader.decoded_cache import DecodedCache, InMemory, Reductions
from engine.loader.decoded_files import InFiles, Whose
from engine.loader.source import Files
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import (
    AffineSection,
    AugmentSection,
    ColorSection,
    CropSection,
    RandomErasingSection,
)

BATCH = 64
SMALL, LARGE = "400 x 533", "2,121 x 2,828"
ENLARGED = 5.303  # from the small ones to 6 megapixels
COUNTS = {SMALL: 256, LARGE: 64}
FITS = {"all": 1.0, "half": 0.5, "nothing": 0.0}
SECTION = AugmentSection(
    crop=CropSection(scale=(0.6, 1.0)),
    affine=AffineSection(p=1.0),
    color=ColorSection(p=1.0),
    random_erasing=RandomErasingSection(p=0.5),
)
POLICY = Policy(SECTION, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass
class Contender:
    """Photos of one set with a cache, in which a share fits; "off": without one. Seconds of each round, by the clock
    and of the processor, in first and in later epochs."""

    photos: str
    cache: str
    fits: str
    first: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    later: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    kept: int = 0
    kept_bytes: int = 0

    def row(self, size: int) -> Row:
        count = COUNTS[self.photos]
        return {
            **{"photos": self.photos, "cache": self.cache, "fits": self.fits, "size": size},
            "first_epoch": [count / seconds for seconds, _ in self.first],
            "later_epoch": [count / seconds for seconds, _ in self.later],
            "first_processor_ms": [1000 * seconds / count for _, seconds in self.first],
            "later_processor_ms": [1000 * seconds / count for _, seconds in self.later],
            "kept_photos": self.kept,
            "kept_bytes": self.kept_bytes,
        }


def wanted(paths: Sequence[str], size: int) -> int:
    """Bytes of all of these photos as they would be kept."""
    reductions, total = Reductions(POLICY, size, size), 0
    for path in paths:
        with Image.open(path) as image:
            r = reductions.of(image.height, image.width) if jpeg.available() else 1
            total += 3 * -(-image.height // r) * -(-image.width // r)
    return total


def cache_for(contender: Contender, paths: Sequence[str], size: int, folder: Path) -> DecodedCache | None:
    if contender.cache == "off":
        return None
    # A block is begun that is not filled.
    limit = int(FITS[contender.fits] * wanted(paths, size) * 1.25)
    if contender.cache == "disk":
        return DecodedCache(len(paths), InFiles(folder, Whose(0, "")), limit)
    return DecodedCache(len(paths), InMemory(frame.device() if contender.cache == "device" else frame.CPU), limit)


def turn(contender: Contender, paths: Sequence[str], size: int, folder: Path, counted: bool) -> None:
    """A first epoch and two later ones."""
    cache = cache_for(contender, paths, size, folder)
    numbers = np.arange(len(paths))
    samples = Samples(paths, Files(paths), numbers * 7919, numbers * 0)
    loader = Loader(samples, DecodeSection(), frame.device(), cache=cache)
    for number in range(3):
        order = np.random.default_rng(number).permutation(len(paths))
        batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        began, worked = time.perf_counter(), time.process_time()
        for batch in loader.train(batches, POLICY, Epoch(0, number, size, size, None)):
            last = batch.images_BCHW
        float(last[0, 0, 0, 0])  # where there is a GPU, it is done
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        if counted and number == 0:
            contender.first.append((seconds, processor))
        elif counted and number == 2:
            contender.later.append((seconds, processor))
    if cache is not None:
        contender.kept, contender.kept_bytes = cache.held.photos, cache.held.bytes
        cache.blocks.remove()


def large(folder: Path, count: int) -> list[str]:
    """The bench's photos, enlarged."""
    folder.mkdir()
    paths = [folder / f"{number:05d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        image = Image.fromarray(draw(number))
        whole = round(image.width * ENLARGED), round(image.height * ENLARGED)
        image.resize(whole, Image.Resampling.BICUBIC).save(path, "JPEG", quality=85)
    return [str(path) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="pixels of the batches' images")
    parser.add_argument("--rounds", type=int, default=5)
    frame.json_option(parser)
    options = parser.parse_args()
    places = ["host", "disk"] if frame.device() == frame.CPU else ["device", "host", "disk"]
    kinds = [("off", ""), *((place, fits) for place in places for fits in FITS)]
    contenders = [Contender(photos_, *kind) for photos_ in COUNTS for kind in kinds]
    with tempfile.TemporaryDirectory() as name:
        paths = {SMALL: photos(count=COUNTS[SMALL]), LARGE: large(Path(name) / "large", COUNTS[LARGE])}
        for round_ in range(options.rounds + 1):
            for one in contenders:
                folder = Path(name) / "kept"
                turn(one, paths[one.photos], options.size, folder, counted=round_ > 0)
                shutil.rmtree(folder, ignore_errors=True)
    Console(stderr=True).print(table(contenders))
    rows = [one.row(options.size) for one in contenders]
    settings = {
        "batch": BATCH,
        "rounds": options.rounds,
        "counts": COUNTS,
        "decoder": "turbo" if jpeg.available() else "dali",
    }
    frame.finish(frame.result(rows, settings, frame.device()), options.json)


def table(contenders: Sequence[Contender]) -> object:
    shown = []
    for one in contenders:
        count, cells = COUNTS[one.photos], []
        for epochs in (one.first, one.later):
            seconds, processor = (statistics.median(column) for column in zip(*epochs, strict=True))
            cells += [f"{count / seconds:,.0f}", f"{1000 * processor / count:.2f}"]
        kept = f"{one.kept}, {one.kept_bytes / 2**20:,.0f} MiB" if one.cache != "off" else ""
        shown.append((one.photos, one.cache, one.fits, *cells, kept))
    headings = ("photos", "cache", "fits", "first", "cpu ms", "later", "cpu ms", "kept")
    title = "images a second from files to batches, first and later epochs, and processor time an image"
    return frame.table(title, headings, shown, words=3)


if __name__ == "__main__":
    main()
