"""How well labels that are wrong are found: the label court's ranking beside cleanlab's, on labels swapped on purpose.

    python benchmarks/bench_court.py --run DIR --recipe FILE --work DIR [--ways uniform confused] [--seeds 1 2]
        [--train-only] [--json FILE]

DIR is the folder of a run on the labels as they are; its out-of-fold answers say which class each class is most often
taken for. 5 % of its labels are swapped, with a fixed seed: to any other class (`uniform`), or to the one that the
given class is most often taken for (`confused`). A table for `data.relabel` holds the swaps, `engine train` learns the
recipe with it, into the work folder (a run that is finished is not trained again), and nothing else is told of them.

Swapped labels are what is to be found. The data set's own labels are wrong, too, now and then; one that was wrong
before counts here as a false alarm, for every ranking alike.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import numpy as np

import frame
from engine.predictions import LabelledPredictions, Predictions
from engine.store.run_folder import RunFolder

SHARE = 0.05  # of the labels
SETS = ("stage.0.size=64", "train.keep_last=2", "ensemble.neighbours=auto", "track.tensorboard=false")


def mistaken_for(answers: LabelledPredictions) -> dict[str, str]:
    """For each class the other one that its photos are most often taken for (of equals the first by name)."""
    classes = sorted(answers.classes)
    given_N, said_N = np.array(answers.labels), np.array(answers.answers)
    found = {}
    for one in classes:
        others = [other for other in classes if other != one]
        found[one] = max(others, key=lambda other: int(((given_N == one) & (said_N == other)).sum()))
    return found


def swapped(answers: LabelledPredictions, way: str, seed: int) -> dict[str, str]:
    """Wrong labels by id, for SHARE of the photos."""
    random = np.random.default_rng((seed, ("uniform", "confused").index(way)))
    rows = random.choice(len(answers), round(SHARE * len(answers)), replace=False)
    order = np.argsort(answers.ids)  # whatever the order of the file
    likely = mistaken_for(answers)
    labels = {}
    for row in order[rows].tolist():
        others = [name for name in sorted(answers.classes) if name != answers.labels[row]]
        drawn = others[int(random.integers(len(others)))]
        labels[answers.ids[row]] = drawn if way == "uniform" else likely[answers.labels[row]]
    return labels


def write_table(path: Path, label_of: Mapping[str, str]) -> None:
    """A table for `data.relabel`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "label"), *sorted(label_of.items())])


def trained(recipe: Path, table: Path, output: Path, sets: Sequence[str]) -> RunFolder:
    """The run on the labels of the table, trained unless it is."""
    own = (*SETS, *sets, f"data.relabel={table.absolute()}", f"output={output.absolute()}")
    command = [sys.executable, "-m", "engine.cli.main", "train", str(recipe)]
    subprocess.run([*command, *(word for one in own for word in ("--set", one))], check=True, stdout=sys.stderr)
    return RunFolder(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=("uniform", "confused"), default=["uniform", "confused"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--set", action="append", default=[], help="of the recipe, for all runs")
    parser.add_argument("--train-only", action="store_true")
    frame.json_option(parser)
    arguments = parser.parse_args()
    answers = Predictions.read(RunFolder(arguments.run).out_of_fold)
    assert isinstance(answers, LabelledPredictions)
    for seed in arguments.seeds:
        for way in arguments.ways:
            place = arguments.work / f"{way}_{seed}"
            write_table(place / "swapped.csv", swapped(answers, way, seed))
            trained(arguments.recipe, place / "swapped.csv", place / "models", arguments.set)


if __name__ == "__main__":
    main()
