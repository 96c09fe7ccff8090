"""The trials of a sweep as they are told of and written down. Knows no Optuna and no torch."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from collections.abc import Sequence

from engine.events import Event


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """A trial and what it came to."""

    number: int
    state: str  # complete, pruned, failed, or running: stopped, and to go on
    value: float | None  # of the metric, in its best epoch (pruned: its last one)
    epochs: int
    seconds: float
    sets: tuple[str, ...]  # key=value
    error: str = ""


@dataclasses.dataclass(frozen=True)
class TrialBegan(Event):
    """A trial with these values (`key=value`) begins, or goes on; news of its run follows."""

    number: int
    sets: tuple[str, ...]
    goes_on: bool


@dataclasses.dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is done; `best`: as the best so far."""

    result: TrialResult
    best: bool


def to_csv(rows: Sequence[TrialResult], keys: Sequence[str]) -> str:
    """The rows as CSV, a column for each key of the space."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", "epochs", "seconds", *keys, "error"])
    for row in rows:
        values = dict(one.split("=", 1) for one in row.sets)
        shown = "" if row.value is None else row.value
        own = [row.number, row.state, shown, row.epochs, row.seconds]
        writer.writerow([*own, *(values.get(key, "") for key in keys), row.error])
    return text.getvalue()


def sets_line(sets: Sequence[str]) -> str:
    """The options that give `engine train` a trial's values, for a shell."""
    return " ".join(f"--set {shlex.quote(one)}" for one in sets)
