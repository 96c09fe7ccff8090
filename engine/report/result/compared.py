"""A run beside another one: what differs between their recipes, and whether the scores do, photo by photo."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import CheckpointError, EngineError
from engine.intervals import Interval
from engine.recipe import schema
from engine.recipe.sections import Recipe
from engine.report.result.answers import Answers, mean_interval, read_answers
from engine.store.run_folder import RunFolder
from engine.track.runs import PastRun, differences, read_run
from engine.track.tracker import Scalar, flatten


@dataclasses.dataclass(frozen=True)
class Change:
    """A metric of both, and this run's minus the other's on the photos that both held out; None where there are no such
    photos, or not the same."""

    metric: str
    before: float
    now: float
    difference: Interval | None
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        found = self.difference
        if found is None or found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "not told apart"
        return "better" if (found.low > 0) == self.higher_is_better else "worse"


@dataclasses.dataclass(frozen=True)
class Compared:
    """keys: by key of the recipe, the other run's value and this one's."""

    other: PastRun
    keys: dict[str, list[Scalar]]
    changes: list[Change]


def last_run(folder: Path) -> Path | None:
    """The run beside this one that ended before it and last; None when there is none."""
    own = read_run(folder)
    if own is None:
        return None
    with contextlib.suppress(OSError):
        beside = [path for path in folder.absolute().parent.iterdir() if path.resolve() != folder.resolve()]
        found = [run for path in beside if RunFolder(path).claim.is_file() and (run := read_run(path))]
        before = [run for run in found if run.finished and run.when <= own.when]
        return max(before, key=lambda run: run.when).folder if before else None
    return None


def compared(folder: Path, other: Path, answers: Answers | None) -> Compared | None:
    """None where `folder` is no run of one recipe. Raises CheckpointError where `other` is none."""
    own, before = read_run(folder), read_run(other)
    if before is None:
        raise CheckpointError(f"{other}: holds no run to compare with; give the folder that `engine train` wrote")
    if own is None:
        return None
    return Compared(before, differences([before, own]), _changes(before, own, answers))


def _changes(before: PastRun, own: PastRun, answers: Answers | None) -> list[Change]:
    paired = _paired(before.folder, answers) if answers is not None else {}
    rows = (("log_loss", False), ("accuracy", True))
    return [
        Change(name, before.metrics[name], own.metrics[name], paired.get(name), higher)
        for name, higher in rows
        if name in before.metrics and name in own.metrics
    ]


def _paired(folder: Path, answers: Answers) -> dict[str, Interval]:
    """Of the same photos with the same labels; {} where the runs held out others."""
    try:
        other = read_answers(RunFolder(folder).out_of_fold)
    except (EngineError, OSError):
        return {}
    place = {id_: row for row, id_ in enumerate(other.ids)}
    if set(place) != set(answers.ids) or other.classes != answers.classes:
        return {}
    rows = np.array([place[id_] for id_ in answers.ids])
    if (other.truth_N[rows] != answers.truth_N).any():
        return {}
    each = {
        "log_loss": answers.nats_N - other.nats_N[rows],
        "accuracy": answers.right_N.astype(np.float64) - other.right_N[rows],
    }
    return {name: mean_interval(values_N, answers, float(values_N.mean())) for name, values_N in each.items()}


def chosen(recipe: Recipe) -> dict[str, Scalar]:
    """The keys of a recipe that are not as they are when nothing is said."""
    every = flatten(recipe.model_dump(mode="json"))
    return {name: value for name, value in every.items() if value != _default(name)}


def _default(name: str) -> Any:
    key = schema.find(tuple(int(part) if part.isdecimal() else part for part in name.split(".")))
    if key is None or key.required:
        return None
    default = key.default
    plain = default.model_dump(mode="json") if hasattr(default, "model_dump") else default
    return flatten(plain, name).get(name)
