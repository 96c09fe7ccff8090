"""What each step from folds to an answer is worth, on a run that is trained.

    python benchmarks/bench_ensemble.py --run DIR --test TABLE --truth TABLE --work DIR [--json FILE]

DIR is the folder of a trained run with several folds. It is copied into the work folder, where `engine train` has its
models answer anew and fits what a row asks for; nothing is trained. The table of `--truth` has labels and groups of
the photos of `--test`, which nobody trained on.

Each row adds a step to those before it (the rules of voting alone do not add up). Two scores: out of fold, where every
part answers about photos that it was not fitted on (nested folds, no group on both sides), and on the test photos, as
`engine infer` answers. A part that does not gain out of fold is not kept, and its row answers as the one before it.
Intervals of 95 % are by groups of photos (bootstrap); a difference is in log loss, paired, to the row before. Beside
the calibration error stands what a perfectly calibrated answer of the same confidences would show by chance.

Then, with all parts: how often the sets of classes of a chosen risk hold the truth on the test photos, and how many
classes they have; and how well strangers are told when each class is left out in turn (see `engine.ensemble.strange`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import pyarrow.parquet as pq
import torch
from rich.console import Console

import frame
from engine.bench.envelope import Row, without_place
from engine.ensemble.runs import saved_recipe
from engine.events import Watcher
from engine.intervals import compare, intervals
from engine.metrics import chance_ece
from engine.predict.job import prepare as prepare_answers
from engine.predict.models import Wishes
from engine.predict.predictor import Predictor
from engine.predict.run import answer
from engine.predict.writing import write
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.load import parse_saved
from engine.store.run_folder import PredictionsFolder, RunFolder
from engine.system import cores
from engine.training.prepare import prepare
from engine.training.run import train
from peers.photos import Photos, labelled_photos

SHOWN = ("log_loss", "accuracy", "macro_f1", "calibration_error")
PLAIN = (
    *("predict.tta=1", "ensemble.vote=soft", "ensemble.weights=equal", "ensemble.stack=off"),
    *("ensemble.neighbours=off", "ensemble.calibrate=off"),
)
VIEWS = "predict.tta=2"
FOLD = "one fold"
ROWS: dict[str, tuple[str, ...]] = {
    FOLD: PLAIN,
    "+ two views": (*PLAIN, VIEWS),
    "+ folds, soft": (*PLAIN, VIEWS),
    "folds, logit": (*PLAIN, VIEWS, "ensemble.vote=logit"),
    "folds, hard": (*PLAIN, VIEWS, "ensemble.vote=hard"),
    "+ fitted weights": (*PLAIN, VIEWS, "ensemble.vote=logit", "ensemble.weights=fit"),
    "+ stacking": (*PLAIN, VIEWS, "ensemble.vote=logit", "ensemble.stack=logistic"),
    "+ neighbours": (*PLAIN, VIEWS, "ensemble.vote=logit", "ensemble.stack=logistic", "ensemble.neighbours=auto"),
    "+ temperature": (
        *(*PLAIN, VIEWS, "ensemble.vote=logit", "ensemble.stack=logistic", "ensemble.neighbours=auto"),
        "ensemble.calibrate=temperature",
    ),
}
OF_A_FOLD = (FOLD, "+ two views")
BEFORE = {"folds, logit": "+ folds, soft", "folds, hard": "+ folds, soft", "+ fitted weights": "folds, logit"}
RISKS = (0.1, 0.05, 0.01)
ALONE = Ranks(0, 1, torch.device("cpu"))


def settle(models: Path, sets: Sequence[str]) -> dict[str, Any]:
    """Have the run's models answer as `sets` say, and fit; what scores.json says afterwards."""
    recipe = parse_saved(saved_recipe(RunFolder(models)), (*sets, f"output={models}"))
    train(prepare(recipe), ALONE, Watcher(), lambda: False)
    return dict(json.loads(RunFolder(models).scores.read_text("utf-8")))


def scores(answers: LabelledPredictions) -> dict[str, Any]:
    """Metrics with their intervals, and the calibration error of chance."""
    found = intervals(answers, SHOWN)
    return {name: [one.value, one.low, one.high] for name, one in found.items()} | {"chance_ece": chance_ece(answers)}


def difference(before: LabelledPredictions, after: LabelledPredictions) -> dict[str, Any]:
    apart = compare(before, after)
    return {name: getattr(apart, name) for name in ("difference", "low", "high", "verdict")}


