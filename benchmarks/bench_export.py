"""Exported files beside the run that they are made of, on real photos, on the CPU.

    python benchmarks/bench_export.py RUN --photos TABLE --truth TRUTH [--more DIR] [--json FILE]

All folds and one fold alone are exported in every precision that runs here, and asked about the same photos as the run:
how far a probability is off at most, how often the likeliest class is another one, what the log loss is where labels
are known, how large the file is, and how many photos a second each answers about. Half of the photos are as they lie in
the table, half are cropped and resized to many sizes, from 24 pixels a side to 12 megapixels, and of any aspect.

Photos a second: from decoded pixels to probabilities, one at a time, in turns. The engine answers about a photo in the
company of blank ones (see engine/inference/microbatches.py), so this is what a single photo costs, and no rate of many.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

import frame
from engine.bench.envelope import Row
from engine.export.parity import photos_at_hand
from engine.export.prove import asked_of
from engine.export.runner import Exported
from engine.export.write import SUFFIX, Wanted, models_of, write
from engine.metrics import log_loss
from engine.pictures import read_pixels
from engine.quarantine import Fault

Pixels = NDArray[np.uint8]
CASES = (
    ("", (("onnx", "fp32"),)),
    ("0", (("onnx", "fp32"), ("torch", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("torch", "bf16"))),
    ("", (("onnx", "int8"), ("onnx", "fp16"))),
)
"""By the name of the fold, "" for all: what is made of it."""


def photos(folder: Path, truth: Path, more: Path | None, count: int) -> tuple[list[Pixels], list[str]]:
    """Upright pixels and labels ("" for those that are not of the table); a half as they are, a half of other sizes."""
    random = np.random.default_rng(3)
    rows = list(csv.DictReader(truth.open(encoding="utf-8")))
    own = [rows[place] for place in random.permutation(len(rows))[: count * 3 // 4]]
    name, label = next(iter(rows[0])), "label"
    files = [(next(folder.glob(f"{row[name]}*")), row[label]) for row in own]
    others = sorted(more.rglob("*.jpg")) if more else []
    files += [(others[place], "") for place in random.permutation(len(others))[: count - len(files)]]
    found: list[tuple[Pixels, str]] = []
    for number, (path, own_label) in enumerate(files):
        pixels = read_pixels(path.read_bytes())
        if isinstance(pixels, Fault):
            continue
        found.append((pixels if number < count // 2 else resized(pixels, random, number), own_label))
    return [pixels for pixels, _ in found], [own_label for _, own_label in found]


def resized(pixels: Pixels, random: np.random.Generator, number: int) -> Pixels:
    """A part of a photo at another size: at most a quarter of each side is cut off."""
    height, width = pixels.shape[:2]
    top, left = (int(random.integers(0, side // 4 + 1)) for side in (height, width))
    long = 4000 if number % 50 == 0 else int(24 * 2 ** random.uniform(0, 6))  # pixels
    image = Image.fromarray(pixels[top:, left:])
    size = (long, max(8, int(long * random.uniform(0.4, 1)))) if number % 2 else (int(long * 0.75), long)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def measure(
    run: Path, fold: str, kinds: Sequence[tuple[str, str]], shown: Any, options: Any, folder: Path
) -> list[Row]:
    """Rows of what is made of a fold, or of all, and of the run itself."""
    pixels, labels = shown
    models, _ = models_of(run, Wanted(fold=fold))
    ask = asked_of(models)
    calibrating = photos_at_hand(models.recipe.data, count=64).pixels
    run_NC = ask(pixels)
    known = [row for row, label in enumerate(labels) if label in models.classes]
    y_N = np.array([models.classes.index(labels[row]) for row in known])
    timed = pixels[: options.timed]
    own = {"fold": fold or "all", "models": len(models.members), "views": len(models.recipe.predict.names)}
    rows: list[Row] = [own | {"runtime": "engine", "precision": "fp32", "log_loss": log_loss(run_NC[known], y_N)}]
    contenders = [frame.Contender("engine", _each(ask, timed), len(timed))]
    for kind, precision in kinds:
        path = folder / f"{fold or 'all'}_{precision}{SUFFIX[kind]}"
        wanted = Wanted(kind, fold, precision=precision)  # type: ignore[arg-type]
        row = own | {"runtime": "onnxruntime" if kind == "onnx" else "torch", "precision": precision}
        try:
            write(models, path, wanted, calibrating)
        except Exception as error:
            rows.append(row | {"refused": str(error).replace(os.fspath(folder), "")})
            continue
        exported = Exported.open(path, options.threads)
        file_NC = exported.probabilities(pixels)
        rows.append(
            row
            | {
                "photos": len(pixels),
                "difference": float(np.abs(file_NC - run_NC).max()),
                "agreement": float((file_NC.argmax(1) == run_NC.argmax(1)).mean()),
                "log_loss": log_loss(file_NC[known], y_N),
                "labelled": len(known),
                "megabytes": path.stat().st_size / 1e6,
            }
        )
        contenders.append(frame.Contender(str(len(rows) - 1), _each(exported.probabilities, timed), len(timed)))
        print(rows[-1], file=sys.stderr, flush=True)
    frame.take_turns(contenders, options.rounds)
    for contender in contenders:
        rows[0 if contender.name == "engine" else int(contender.name)]["photos_a_second"] = contender.windows
    return rows


def _each(ask: Callable[[Sequence[Pixels]], object], pixels: Sequence[Pixels]) -> Callable[[], None]:
    def one_by_one() -> None:
        for each in pixels:
            ask([each])

    return one_by_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photos that the truth names")
    parser.add_argument("--truth", type=Path, required=True, help="a table of ids and labels")
    parser.add_argument("--more", type=Path, help="a folder of further photos, without labels")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--timed", type=int, default=12, help="photos whose time is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", type=int, default=len(CASES), help="so many of the cases, the first ones")
    frame.json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shown = photos(options.photos, options.truth, options.more, options.count)
    rows: list[Row] = []
    sizes = sorted({pixels.shape[:2] for pixels in shown[0]})
    settings = {
        "photos": len(shown[0]),
        "sizes": len(sizes),
        "least": min(map(min, sizes)),
        "most": max(map(max, sizes)),
        "timed": options.timed,
        "threads": options.threads,
    }
    with tempfile.TemporaryDirectory(prefix="bench-export-") as folder:
        for fold, kinds in CASES[: options.cases]:
            rows += measure(options.run, fold, kinds, shown, options, Path(folder))
            settings["load"] = os.getloadavg()[1]
            if options.json is not None:  # what was measured stays, whatever becomes of the rest
                frame.result(rows, settings).write(options.json)
    show(rows, Console(width=130))
    frame.finish(frame.result(rows, settings), options.json)


def show(rows: Sequence[Row], console: Console) -> None:
    cells = [
        [
            f"{row['fold']} ({row['models']} x {row['views']})",
            row["runtime"],
            row["precision"],
            *(f"{row[name]:{form}}" if name in row else "" for name, form in _COLUMNS),
            f"{np.median(row['photos_a_second']):.1f}" if "photos_a_second" in row else "",
        ]
        for row in rows
    ]
    console.print(frame.table("", [*_HEADINGS, "photos/s"], cells, words=3))


_COLUMNS = (("difference", ".1e"), ("agreement", ".1%"), ("log_loss", ".4f"), ("megabytes", ".1f"))
_HEADINGS = ("fold (models x views)", "runtime", "precision", "off by", "same answer", "log loss", "MB")


if __name__ == "__main__":
    main()
