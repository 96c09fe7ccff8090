"""Fine-tuning with the engine, with timm's own parts and with fastai, scored on photos that nobody trained on.

    python benchmarks/bench_finetune.py --recipe RECIPE --test TABLE --truth TABLE --work DIR [--fastai PYTHON]
        [--seeds 3] [--ensembles 1] [--json FILE]

The recipe says the photos, the weights that all begin with (`model.weights`), the size, the epochs and the batch. Its
fold 0 is held out: by it each side picks its best epoch (lowest log loss). timm and fastai get links to the same files.
The table of `--truth` has labels and groups for the photos of `--test`; those with another label than the training's
are left out. `--fastai` is a Python that has fastai 2; without it, that side is left out.

Each training runs in a process of its own, one at a time, and who goes first changes with the seed.

* engine: the recipe as it stands, one fold; one view, uncalibrated (`engine`), and as `engine infer` answers with it
  (`engine, as answered`).
* timm: its script's parts, with the recipe's rates, epochs, crops and mixing (see `peers/timm_way.py`).
* fastai: `vision_learner` and `fine_tune` with their defaults (see `peers/fastai_way.py`).
* engine, folds: all folds of the recipe, answered as `engine infer` does: with the recipe's views, calibrated on what
  they held out. For the first `--ensembles` seeds; its time is that of all folds.

Seconds are from building the model to the last file, without indexing the photos and without the test photos. A
difference is in log loss on the test photos, paired, with its 95 % interval by groups of photos (bootstrap).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import safetensors.torch
import torch
from rich.console import Console

import frame
from engine.bench.envelope import Row, without_place
from engine.events import Watcher
from engine.intervals import compare
from engine.metrics import score
from engine.model.build import build_model
from engine.predict.predictor import Predictor
from engine.predictions import Predictions
from engine.ranks import Ranks
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe
from engine.training.prepare import prepare
from engine.training.run import train
from peers import timm_way
from peers.photos import Photos, labelled_photos
from peers.task import Task, link, processor_seconds

SHOWN = ("log_loss", "accuracy", "macro_f1", "calibration_error")
UNCALIBRATED = ("ensemble.calibrate=off",)
FASTAI = Path(__file__).resolve().parent / "peers" / "fastai_way.py"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What one side answers with one seed, and what its training took."""

    side: str
    seed: int
    file: Path
    total_s: float
    cpu_s: float


# --- what all sides are given ----------------------------------------------------------------------------------------


def lay_out(recipe: Recipe, work: Path) -> tuple[Path, int]:
    """Link fold 0 for timm and fastai; the folder and the number of classes."""
    split = work / "split"
    prepared = prepare(_of_seed(recipe, 0, work / "none", all_folds=False))
    if not split.is_dir():
        data, manifest = prepared.fold_data(0), prepared.manifest
        for name, rows in (("train", data.train_rows_N), ("validation", data.held_rows_N)):
            part = manifest.take(rows)
            link(split, name, [Path(path).name for path in part.paths], part.labels, part.paths)
    return split, len(prepared.classes)


def test_photos(recipe: Recipe, table: str, truth: str, split: Path) -> Photos:
    """The photos to score by; linked where timm and fastai look."""
    classes = {path.name for path in (split / "train").iterdir()}
    photos = labelled_photos(table, truth, recipe.data, classes)
    if not (split.parent / "test").is_dir():
        link(split.parent, "test", photos.ids, photos.labels, photos.paths)
    return photos


