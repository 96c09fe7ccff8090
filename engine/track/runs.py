"""Past runs side by side: what they scored, what they took, and what differs between their recipes.

An experiment log that keeps itself: all of it stands in the folders that runs leave behind. Read without torch, so that
the table is there at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.errors import DataError, RecipeError
from engine.events import EpochRecord
from engine.metrics import METRICS, better
from engine.recipe import schema
from engine.recipe.load import parse_saved
from engine.store.log import read_log
from engine.store.run_folder import RunFolder
from engine.track.tracker import Scalar, flatten, read_scores

SHOWN_METRICS = ("log_loss", "accuracy", "macro_f1")
DEPTH = 6  # folders below those given

# Keys whose values say where a run is and not what it is.
_PLACES = ("name", "output", "track", "data.cache")
_ABSENT = "-"


@dataclasses.dataclass(frozen=True)
class PastRun:
    """A run as its folder tells of it. `metrics` are out of fold when it is finished, else the mean of each fold's best
    epoch so far; {} when nothing was scored."""

    folder: Path
    name: str
    when: datetime  # of its last epoch, or else when it was begun
    folds: int  # to train
    folds_done: int
    epochs: int  # of all folds together
    epochs_planned: int  # the same; fewer when stages end early
    finished: bool
    metrics: dict[str, float]
    seconds: float  # of training and scoring; of an epoch that was interrupted, since it went on
    images_per_second: float  # while training
    waited: float | None  # share of the time of training in which it waited for data; None when the log does not say
    recipe: dict[str, Scalar]  # flattened

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the recipe."""
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("recipe", "metrics")
        }
        values |= {"folder": str(self.folder), "when": self.when.isoformat(timespec="seconds")}
        return values | {name: self.metrics.get(name) for name in SHOWN_METRICS}


