"""What a tracker is, and what it is told about a run, read from what the run itself keeps: its log, recipe, scores.

The log and not the trainer's calls is the source, so that a run is tracked in the same way while it trains, when it
goes on after a crash, when the network was gone for an hour, and a year later.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from engine.events import EpochRecord
from engine.store.log import read_log
from engine.store.run_folder import RunFolder

MARK = "train/lr"  # the last scalar sent of an epoch: where it is, the whole epoch is

Scalar = str | int | float | bool
End = Literal["finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True)
class TrackedEpoch:
    """An epoch of the log and the time it ended, seconds since 1970 (of older epochs about: pauses are not known)."""

    record: EpochRecord
    ended: float

    @property
    def number(self) -> int:
        return self.record.epoch

    @property
    def scalars(self) -> dict[str, float]:
        """What is drawn over the epochs, by the name it has in all trackers; `MARK` last."""
        record = self.record
        return {
            "train/loss": record.train_loss,
            **{f"valid/{name}": value for name, value in record.metrics.items()},
            "speed/images_per_second": record.images_per_second,
            "speed/train_seconds": record.train_seconds,
            "speed/valid_seconds": record.valid_seconds,
            **({} if record.waited is None else {"speed/waited": record.waited}),
            "stage/number": record.stage,
            "stage/height": record.size[0],
            "stage/width": record.size[1],
            MARK: record.lr,
        }


@dataclasses.dataclass(frozen=True)
class TrackedFold:
    """A fold of a run, or of one of its specialists: what has curves of its own."""

    run: RunFolder  # whose log it is in
    number: int
    specialist: str = ""

    @property
    def name(self) -> str:
        return f"{self.specialist}/{self.number}" if self.specialist else str(self.number)


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it. `id` is made once for a folder of models, so that going on is the same run."""

    folder: RunFolder
    id: str
    name: str
    recipe: Mapping[str, Any]  # JSON values
    folds: tuple[TrackedFold, ...]  # in the order they are trained in
    toml: str  # the recipe as text

    @property
    def scored_folds(self) -> int:
        """How many folds its scores are over."""
        return sum(not fold.specialist for fold in self.folds)


class Tracker(Protocol):
    """Where a run is sent. Every call may be repeated, with what was sent before or more, and sends the rest. What goes
    wrong is raised as whatever the library raises."""

    def follow(self, fold: TrackedFold, epochs: Sequence[TrackedEpoch]) -> None:
        """Send those of a fold's epochs, all from 0 on, at least one, that were not sent yet."""

    def score(self, scores: Mapping[str, float]) -> None:
        """Send the scores over all folds."""

    def close(self, end: End) -> None:
        """Nothing more will come from this process."""

    def drop(self) -> None:
        """A call has failed: let go of what is open, without waiting. Another tracker will go on."""


def read_epochs(folds: Sequence[TrackedFold]) -> dict[TrackedFold, list[TrackedEpoch]]:
    """The logged epochs of each fold that has begun, from 0 up to the first one that is missing."""
    logs = {run: _epochs(run.log) for run in {fold.run for fold in folds}}
    epochs = {fold: list(_from_the_first(logs[fold.run][fold.number])) for fold in folds}
    return {fold: found for fold, found in epochs.items() if found}


def _epochs(log: Path) -> defaultdict[int, dict[int, TrackedEpoch]]:
    """Epochs of each fold by number."""
    epochs: defaultdict[int, dict[int, TrackedEpoch]] = defaultdict(dict)
    records = read_log(log)
    ended = log.stat().st_mtime if records else 0.0
    for record in reversed(records):
        epochs[record.fold][record.epoch] = TrackedEpoch(record, ended)
        ended -= record.train_seconds + record.valid_seconds
    return epochs


def _from_the_first(epochs: Mapping[int, TrackedEpoch]) -> Iterator[TrackedEpoch]:
    number = 0
    while number in epochs:
        yield epochs[number]
        number += 1


def read_scores(run: RunFolder) -> dict[str, float]:
    """The out-of-fold scores of a finished run and the log loss of the class shares; {} when there are none."""
    try:
        scores = json.loads(run.scores.read_text("utf-8"))
        found = {**scores["out_of_fold"], "baseline_log_loss": scores["baseline_log_loss"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {name: value for name, value in found.items() if value is not None}


def flatten(value: Any, key: str = "") -> dict[str, Scalar]:
    """A recipe's tables as one: `stage.0.lr`. Lists of plain values are one value, as JSON; nothing is "none"."""
    if isinstance(value, Mapping):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = [(str(i), item) for i, item in enumerate(value)]
    elif isinstance(value, list | tuple):
        return {key: json.dumps(value, ensure_ascii=False)}
    else:
        return {key: "none" if value is None else value}
    return {k: v for name, item in items for k, v in flatten(item, f"{key}.{name}" if key else name).items()}
