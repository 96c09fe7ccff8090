"""The trials of a sweep as they are told of and written down. Knows no Optuna and no torch."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from collections.abc import Sequence

from engine.events import Watcher


@dataclasses.dataclass(frozen=True)
class Row:
    """A trial and what it came to."""

    number: int
    state: str  # complete, pruned, failed, or running: stopped, and to go on
    value: float | None  # of the metric, in its best epoch (pruned: its last one)
    epochs: int
    seconds: float
    sets: tuple[str, ...]  # key=value
    error: str = ""


class SweepWatcher(Watcher):
    """Hears of a sweep's trials, and of the run of each."""

    def trial_begins(self, number: int, sets: Sequence[str], goes_on: bool) -> None:
        """A trial with these values begins, or goes on."""

    def trial_ends(self, row: Row, best: bool) -> None:
        """It is done; `best`: as the best so far."""


def to_csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
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
