"""Training with the engine and training with timm's own parts: the same photos, weights, epochs and seeds.

    python benchmarks/bench_timm.py --data DIR [--seeds 3] [--json FILE]

DIR holds one sub-folder of JPEGs per class. The engine's folds hold a fifth out; timm gets links to the same files.
Each training runs in a process of its own, one at a time, and who goes first changes with the seed. Both sides begin
with the same backbone weights and a fresh classifier each. No hub is asked: the weights are those of a file, those of
a short training on drawn vehicles (the default: fine-tuning is what both sides are made for), or random ones.

Equal on both sides: images, split, backbone, size, batch, epochs, incomplete last batch dropped, AdamW and what has no
weight decay, peak and last learning rate of a cosine set at every update, warm-up length, clipping, label smoothing,
MixUp's and CutMix's alphas and chance, EMA decay and its warm-up, fp32, torch's threads, loader workers or decoding
threads; random resized crops (area as given, 3/4 to 4/3), flips, random erasing with noise; scored after every epoch by
`engine.metrics.score` on the averaged weights, with checkpoints written; the epoch of the lowest log loss is reported.

Different, each side's own way:

* Decoding and augmentation. timm: PIL and uint8 images in worker processes, one operation after the other, bilinear or
  bicubic at random. Engine: decoding threads and one antialiased bilinear pass.
* RandAugment. timm's `rand-m9-mstd0.5-inc1` applies each of two operations with a chance of one half, at strength 9 of
  10 with noise; the engine's always applies both, at magnitude 9 of 30, as the paper's table has them. timm's noise is
  kept from reaching 10 (`mmax9`), where timm 1.0.31 dies of Pillow 13.
* Mixing. timm mixes a batch with itself reversed, one weight and kind for the whole batch; the engine draws them for
  each image.
* Learning-rate warm-up starts at 1e-5 (timm) or at one step's share of the peak (engine).
* Validation. timm: the middle 87.5 % (its crop_pct), bicubic; engine: the whole shorter side, bilinear.
* Files. timm writes a checkpoint at the end of each epoch and goes on when it is written; the engine writes its resume
  state in the background, and the out-of-fold predictions beside the weights.
* The classifier's initial weights, and all random numbers.

Seconds are from building the model to the last file; indexing the photos, which the engine does once and keeps, and
starting Python are left out. Images a second are those of training epochs without the first one; waiting is the part
of these in which the step had no batch. Processor time is that of a training with all its workers.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import timm
import torch
from rich.console import Console

import frame
from engine.bench.envelope import Row, without_place
from engine.metrics import class_share_log_loss
from engine.synth.sets import VehicleSet, draw_set
from engine.training.prepare import prepare
from peers import engine_way, timm_way
from peers.task import EpochResult, Outcome, Report, Task, link

SIDES: dict[str, Callable[[Task, Report], Outcome]] = {"engine": engine_way.run, "timm": timm_way.run}
VEHICLES = VehicleSet(classes=12, per_class=80, test_per_class=0, seed=3)


class Trained(NamedTuple):
    """One side's training with one seed."""

    side: str
    seed: int
    outcome: Outcome


# --- what both sides are given ---------------------------------------------------------------------------------------


def lay_out(task: Task) -> tuple[Task, float]:
    """Split the data and link it for timm; the task with its number of classes, and the class shares' log loss."""
    prepared = prepare(engine_way.recipe(dataclasses.replace(task, weights="")))
    data, manifest = prepared.fold_data(0), prepared.manifest
    for name, rows in (("train", data.train_rows_N), ("validation", data.held_rows_N)):
        part = manifest.take(rows)
        link(Path(task.split), name, part.ids, part.labels, part.paths)
    labels_N = prepared.samples.labels_N
    classes = len(prepared.classes)
    baseline = class_share_log_loss(labels_N[data.train_rows_N], labels_N[data.held_rows_N], classes)
    return dataclasses.replace(task, classes=classes), baseline


