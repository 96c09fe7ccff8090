"""What the trackers are told about a run, read from what the run itself keeps: its log, recipe and scores.

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

LOG, RUN, SCORES = "log.jsonl", "run.json", "scores.json"  # what engine.train.run writes
MARK = "train/lr"  # the last scalar sent of an epoch: where it is, the whole epoch is

Scalar = str | int | float | bool
End = Literal["finished", "stopped", "failed"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An epoch of the log and the time it ended, seconds since 1970 (of older epochs about: pauses are not known)."""

    record: EpochRecord
    ended: float

    @property
    def epoch(self) -> int:
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
class Part:
    """One fold of a run, or of one of its specialists: what has curves of its own."""

    folder: Path  # of the log
    fold: int
    specialist: str = ""

    @property
    def name(self) -> str:
        return f"{self.specialist}/{self.fold}" if self.specialist else str(self.fold)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as trackers know it. `id` is made once for a folder of models, so that going on is the same run."""

    folder: Path
    id: str
    name: str
    recipe: Mapping[str, Any]  # JSON values
    parts: tuple[Part, ...]  # in the order they are trained in
    toml: str  # the recipe as text

    @property
    def folds(self) -> int:
        """How many folds its scores are over."""
        return sum(not part.specialist for part in self.parts)


class Tracker(Protocol):
    """Where a run is sent. Every call may be repeated, with what was sent before or more, and sends the rest. What goes
    wrong is raised as whatever the library raises."""

    def follow(self, part: Part, entries: Sequence[Entry]) -> None:
        """Send those of a part's epochs, all from 0 on, at least one, that were not sent yet."""

    def score(self, scores: Mapping[str, float]) -> None:
        """Send the scores over all folds."""

    def close(self, end: End) -> None:
        """Nothing more will come from this process."""

    def drop(self) -> None:
        """A call has failed: let go of what is open, without waiting. Another tracker will go on."""


def read_entries(parts: Sequence[Part]) -> dict[Part, list[Entry]]:
    """The logged epochs of each part that has begun, from 0 up to the first one that is missing."""
    logs = {folder: _entries(folder / LOG) for folder in {part.folder for part in parts}}
    entries = {part: list(_from_the_first(logs[part.folder][part.fold])) for part in parts}
    return {part: found for part, found in entries.items() if found}


def _entries(path: Path) -> defaultdict[int, dict[int, Entry]]:
    """Epochs of each fold by number."""
    entries: defaultdict[int, dict[int, Entry]] = defaultdict(dict)
    records = read_log(path)
    ended = path.stat().st_mtime if records else 0.0
    for record in reversed(records):
        entries[record.fold][record.epoch] = Entry(record, ended)
        ended -= record.train_seconds + record.valid_seconds
    return entries


def _from_the_first(entries: Mapping[int, Entry]) -> Iterator[Entry]:
    epoch = 0
    while epoch in entries:
        yield entries[epoch]
        epoch += 1


def read_scores(folder: Path) -> dict[str, float]:
    """The out-of-fold scores of a finished run and the log loss of the class shares; {} when there are none."""
    try:
        scores = json.loads((folder / SCORES).read_text("utf-8"))
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