def find_runs(folders: Sequence[Path]) -> list[PastRun]:
    """The runs in these folders and down to `DEPTH` below, each once, the oldest first. Raises DataError for a folder
    that is not there. A run that cannot be read is not one."""
    found: dict[Path, PastRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the output of `engine train`, or a folder above several")
        for path in _run_folders(folder):
            if path.resolve() not in found and (run := read_run(path)) is not None:
                found[path.resolve()] = run
    return sorted(found.values(), key=lambda run: run.when)


def _run_folders(top: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(top):
        path = Path(name)
        deep = len(path.relative_to(top).parts) >= DEPTH
        is_run = RunFolder(path).claim.name in files
        left = [f for f in folders if not f.startswith(".") and not (is_run and RunFolder.is_inside(f))]
        folders[:] = [] if deep else sorted(left)
        if is_run:
            yield path


def read_run(folder: Path) -> PastRun | None:
    """The run in a folder; None when its run.json is none of `engine train`'s."""
    run = RunFolder(folder)
    try:
        about = json.loads(run.claim.read_text("utf-8"))
        tables = about["recipe"]
        name, stages, data = str(tables["name"]), tables["stage"], tables["data"]["folds"]
        planned = sum(int(stage["epochs"]) for stage in stages)
        folds = list(data["run"]) or list(range(data["count"]))
        select = str(tables["train"]["select"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    records = [record for record in read_log(run.log) if record.fold in folds]
    done = _finished_folds(run, records, folds, planned)
    finished = len(done) == len(folds) and run.scores.is_file()
    trained = sum(record.train_seconds for record in records)
    return PastRun(
        folder=folder,
        name=name,
        when=datetime.fromtimestamp((run.log if records else run.claim).stat().st_mtime),
        folds=len(folds),
        folds_done=len(done),
        epochs=len(records),
        epochs_planned=planned * len(folds),
        finished=finished,
        metrics=(read_scores(run) if finished else {}) or _best_so_far(records, select),
        seconds=trained + sum(record.valid_seconds for record in records),
        images_per_second=sum(record.images for record in records) / trained if trained > 0 else 0.0,
        waited=_waited(records),
        recipe=_flat_recipe(tables) | {"data (fingerprint)": str(about.get("data_fingerprint", _ABSENT))[:8]},
    )


def _finished_folds(run: RunFolder, records: Sequence[EpochRecord], folds: Sequence[int], planned: int) -> list[int]:
    """The folds with all their epochs; of those that ended early, the ones that another fold or the scores followed."""
    counts = Counter(record.fold for record in records)
    if records and run.scores.is_file() and run.scores.stat().st_mtime >= run.log.stat().st_mtime:
        return [fold for fold in folds if counts[fold]]
    last = records[-1].fold if records else None
    return [fold for fold in folds if counts[fold] >= planned or (counts[fold] and fold != last)]


def _best_so_far(records: Sequence[EpochRecord], select: str) -> dict[str, float]:
    """The mean over the folds of the metrics of each fold's best epoch."""
    best: dict[int, dict[str, float]] = {}
    for record in records:
        value = record.metrics.get(select, math.nan)
        known = best.get(record.fold, {}).get(select, math.nan)
        if select in METRICS and better(select, value, known):
            best[record.fold] = record.metrics
    names = [name for name in SHOWN_METRICS if best and all(name in metrics for metrics in best.values())]
    return {name: sum(metrics[name] for metrics in best.values()) / len(best) for name in names}


def _waited(records: Sequence[EpochRecord]) -> float | None:
    """Over the epochs that say it, by their time."""
    known = [(record.waited, record.train_seconds) for record in records if record.waited is not None]
    seconds = sum(trained for _, trained in known)
    return sum(share * trained for share, trained in known) / seconds if seconds > 0 else None


def _flat_recipe(tables: Mapping[str, Any]) -> dict[str, Scalar]:
    """With the values of keys that did not exist when the run was begun."""
    with contextlib.suppress(RecipeError):  # of another version of the engine
        tables = parse_saved(tables).model_dump(mode="json")
    return flatten(tables)


def differences(runs: Sequence[PastRun]) -> dict[str, list[Scalar]]:
    """The keys in which the recipes differ and each run's value, in the recipe's order; "-" where a run has no such key
    (a stage less). Keys that only say where a run is are left out, and those that some runs do not have and the others
    did not set."""
    keys = dict.fromkeys(key for run in runs for key in run.recipe if not _is_place(key))
    values = {key: [run.recipe.get(key, _ABSENT) for run in runs] for key in keys}
    return {
        key: of_runs for key, of_runs in values.items() if len(set(map(repr, of_runs))) > 1 and _tells(key, of_runs)
    }


def _tells(key: str, of_runs: Sequence[Scalar]) -> bool:
    """Not so of the many keys of a stage more that are as they are when nothing is said."""
    found = schema.find(tuple(int(part) if part.isdecimal() else part for part in key.split(".")))
    default = None if found is None or found.required else flatten(found.default, key).get(key)
    return any(value not in (_ABSENT, default) for value in of_runs) or _ABSENT not in of_runs


def _is_place(key: str) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in _PLACES)


def commonest(values: Sequence[Scalar]) -> Scalar:
    """Of equals in number the first."""
    return Counter(values).most_common(1)[0][0]


SORTS = ("when", "name", *SHOWN_METRICS, "seconds", "images_per_second")


def sort_runs(runs: Sequence[PastRun], key: str) -> list[PastRun]:
    """By one of `SORTS`: the best score or speed first, the oldest, the shortest, the first name. Runs without a value
    come last."""

    def rank(run: PastRun) -> tuple[bool, Any]:
        value = run.metrics.get(key, math.nan) if key in SHOWN_METRICS else getattr(run, key)
        if not isinstance(value, float):
            return False, value
        rising = METRICS[key].higher_is_better if key in METRICS else key != "seconds"
        return math.isnan(value), -value if rising else value

    return sorted(runs, key=rank)