def initial_weights(kind: str, task: Task, work: Path, epochs: int) -> str:
    """Path of the weights that both sides begin with: `kind` is vehicles, random, or a file's path."""
    if kind not in ("vehicles", "random"):
        return kind
    name = f"vehicles-{task.size}-{epochs}" if kind == "vehicles" else "random"
    path = work / f"{task.backbone}-{name}.safetensors"
    if path.is_file():
        return str(path)
    if kind == "vehicles":
        draw_set(work / "vehicles", VEHICLES)
        with _process() as pool:
            source, folder = str(work / "vehicles" / "train"), work / name
            arguments = (source, task.backbone, task.size, epochs, folder, task.threads)
            state = pool.submit(engine_way.pretrain, *arguments).result()
    else:
        torch.manual_seed(0)
        state = timm.create_model(task.backbone, num_classes=0).state_dict()
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return str(path)


# --- the comparison --------------------------------------------------------------------------------------------------


def compare(task: Task, seeds: int, work: Path) -> list[Trained]:
    """Train both sides with each seed, in turns. Raises RuntimeError as `check_same_files` does."""
    trained: list[Trained] = []
    for seed in range(seeds):
        order = list(SIDES) if seed % 2 == 0 else list(SIDES)[::-1]
        for side in order:
            output = work / "runs" / f"{side}-{seed}"
            with _process() as pool:
                own = dataclasses.replace(task, seed=seed, output=str(output))
                trained.append(Trained(side, seed, pool.submit(train_side, side, own).result()))
    check_same_files(trained)
    return trained


def check_same_files(trained: Sequence[Trained]) -> None:
    """Raise RuntimeError unless everybody trained on the same files and was scored on the same others."""
    if len({(t.outcome.train_mark, t.outcome.valid_mark) for t in trained}) != 1:
        raise RuntimeError("the sides did not train and validate on the same files; this comparison means nothing")


def train_side(side: str, task: Task) -> Outcome:
    """One training; a line an epoch on stderr."""

    def report(epoch: EpochResult) -> None:
        line = f"{side:6} seed {task.seed}  {epoch.images / epoch.train_s:6.0f} images/s  "
        line += f"train {epoch.train_loss:.4f}  log loss {epoch.log_loss:.4f}  accuracy {epoch.accuracy:.4f}"
        print(line, file=sys.stderr, flush=True)

    # A process that was spawned would spawn its own, too; a program started by hand has the system's default.
    multiprocessing.set_start_method(None, force=True)
    return SIDES[side](task, report)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def summary(trained: Sequence[Trained]) -> dict[str, dict[str, float]]:
    """By side, medians over the seeds."""
    figures: dict[str, dict[str, float]] = {}
    for side in SIDES:
        own = [t.outcome for t in trained if t.side == side]

        def median(figure: Callable[[Outcome], float], own: Sequence[Outcome] = own) -> float:
            return round(statistics.median(map(figure, own)), 4)

        figures[side] = {
            "log_loss": median(lambda o: o.best.log_loss),
            "accuracy": median(lambda o: o.best.accuracy),
            "last_log_loss": median(lambda o: o.epochs[-1].log_loss),
            "total_s": median(lambda o: o.total_s),
            "images_per_s": median(lambda o: o.images_per_s),
            "waited": median(lambda o: o.waited),
            "valid_s": median(lambda o: statistics.median(e.valid_s for e in o.epochs)),
            "cpu_s": median(lambda o: o.cpu_s),
        }
    return figures


def show(trained: Sequence[Trained], baseline: float, task: Task, console: Console) -> None:
    """The medians as a table, log losses and seconds with their range over the seeds."""
    figures = summary(trained)
    rows: list[tuple[str, str, str, Callable[[Outcome], float]]] = [
        ("log loss", "log_loss", ".4f", lambda o: o.best.log_loss),
        ("accuracy", "accuracy", ".4f", lambda o: o.best.accuracy),
        ("log loss, last epoch", "last_log_loss", ".4f", lambda o: o.epochs[-1].log_loss),
        ("seconds in all", "total_s", ".1f", lambda o: o.total_s),
        ("images/s, training", "images_per_s", ".0f", lambda o: o.images_per_s),
        ("step waited", "waited", ".0%", lambda o: o.waited),
        ("processor seconds", "cpu_s", ".0f", lambda o: o.cpu_s),
    ]
    cells = []
    for label, key, form, figure in rows:
        line = [label]
        for side in SIDES:
            values = [figure(t.outcome) for t in trained if t.side == side]
            line.append(f"{figures[side][key]:{form}}  ({min(values):{form}} - {max(values):{form}})")
        cells.append(line)
    title = f"{task.backbone}, {task.size} px, {task.epochs} epochs, {len({t.seed for t in trained})} seeds; "
    title += f"log loss of the class shares {baseline:.4f}"
    console.print(frame.table(title, ["", *SIDES], cells))