def timm_weights(recipe: Recipe, classes: int, work: Path) -> Path:
    """The recipe's weights under timm's names, for the others to begin with."""
    path = work / "weights.safetensors"
    if not path.is_file():
        model = build_model(recipe.model, classes, recipe.stage[0].size)
        state = model.get_submodule("backbone").state_dict()
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def task_of(recipe: Recipe, classes: int, split: Path, weights: Path, threads: int) -> Task:
    """The recipe's numbers where timm and fastai have the same."""
    stage, fitting, augment = recipe.stage[0], recipe.train, recipe.augment
    mix = augment.mix[0] if augment.mix else None
    return Task(
        data=recipe.data.train,
        split=str(split),
        output="",
        cache="",
        weights=str(weights),
        classes=classes,
        folds=recipe.data.folds.count,
        backbone=recipe.model.backbone,
        size=stage.size[0],
        batch=stage.batch,
        epochs=stage.epochs,
        lr=stage.lr,
        weight_decay=fitting.weight_decay,
        warmup_epochs=fitting.schedule.warmup_epochs,
        min_lr_ratio=fitting.schedule.min_lr_ratio,
        clip=fitting.clip,
        ema=fitting.ema or 0.0,
        smoothing=fitting.label_smoothing,
        mixup=mix.mixup if mix else 0.0,
        cutmix=mix.cutmix if mix else 0.0,
        mix_p=mix.p if mix else 0.0,
        scale=augment.crop.scale,
        magnitude=0,
        erase_p=0.0,
        workers=threads,
        threads=threads,
        seed=0,
        test=str(split.parent / "test"),
    )


# --- the sides -------------------------------------------------------------------------------------------------------


def _of_seed(recipe: Recipe, seed: int, output: Path, all_folds: bool) -> Recipe:
    """The recipe with another seed; its folds stay those that the others were given."""
    folds = recipe.data.folds.model_copy(update={"run": () if all_folds else (0,), "seed": recipe.seed})
    data = recipe.data.model_copy(update={"folds": folds, "test": ""})
    return recipe.model_copy(update={"seed": seed, "output": str(output), "data": data})


def engine_side(recipe: Recipe, seed: int, output: Path, threads: int, all_folds: bool) -> tuple[float, float]:
    """Train; wall and processor seconds."""
    torch.set_num_threads(threads)
    prepared = prepare(_of_seed(recipe, seed, output, all_folds))
    began_s, worked_s = time.perf_counter(), processor_seconds()
    train(prepared, Ranks(0, 1, torch.device("cpu")), Watcher(), lambda: False)
    return time.perf_counter() - began_s, processor_seconds() - worked_s


def engine_answers(models: Path, photos: Photos, file: Path, plain: bool) -> None:
    """Answer the test photos, as `engine infer` does or with one view and uncalibrated."""
    predictor = Predictor(models, tta=1, sets=UNCALIBRATED) if plain else Predictor(models)
    predictor(photos.paths, photos.ids).write_csv(file)


def timm_side(task: Task) -> tuple[float, float]:
    # A process that was spawned would spawn its own, too; a program started by hand has the system's default.
    multiprocessing.set_start_method(None, force=True)
    outcome = timm_way.run(task, lambda epoch: None)
    return outcome.total_s, outcome.cpu_s


