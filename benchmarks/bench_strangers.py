"""How well strangers are told, when the model has really never met them; and how far off the measure at hand is.

    python benchmarks/bench_strangers.py RECIPE [--classes NAME ...] [--set KEY=VALUE ...] [--json FILE]

Every run of `engine train` measures each class in turn as the stranger by scores that do without the class, of a model
that has learnt it (engine/ensemble/strange.py). Here the recipe's first fold is trained anew without each class named
(`data.drop_classes`; default: all, which is as many trainings). Its held-out images are the known ones, all images of
the class the strangers; AUROC of each score. Beside it the measure at hand, of the first fold trained with all classes.
Runs stay in the work folder and are used again, or gone on with.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import frame
from engine.bench.envelope import Row, without_place
from engine.ensemble.neighbours import embedded, search
from engine.ensemble.strange import KS, Signs, auroc, choose
from engine.ensemble.vote import vote_of_fold
from engine.events import Watcher
from engine.inference.ask import ask, members_for
from engine.inference.scoring import Extra, mean
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.load import dump_recipe, load_recipe, parse_recipe
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.bank import Bank, bank_of
from engine.store.run_folder import FoldFolder, RunFolder
from engine.training.bank import write_bank
from engine.training.prepare import Prepared, prepare
from engine.training.run import train

ALONE = Ranks(0, 1, frame.CPU)
SPARE = 4  # times as many neighbours as the last that counts: some are of the class left out
_EXTRAS: tuple[Extra, ...] = ("logits", "features")


def trained(recipe: Recipe, dropped: Sequence[str], folder: Path) -> tuple[Prepared, FoldFolder]:
    """The first fold, trained without the classes `dropped`, with its bank."""
    drop = (*recipe.data.drop_classes, *dropped)
    folds = recipe.data.folds.model_copy(update={"run": (0,)})
    data = recipe.data.model_copy(update={"drop_classes": drop, "folds": folds})
    own = recipe.model_copy(update={"data": data, "output": str(folder), "specialist": ()})
    prepared = prepare(parse_recipe(dump_recipe(own)))
    train(prepared, ALONE, Watcher(), lambda: False)
    fold = RunFolder(folder).fold(0)
    write_bank(prepared.recipe, 0, prepared.fold_data(0), fold, ALONE, Watcher(), lambda: False)
    return prepared, fold


def asked(recipe: Recipe, fold: FoldFolder, whole: Prepared, rows_N: NDArray[np.int64]) -> list[Predictions]:
    """What the fold's models answer about these images, with logits and features."""
    models = members_for([checkpoint.load(member.path) for member in fold.members()], recipe, ALONE.device)
    return ask(models, whole.samples, rows_N, recipe, mean, ALONE, extras=_EXTRAS)[0]


def signs_of(answers: Sequence[Predictions], bank: Bank) -> tuple[Signs, Predictions]:
    """What strangers are told by; and the fold's answer, with its embedding."""
    together = embedded(vote_of_fold(answers), answers)
    return Signs.of(answers, search(together, bank, SPARE * max(KS))), together


def honest_rows(recipe: Recipe, whole: Prepared, name: str, folder: Path) -> list[Row]:
    """A row a score: AUROC of the class against held-out images, of a fold that was trained without it."""
    without, fold = trained(recipe, [name], folder)
    bank = bank_of(fold)
    known, _ = signs_of(asked(recipe, fold, without, without.fold_data(0).held_rows_N), bank)
    rows_N = np.flatnonzero(np.array(whole.manifest.labels) == name)
    strangers, _ = signs_of(asked(recipe, fold, whole, rows_N), bank)
    return [
        {
            "class": name,
            "score": kind,
            "k": k,
            "auroc": auroc(known.scores(kind, k), strangers.scores(kind, k)),
            "known": len(known.ids),
            "strangers": len(strangers.ids),
        }
        for kind in known.kinds
        for k in (KS if kind == "distance" else (1,))
    ]


def at_hand(recipe: Recipe, folder: Path) -> dict[tuple[str, int, str], float]:
    """The measure that every run makes, by score, k and class, of one fold."""
    prepared, fold = trained(recipe, [], folder)
    data, bank = prepared.fold_data(0), bank_of(fold)
    signs, together = signs_of(asked(recipe, fold, prepared, data.held_rows_N), bank)
    labelled: LabelledPredictions = data.labelled(together, 0)
    table = choose(labelled, signs, {0: bank}).table
    return {(row.kind, row.k, name): value for row in table for name, value in row.auroc.items()}


def show(rows: Sequence[Row], console: Console) -> None:
    """A line a class, the measure at hand in brackets."""
    scores = list(dict.fromkeys((row["score"], row["k"]) for row in rows))
    names = list(dict.fromkeys(row["class"] for row in rows))
    by = {(row["class"], row["score"], row["k"]): row for row in rows}

    def cell(name: str, kind: str, k: int) -> str:
        row = by[name, kind, k]
        return f"{row['auroc']:.3f} ({row['at_hand']:.3f})" if row["at_hand"] is not None else f"{row['auroc']:.3f}"

    cells = [[name, *(cell(name, kind, k) for kind, k in scores)] for name in names]
    headings = [f"{kind} {k}" if kind == "distance" else kind for kind, k in scores]
    console.print(frame.table("AUROC, trained without the class (with it)", ["stranger", *headings], cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="what is trained; output and data.folds.run are set here")
    parser.add_argument("--classes", nargs="+", default=[], help="which are strangers in turn; default: all")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--work", type=Path, help="keep the runs here; default: a temporary folder")
    frame.json_option(parser)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.sets)
    whole = prepare(recipe)
    if unknown := sorted(set(options.classes) - set(whole.classes)):
        raise SystemExit(f"--classes {unknown[0]}: there is no such class; there are {', '.join(whole.classes)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="bench-strangers-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        seen = at_hand(recipe, work / "all")
        for number, name in enumerate(whole.classes):
            if name in (options.classes or whole.classes):
                own = honest_rows(recipe, whole, name, work / f"without-{number}")
                rows += [row | {"at_hand": seen.get((row["score"], row["k"], name))} for row in own]
                print(
                    f"{name}: " + ", ".join(f"{r['score']} {r['auroc']:.3f}" for r in own), file=sys.stderr, flush=True
                )
    show(rows, Console(width=130))
    settings = {
        "backbone": recipe.model.backbone,
        "weights": Path(recipe.model.weights).name,
        "data": without_place(recipe.data.train),
        "folds": recipe.data.folds.count,
        "stages": [{"size": list(s.size), "batch": s.batch, "epochs": s.epochs, "lr": s.lr} for s in recipe.stage],
    }
    frame.finish(frame.result(rows, settings), options.json)


if __name__ == "__main__":
    main()