def row(trained: Trained) -> Row:
    """A training, for a result."""
    outcome = trained.outcome
    return {
        "side": trained.side,
        "seed": trained.seed,
        "total_s": outcome.total_s,
        "cpu_s": outcome.cpu_s,
        "epochs": [dataclasses.asdict(epoch) for epoch in outcome.epochs],
    }


def settings_of(task: Task, baseline: float, weights: str, pretrain_epochs: int) -> dict[str, Any]:
    """What all trainings share, without paths of this machine."""
    places = ("data", "split", "output", "cache", "weights", "seed")
    return {
        "data": without_place(task.data),
        "initial_weights": weights if weights in ("vehicles", "random") else Path(weights).name,
        "pretrain_epochs": pretrain_epochs if weights == "vehicles" else None,
        "task": {key: value for key, value in dataclasses.asdict(task).items() if key not in places},
        "baseline_log_loss": round(baseline, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine beside timm: training on the CPU.")
    parser.add_argument("--data", type=Path, required=True, help="folder with one sub-folder of JPEGs per class")
    parser.add_argument("--weights", default="vehicles", help="vehicles, random, or a file of timm's backbone")
    parser.add_argument("--pretrain-epochs", type=int, default=12, help="epochs on drawn vehicles")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="convnext_zepto_rms")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folds", type=int, default=5, help="one in so many is held out")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup-epochs", type=float, default=1.0)
    parser.add_argument("--clip", type=float, default=1.0, help="largest gradient norm; 0: any")
    parser.add_argument("--ema", type=float, default=0.99, help="decay; 0: none")
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--mixup", type=float, default=0.2, help="alpha")
    parser.add_argument("--cutmix", type=float, default=1.0, help="alpha")
    parser.add_argument("--mix-p", type=float, default=0.5, help="chance of mixing")
    parser.add_argument("--scale", type=float, nargs=2, default=(0.35, 1.0), help="area of random crops")
    parser.add_argument("--magnitude", type=int, default=9, help="of RandAugment; 0: colour jitter instead")
    parser.add_argument("--erase-p", type=float, default=0.25, help="chance of random erasing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="torch's")
    parser.add_argument("--work", type=Path, help="keep weights and checkpoints here; default: a temporary folder")
    frame.json_option(parser)
    arguments = parser.parse_args()
    if not any(path.is_dir() for path in (arguments.data.iterdir() if arguments.data.is_dir() else ())):
        parser.error(f"--data {arguments.data}: expected a folder with one sub-folder of images per class")
    # Before any process starts: what waits for work must not spin beside what works.
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(arguments.threads)}
    own = {field.name for field in dataclasses.fields(Task)}
    shared = {key: value for key, value in vars(arguments).items() if key in own}
    with tempfile.TemporaryDirectory(prefix="bench-timm-") as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        places = {"data": str(arguments.data), "cache": f"{work}/cache", "output": f"{work}/none", "weights": ""}
        task = Task(**(shared | places), split=f"{temporary}/split", classes=0, min_lr_ratio=0.01, seed=0)
        task, baseline = lay_out(dataclasses.replace(task, scale=tuple(arguments.scale)))
        weights = initial_weights(arguments.weights, task, work, arguments.pretrain_epochs)
        with tempfile.TemporaryDirectory(dir=work, prefix="runs-") as runs:  # a run left there would be gone on with
            trained = compare(dataclasses.replace(task, weights=weights), arguments.seeds, Path(runs))
    show(trained, baseline, task, Console(width=110))
    torch.set_num_threads(task.threads)  # as in the processes that trained: the result names it
    settings = settings_of(task, baseline, arguments.weights, arguments.pretrain_epochs)
    frame.finish(frame.result([row(one) for one in trained], settings), arguments.json)


if __name__ == "__main__":
    main()
