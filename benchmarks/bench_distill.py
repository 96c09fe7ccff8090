"""A small model taught by an ensemble, beside the same model taught by labels alone.

    python benchmarks/bench_distill.py --recipe RECIPE --teacher RUN --test TABLE --truth TABLE --work DIR [--json FILE]

The recipe is the student's (`distill_clothes.toml`), the run the teacher's, over the same photos. Each student is
trained in the same order of photos, from the same weights and in the same number of steps, but for those that learn
from photos without labels too (the test photos, of which nobody is told the labels): an epoch of theirs is longer, and
they have as many fewer.

Scores are out of fold, of one fold's model and one view, and on the test photos, of the folds that were trained. The
teacher's are those of its own folder and its own steps. A difference is to the student of labels alone, paired, with
its 95 % interval by groups of photos (bootstrap). Seconds are the processor's, of training and of answering for what is
held out: the machine may be shared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import frame
from engine.bench.envelope import Row, without_place
from engine.events import Watcher
from engine.intervals import compare
from engine.metrics import score
from engine.predict.predictor import Predictor
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.training.prepare import prepare
from engine.training.run import train
from engine.tune.student import ask_teacher, rate
from peers.photos import Photos, labelled_photos
from peers.task import processor_seconds

SHOWN = ("log_loss", "accuracy", "macro_f1", "calibration_error")
LABELS = "labels alone"
TIMED = 128  # photos


def arms(recipe: Recipe, teacher: Path, unlabelled: Path, photos: int) -> dict[str, list[str]]:
    """Changes of the recipe, by what the student learns from."""
    taught = [f"distill.teacher={teacher}"]
    epochs = recipe.stage[0].epochs
    images = len(prepare(recipe).fold_data(recipe.data.folds.run[0]).train_rows_N)
    fewer = max(1, round(epochs * images / (images + photos)))
    return {
        LABELS: [],
        "taught": taught,
        "taught, at temperature 2": [*taught, "distill.temperature=2.0"],
        "taught, and by photos without labels": [
            *taught,
            f"distill.unlabelled={unlabelled}",
            f"stage.0.epochs={fewer}",
        ],
    }


def trained(path: Path, sets: Sequence[str], output: Path) -> float:
    """Train a student; processor seconds."""
    prepared = prepare(load_recipe(path, (*sets, f"output={output}")))
    began_s = processor_seconds()
    train(prepared, Ranks(0, 1, torch.device("cpu")), Watcher(), lambda: False)
    return processor_seconds() - began_s


def row(name: str, folder: Path, photos: Photos, taken_s: float | None, first: tuple[LabelledPredictions, ...]) -> Row:
    """A student's, or the teacher's, scores and rate; `first`: out-of-fold and test answers to compare with."""
    own = answers_of(folder, photos)
    against = {}
    for where, before, after in zip(("out_of_fold", "test"), first, own, strict=False):
        apart = compare(before, after.take(_rows(after, before.ids)))
        against[where] = {key: getattr(apart, key) for key in ("difference", "low", "high", "verdict")}
    seen = own[0].take(_rows(own[0], first[0].ids)) if first else own[0]
    predictor = Predictor(folder)
    return {
        "student": name,
        "cpu_s": None if taken_s is None else round(taken_s, 1),
        "images": len(seen),
        "out_of_fold": score(seen.probabilities_NC, seen.labels_N, SHOWN),
        "test": score(own[1].probabilities_NC, own[1].labels_N, SHOWN),
        "against_labels": against,
        "models": len(RunFolder(folder).members()),
        "images_per_second": round(rate(predictor, photos.paths[:TIMED]), 1),
    }


def answers_of(folder: Path, photos: Photos) -> tuple[LabelledPredictions, LabelledPredictions]:
    """Out of fold, and about the test photos."""
    held = Predictions.read(RunFolder(folder).out_of_fold)
    assert isinstance(held, LabelledPredictions)
    return held, photos.labelled(Predictor(folder)(photos.paths, photos.ids))


def _rows(answers: Predictions, ids: Sequence[str]) -> list[int]:
    row_of = {id_: number for number, id_ in enumerate(answers.ids)}
    return [row_of[id_] for id_ in ids]


def show(rows: Sequence[Row], console: Console) -> None:
    lines = []
    for one in rows:
        apart = [
            f"{a['difference']:+.3f} ({a['low']:+.3f} to {a['high']:+.3f})" for a in one["against_labels"].values()
        ] or ["", ""]
        figures = [f"{one[where][name]:.4f}" for where in ("out_of_fold", "test") for name in ("log_loss", "accuracy")]
        taken = "" if one["cpu_s"] is None else f"{one['cpu_s']:.0f}"
        lines.append([one["student"], *figures, *apart, taken, f"{one['images_per_second']:.0f}"])
    headings = ["", "log loss oof", "accuracy", "log loss test", "accuracy", "oof to labels", "test to labels"]
    console.print(frame.table("", [*headings, "processor s", "images/s"], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="A small model taught by an ensemble.")
    parser.add_argument("--recipe", type=Path, required=True, help="the student's")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the run that teaches")
    parser.add_argument("--test", required=True, help="table of photos that nobody trains on by their labels")
    parser.add_argument("--truth", required=True, help="table with their labels and groups")
    parser.add_argument("--work", type=Path, required=True, help="keep trainings and answers here")
    parser.add_argument("--threads", type=int, default=1)
    frame.json_option(parser)
    arguments = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "passive"}
    torch.set_num_threads(arguments.threads)
    work, teacher = arguments.work, arguments.teacher
    work.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(arguments.recipe)
    classes = prepare(recipe).classes
    photos = labelled_photos(arguments.test, arguments.truth, recipe.data, classes)
    unlabelled, _ = ask_teacher(teacher, [arguments.test], work / "unlabelled")
    rows: list[Row] = []
    first: tuple[LabelledPredictions, ...] = ()
    for number, (name, sets) in enumerate(arms(recipe, teacher, unlabelled, len(photos.ids)).items()):
        folder = work / f"{number}"
        taken_s = trained(arguments.recipe, sets, folder)
        print(f"{name}: processor {taken_s:.0f} s", file=sys.stderr, flush=True)
        rows.append(row(name, folder, photos, taken_s, first))
        first = first or answers_of(folder, photos)
    rows.append(row("the teacher", teacher, photos, None, first))
    show(rows, Console(width=170))
    settings = {
        "recipe": without_place(str(arguments.recipe.resolve())),
        "backbone": recipe.model.backbone,
        "size": recipe.stage[0].size,
        "epochs": recipe.stage[0].epochs,
        "folds": recipe.data.folds.run,
        "test_photos": len(photos.ids),
    }
    frame.finish(frame.result(rows, settings), arguments.json)


if __name__ == "__main__":
    main()