def measured(models: Path, photos: Photos) -> list[Row]:
    """Every row of `ROWS`."""
    rows: list[Row] = []
    found: dict[str, tuple[LabelledPredictions | None, LabelledPredictions]] = {}
    for name, sets in ROWS.items():
        print(name, file=sys.stderr, flush=True)
        said = settle(models, sets)
        asked = models / "0" if name in OF_A_FOLD else models
        test = photos.labelled(Predictor(asked)(photos.paths, photos.ids))
        held = Predictions.read(RunFolder(models).out_of_fold)
        assert isinstance(held, LabelledPredictions)  # it always is
        out_of_fold = None if name in OF_A_FOLD else held
        before = BEFORE.get(name) or (rows[-1]["row"] if rows else None)
        row: Row = {"row": name, "test": scores(test), "parts": said.get("ensemble", [])}
        if out_of_fold is not None:
            row["out_of_fold"] = scores(out_of_fold)
        if before:
            row["before"] = before
            row["against_before"] = difference(found[before][1], test)
        found[name] = out_of_fold, test
        rows.append(row)
    return rows


def hedged(models: Path, photos: Photos, test: str, sets: Sequence[str], work: Path) -> list[Row]:
    """How often sets hold the truth, and how strangers are told."""
    settle(models, (*sets, "predict.false_alarms=0.05"))
    label_of = dict(zip(photos.ids, photos.labels, strict=True))
    rows: list[Row] = []
    for risk in RISKS:
        for method in ("aps", "raps"):
            out = work / f"risk-{risk}-{method}"
            own = ("predict.false_alarms=0.05", f"predict.risk={risk}", f"predict.risk_method={method}")
            job = prepare_answers(models, Wishes(data=test, sets=own), None, out)
            write(job, answer(job, ALONE.device), out)
            columns = pq.read_table(
                PredictionsFolder(out).predictions, columns=["path", "prediction", "set", "strange"]
            ).to_pylist()
            asked = [(line, label_of[name]) for line in columns if (name := Path(line["path"]).name) in label_of]
            rows.append(
                {
                    "row": "sets",
                    "risk": risk,
                    "method": method,
                    "holds": sum(label in line["set"] for line, label in asked) / len(asked),
                    "size": sum(len(line["set"]) for line, _ in asked) / len(asked),
                    "alone": sum(len(line["set"]) == 1 for line, _ in asked) / len(asked),
                    "strange": sum(line["strange"] for line, _ in asked) / len(asked),
                }
            )
    return rows


def show(rows: Sequence[Row], console: Console) -> None:
    def cell(values: Sequence[float]) -> str:
        return f"{values[0]:.4f} ({values[1]:.3f} to {values[2]:.3f})"

    steps = [row for row in rows if "test" in row]
    for where, title in (("out_of_fold", "out of fold"), ("test", "photos that nobody trained on")):
        lines = []
        for row in steps:
            if where in row:
                own = row[where]
                kept = ", ".join(part["part"] for part in row["parts"] if part["kept"])
                line = [row["row"], *(cell(own[name]) for name in SHOWN), f"{own['chance_ece']:.4f}"]
                apart = row.get("against_before") if where == "test" else None
                line.append(f"{apart['difference']:+.4f} {apart['verdict']}" if apart else "")
                lines.append([*line, kept])
        headings = ["", "log loss", "accuracy", "macro F1", "ECE", "by chance", "to the row before", "kept"]
        console.print(frame.table(title, headings, lines))
    lines = [
        [f"{row['risk']:.0%}", row["method"], f"{row['holds']:.4f}", f"{row['size']:.2f}", f"{row['alone']:.0%}"]
        for row in rows
        if row["row"] == "sets"
    ]
    console.print(frame.table("sets on photos that nobody trained on", ["risk", "", "hold", "size", "one"], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description="From folds to an answer: what each step is worth.")
    parser.add_argument("--run", type=Path, required=True, help="a trained run with several folds")
    parser.add_argument("--test", required=True, help="table of photos that nobody trained on")
    parser.add_argument("--truth", required=True, help="table with their labels and groups")
    parser.add_argument("--work", type=Path, required=True, help="the run is copied here")
    frame.json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    models = arguments.work / "models"
    if not models.is_dir():
        shutil.copytree(arguments.run, models)
    recipe = parse_saved(saved_recipe(RunFolder(models)), (f"output={models}",))
    classes = prepare(recipe).classes
    photos = labelled_photos(arguments.test, arguments.truth, recipe.data, classes)
    rows = measured(models, photos)
    rows += hedged(models, photos, arguments.test, ROWS["+ temperature"], arguments.work)
    show(rows, Console(width=200))
    settings = {
        "run": without_place(str(arguments.run.resolve())),
        "backbone": recipe.model.backbone,
        "size": list(recipe.stage[-1].size),
        "epochs": sum(stage.epochs for stage in recipe.stage),
        "kept_epochs": recipe.train.keep_last,
        "folds": recipe.data.folds.count,
        "photos": len(photos.ids),
        "groups": len(set(photos.groups)),
    }
    frame.finish(frame.result(rows, settings), arguments.json)


if __name__ == "__main__":
    main()
