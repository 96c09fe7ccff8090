"""Bilinear or bicubic: which filter to train with, and which to score with, on photos of one's own.

    python benchmarks/bench_filter.py RECIPE --test SOURCE [--seeds 3] [--set KEY=VALUE ...] [--json FILE]

The recipe's first fold is trained with each filter and each seed, and the models answer the labelled images of --test
with each filter: what is saved as their contract is changed, nothing else. So four figures a seed, of which two at a
time share their weights and two at a time their scoring. A seed draws weights of the head, batches and augmentation
(and the split, where data.folds.seed does not). Runs stay in the work folder and are used again, or gone on with.

results/filter_cpu.json is of clothes: every second row of a public table (1,519 photos, 17 classes) for training, and
1,062 photos of other people for scoring, with ImageNet's weights to begin with.

Then the pass itself: photos of 400 x 533 fitted into squares, where a pixel of the output spans 1 to 8 of the source,
with each filter in turns, in processor seconds of all threads (neighbours take seconds from the clock).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import torch
from rich.console import Console

import frame
from engine.augment.contract import Contract
from engine.augment.views import PLAIN, view_plan
from engine.bench.envelope import Row, without_place
from engine.bench.photos import draw
from engine.events import Watcher
from engine.files import write_text
from engine.kernels import Ragged, one_pass
from engine.predict.job import prepare as prepare_prediction
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.ranks import Ranks
from engine.recipe.load import load_recipe
from engine.store.checkpoint import load, save
from engine.training.prepare import prepare
from engine.training.run import train

FILTERS = ("bilinear", "bicubic")
SPANS = (1.0, 1.5, 2.0, 4.0, 8.0)  # source pixels to one of the output
PHOTOS = 32
ALONE = Ranks(0, 1, frame.CPU)


def trained(recipe: Path, sets: Sequence[str], filter: str, seed: int, folder: Path) -> None:
    """The first fold, trained with the filter, in `folder`."""
    own = [f"augment.filter={filter}", f"seed={seed}", f"output={folder}", "data.folds.run=[0]"]
    train(prepare(load_recipe(recipe, [*sets, *own])), ALONE, Watcher(), lambda: False)


def scored(folder: Path, filter: str, test: str) -> dict[str, float]:
    """How the fold in `folder` answers the images of `test`, read with the filter."""
    checkpoint = load(folder / "0")
    with tempfile.TemporaryDirectory() as temporary:
        changed = Path(temporary) / "0"
        changed.mkdir()
        save(changed, replace(checkpoint, contract={**checkpoint.contract, "filter": filter}))
        outcome = answer(prepare_prediction(changed, Wishes(data=test)), ALONE.device)
    if outcome.scores is None:
        raise SystemExit(f"--test {test}: its images have no labels that the models know")
    found = outcome.scores.together
    return {"log_loss": found["log_loss"], "accuracy": found["accuracy"], "images": outcome.scores.images}


def accuracy_rows(recipe: Path, sets: Sequence[str], test: str, seeds: int, work: Path) -> list[Row]:
    """A row for each seed, filter of training and filter of scoring."""
    rows: list[Row] = []
    for seed in range(seeds):
        for at in FILTERS if seed % 2 == 0 else FILTERS[::-1]:
            folder = work / f"{at}-{seed}"
            finished = folder / "scored.json"
            if not finished.is_file():
                trained(recipe, sets, at, seed, folder)
                write_text(finished, json.dumps({filter: scored(folder, filter, test) for filter in FILTERS}))
            found: dict[str, Any] = json.loads(finished.read_text("utf-8"))
            for filter, figures in found.items():
                rows.append({"seed": seed, "trained": at, "scored": filter, **figures})
                line = f"seed {seed}  trained {at:8}  scored {filter:8}"
                print(f"{line}  {figures['log_loss']:.4f}  {figures['accuracy']:.4f}", file=sys.stderr, flush=True)
    return rows


def pass_rows(repeats: int) -> list[Row]:
    """A row for each filter and span: images a processor second of the pass."""
    images = Ragged([torch.from_numpy(draw(i).copy()) for i in range(PHOTOS)])
    rows: list[Row] = []
    for span in SPANS:
        size = round(int(images.sizes_B2.min()) / span)
        contenders = []
        for filter in FILTERS:
            contract = Contract(size, size, (0.5,) * 3, (0.5,) * 3, fit="center", filter=filter)
            plan = view_plan(PLAIN, contract, images.sizes_B2, frame.CPU)
            out = torch.empty((PHOTOS, 3, size, size), memory_format=torch.channels_last)
            contenders.append(frame.Contender(filter, functools.partial(one_pass, images, plan, out), PHOTOS))
        frame.take_turns(contenders, repeats, clock=time.process_time)
        rows += [
            {"filter": c.name, "span": span, "size": size, "images_per_cpu_second": [round(w, 1) for w in c.windows]}
            for c in contenders
        ]
    return rows


def show(rows: Sequence[Row], console: Console) -> None:
    """The means over the seeds and the seeds' own, then the pass."""
    cells = []
    for at in FILTERS:
        for filter in FILTERS:
            own = [row for row in rows if row.get("trained") == at and row.get("scored") == filter]
            if own:
                losses, right = ([row[key] for row in own] for key in ("log_loss", "accuracy"))
                each = " ".join(f"{loss:.4f}" for loss in losses)
                cells.append([at, filter, f"{statistics.mean(losses):.4f}", each, f"{statistics.mean(right):.4f}"])
    console.print(frame.table("", ["trained", "scored", "log loss", "by seed", "accuracy"], cells, words=2))
    cells = []
    for span in SPANS:
        rates = [statistics.median(row["images_per_cpu_second"]) for row in rows if row.get("span") == span]
        cells.append([f"{span:g}", *(f"{rate:,.0f}" for rate in rates), f"{rates[1] / rates[0]:.2f}"])
    console.print(frame.table("The pass, images a processor second", ["span", *FILTERS, "ratio"], cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="what is trained; augment.filter, seed and output are set here")
    parser.add_argument("--test", required=True, help="labelled images that no training sees: a folder or a table")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7, help="of the pass")
    parser.add_argument("--work", type=Path, help="keep the runs here; default: a temporary folder")
    frame.json_option(parser)
    options = parser.parse_args()
    made = load_recipe(options.recipe, options.sets)
    with tempfile.TemporaryDirectory(prefix="bench-filter-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        rows = accuracy_rows(options.recipe, options.sets, options.test, options.seeds, work)
    rows += pass_rows(options.repeats)
    show(rows, Console(width=110))
    settings = {
        "backbone": made.model.backbone,
        "weights": Path(made.model.weights).name,
        "data": without_place(made.data.train),
        "test": without_place(options.test),
        "folds": made.data.folds.count,
        "crop": made.augment.crop.model_dump(mode="json"),
        "valid": made.augment.valid.model_dump(mode="json"),
        "stages": [{"size": list(s.size), "batch": s.batch, "epochs": s.epochs, "lr": s.lr} for s in made.stage],
        "photos_of_the_pass": PHOTOS,
    }
    frame.finish(frame.result(rows, settings), options.json)


if __name__ == "__main__":
    main()
