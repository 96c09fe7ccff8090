"""How well labels that are wrong are found: the label court's ranking beside cleanlab's, on labels swapped on purpose.

    python benchmarks/bench_court.py --run DIR --recipe FILE --work DIR [--ways uniform confused] [--seeds 1 2 3]
        [--train-only] [--json FILE]

DIR is the folder of a run on the labels as they are; its out-of-fold answers say which class each class is most often
taken for. 5 % of its labels are swapped, with a fixed seed: to any other class (`uniform`), or to the one that the
given class is most often taken for (`confused`). A table for `data.relabel` holds the swaps, `engine train` learns the
recipe with it, into the work folder (a run that is finished is not trained again), and nothing else is told of them.

Swapped labels are what is to be found. The data set's own labels are wrong, too, now and then; one that was wrong
before counts here as a false alarm, for every ranking alike.

Each ranking is told by its average precision, and by how many of its first 50 were swapped. Beside the court's stand
cleanlab's three scores of the same out-of-fold answers, and its own choice of issues in the order of each (what it does
not choose comes last); a mean of ranks of what the court goes by; and the court without each kind of evidence.

The court's rule was settled on seed 1, and seed 2 had it ask the settled answers beside the plain ones: both have been
looked at. Seed 3 was not, and says whether it holds.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded: what waits must not spin

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import frame
from engine.bench.envelope import Row
from engine.court.court import Court
from engine.court.ranking import rank
from engine.court.signals import NAMES, Signals
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
    if RunFolder(output).scores.is_file():
        return RunFolder(output)
    own = (*SETS, *sets, f"data.relabel={table.absolute()}", f"output={output.absolute()}")
    command = [sys.executable, "-m", "engine.cli.main", "train", str(recipe)]
    subprocess.run([*command, *(word for one in own for word in ("--set", one))], check=True, stdout=sys.stderr)
    return RunFolder(output)


FIRST = 50  # of a ranking, as a person looks at them
CLEANLAB = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
Scores = NDArray[np.float64]  # (N,), the higher the likelier wrong


def by_cleanlab(answers: LabelledPredictions) -> Iterator[tuple[str, Scores]]:
    """Its rankings, by name."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    label_N, p_NC = answers.labels_N, answers.probabilities_NC.astype(np.float64)
    p_NC /= p_NC.sum(1, keepdims=True)
    for method in CLEANLAB:
        yield f"cleanlab {method}", -get_label_quality_scores(label_N, p_NC, method=method)
    for method in CLEANLAB:
        issues = find_label_issues(label_N, p_NC, return_indices_ranked_by=method, n_jobs=1)
        score_N = np.zeros(len(answers))
        score_N[issues] = np.arange(len(issues), 0, -1)
        yield f"cleanlab issues by {method}", score_N


def by_ranks(signals: Signals) -> Scores:
    """The mean of a photo's places by the answer, by the epochs that knew the label, and by the neighbours."""
    from scipy.stats import rankdata

    values = dict(zip(signals.names, signals.about(signals.label_N).T, strict=True))
    return np.asarray(-sum(rankdata(values[name]) for name in ("own", "learnt", "neighbours")))


def rankings(court: Court) -> Iterator[tuple[str, Scores]]:
    """All that are compared, by name."""
    signals = court.ranking.signals
    yield "court", court.ranking.score_N
    yield from by_cleanlab(court.ranking.evidence.answers)
    yield "mean of ranks", by_ranks(signals)
    for kind in NAMES:
        less = Signals.of(court.ranking.evidence, signals.twins, without=(kind,))
        if less.names != signals.names:
            yield f"court without {kind}", rank(less).score_N


def measured(run: RunFolder, swapped_ids: Mapping[str, str], about: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each ranking of a run's labels."""
    from sklearn.metrics import average_precision_score

    court = Court.open(run)
    ids = court.ranking.evidence.answers.ids
    wrong_N = np.array([id_ in swapped_ids for id_ in ids])
    noise = court.ranking.signals.noise
    for name, score_N in rankings(court):
        first = np.lexsort((np.array(ids), -score_N))[:FIRST]
        row = {**about, "row": name, "labels": len(ids), "wrong": int(wrong_N.sum())}
        row |= {
            "average_precision": float(average_precision_score(wrong_N, score_N)),
            "hits": int(wrong_N[first].sum()),
        }
        if name == "court":
            row |= {"noise": [noise.rate, *noise.shares], "expected_wrong": float(court.ranking.wrong_N.sum())}
        yield row


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
    rows: list[Row] = []
    for seed in arguments.seeds:
        for way in arguments.ways:
            place = arguments.work / f"{way}_{seed}"
            wrong = swapped(answers, way, seed)
            write_table(place / "swapped.csv", wrong)
            run = trained(arguments.recipe, place / "swapped.csv", place / "models", arguments.set)
            if not arguments.train_only:
                rows += measured(run, wrong, {"way": way, "seed": seed})
    if arguments.train_only:
        return
    shown = [
        (row["way"], str(row["seed"]), row["row"], f"{row['average_precision']:.3f}", str(row["hits"])) for row in rows
    ]
    headings = ("swapped", "seed", "ranking", "average precision", f"of the first {FIRST}")
    Console(stderr=True).print(frame.table("", headings, shown, words=3))
    settings = {"share": SHARE, "first": FIRST, "sets": [*SETS, *arguments.set], "seeds": arguments.seeds}
    frame.finish(frame.result(rows, settings), arguments.json)


if __name__ == "__main__":
    main()