def fastai_side(python: str, task: Task) -> tuple[float, float]:
    Path(task.output).mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(  # its path must not hold the engine's packages
        [python, str(FASTAI)],
        input=json.dumps(dataclasses.asdict(task)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    return found["total_s"], found["cpu_s"]


def trained(side: str, recipe: Recipe, task: Task, seed: int, work: Path, python: str) -> list[Answers]:
    """One side's training with one seed, or what an earlier call found, and its answers."""
    output = work / f"{side}-{seed}"
    finished = output / "result.json"
    own = dataclasses.replace(task, seed=seed, output=str(output))
    if not finished.is_file():
        with _process() as pool:
            match side:
                case "timm":
                    took = pool.submit(timm_side, own).result()
                case "fastai":
                    took = fastai_side(python, own)
                case _:
                    folds = side == "folds"
                    took = pool.submit(engine_side, recipe, seed, output / "models", task.threads, folds).result()
        finished.write_text(json.dumps(took))
    total_s, cpu_s = json.loads(finished.read_text())
    print(f"{side:6} seed {seed}: {total_s:.0f} s, processor {cpu_s:.0f} s", file=sys.stderr, flush=True)
    if side in ("timm", "fastai"):
        return [Answers(side, seed, output / "answers.csv", total_s, cpu_s)]
    kinds = {"engine": ("engine", "engine, as answered"), "folds": ("engine, folds", "engine, folds, as answered")}
    plain, whole = kinds[side]
    return [
        Answers(plain, seed, output / "plain.csv", total_s, cpu_s),
        Answers(whole, seed, output / "answers.csv", total_s, cpu_s),
    ]


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


# --- the comparison --------------------------------------------------------------------------------------------------


def rows_of(found: Sequence[Answers], photos: Photos, answers: Mapping[tuple[str, int], Predictions]) -> list[Row]:
    """Every answer (by side and seed) with its scores, and its difference in log loss to those of timm and fastai with
    the same seed."""
    predictions = {of: photos.labelled(one) for of, one in answers.items()}
    rows = []
    for one in found:
        own = predictions[one.side, one.seed]
        against = {}
        for peer in ("timm", "fastai"):
            if one.side.startswith("engine") and (peer, one.seed) in predictions:
                apart = compare(predictions[peer, one.seed], own)
                against[peer] = {name: getattr(apart, name) for name in ("difference", "low", "high", "verdict")}
        rows.append(
            {
                "side": one.side,
                "seed": one.seed,
                "total_s": round(one.total_s, 1),
                "cpu_s": round(one.cpu_s, 1),
                "test": score(own.probabilities_NC, own.labels_N, SHOWN),
                "against": against,
            }
        )
    return rows


def show(rows: Sequence[Row], console: Console) -> None:
    """A line a side: medians over the seeds, and the differences seed by seed."""
    lines = []
    for side in dict.fromkeys(row["side"] for row in rows):
        own = [row for row in rows if row["side"] == side]
        line = [side, *(f"{statistics.median(row['test'][name] for row in own):.4f}" for name in SHOWN)]
        line += [f"{statistics.median(row[name] for row in own):.0f}" for name in ("total_s", "cpu_s")]
        for peer in ("timm", "fastai"):
            apart = [row["against"].get(peer) for row in own]
            line.append("\n".join(f"{a['difference']:+.3f} ({a['low']:+.3f} to {a['high']:+.3f})" for a in apart if a))
        lines.append(line)
    headings = [
        "",
        "log loss",
        "accuracy",
        "macro F1",
        "ECE",
        "seconds",
        "processor s",
        "against timm",
        "against fastai",
    ]
    console.print(frame.table("medians over seeds; differences in log loss by seed", headings, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tuning: the engine beside timm and fastai.")
    parser.add_argument("--recipe", type=Path, required=True, help="photos, weights, size, epochs, batch")
    parser.add_argument("--test", required=True, help="table of photos that nobody trains on")
    parser.add_argument("--truth", required=True, help="table with their labels and groups")
    parser.add_argument("--work", type=Path, required=True, help="keep trainings and answers here")
    parser.add_argument("--fastai", default="", help="a Python that has fastai")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ensembles", type=int, default=1, help="seeds whose folds are all trained")
    parser.add_argument("--threads", type=int, default=2, help="torch's, and loader workers")
    parser.add_argument("--train-only", action="store_true", help="stop when all is trained")
    frame.json_option(parser)
    arguments = parser.parse_args()
    # Before any process starts: what waits for work must not spin beside what works.
    os.environ |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(arguments.threads)}
    recipe, work = load_recipe(arguments.recipe), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    split, classes = lay_out(recipe, work)
    photos = test_photos(recipe, arguments.test, arguments.truth, split)
    task = task_of(recipe, classes, split, timm_weights(recipe, classes, work), arguments.threads)
    found: list[Answers] = []
    for seed in range(arguments.seeds):
        sides = ["engine", "timm", *(["fastai"] if arguments.fastai else [])]
        for side in sides if seed % 2 == 0 else sides[::-1]:
            found += trained(side, recipe, task, seed, work, arguments.fastai)
    for seed in range(arguments.ensembles):
        found += trained("folds", recipe, task, seed, work, arguments.fastai)
    if arguments.train_only:
        return
    for one in found:
        if one.side.startswith("engine"):
            engine_answers(one.file.parent / "models", photos, one.file, plain=one.file.stem == "plain")
    rows = rows_of(found, photos, {(one.side, one.seed): Predictions.read_csv(one.file) for one in found})
    show(rows, Console(width=170))
    settings = {
        "recipe": without_place(str(arguments.recipe.resolve())),
        "task": {key: value for key, value in dataclasses.asdict(task).items() if not isinstance(value, str)},
        "backbone": task.backbone,
        "tta": recipe.predict.tta,
        "photos": len(photos.ids),
        "groups": len(set(photos.groups)),
    }
    frame.finish(frame.result(rows, settings), arguments.json)


if __name__ == "__main__":
    main()
