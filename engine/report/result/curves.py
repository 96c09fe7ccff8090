"""How training went, from the log: a line a fold and their mean, over the epochs of the run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from engine.events import EpochRecord
from engine.report.result.plot import Axis, Line, Mark, Plot, fitting, percent

_TABLE_EPOCHS = 200


@dataclasses.dataclass(frozen=True)
class Curves:
    """`plots` of a run and the `rows` behind them, an epoch of a fold each; `hidden`: rows that are left out, being of
    epochs that were not a fold's best."""

    plots: list[Plot]
    rows: list[dict[str, Any]]
    hidden: int


def curves(records: Sequence[EpochRecord], select: str) -> Curves:
    """Loss, the score that epochs are chosen by, learning rate, images a second, share of waiting."""
    marks = _stages(records)
    last = max(record.epoch for record in records) + 1
    x = Axis("epoch", 1, max(2, last), lambda value: f"{value:g}" if value == int(value) else "")
    made = [_loss(records, x, marks)]
    shown = [name for name in ("accuracy", select) if any(name in record.metrics for record in records)]
    made += [
        _plot(_title(name), records, _metric(name), x, marks, percent if name == "accuracy" else _plain)
        for name in dict.fromkeys(shown)
        if name != "log_loss"
    ]
    made.append(_rates(records, x, marks))
    made.append(_plot("Images a second", records, lambda r: r.images_per_second, x, marks, lambda v: f"{v:,.0f}", True))
    if any(record.waited is not None for record in records):
        made.append(_plot("Waiting for data", records, lambda r: r.waited, x, marks, percent, True))
    rows = [_row(record, select) for record in records]
    kept = rows if len(rows) <= _TABLE_EPOCHS else [row for row in rows if row["best"]][-_TABLE_EPOCHS:]
    return Curves(made, kept, len(rows) - len(kept))


Value = Callable[[EpochRecord], float | None]


def _metric(name: str) -> Value:
    return lambda record: record.metrics.get(name)


def _plain(value: float) -> str:
    return f"{value:g}"


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[0].upper() + words[1:]


def _lines(records: Sequence[EpochRecord], value: Value, look: str, name: str) -> list[Line]:
    """A thin line a fold, and a thick one through their mean where all of them have an epoch."""
    folds: dict[int, list[tuple[float, float]]] = {}
    for record in records:
        found = value(record)
        if found is not None and math.isfinite(found):
            folds.setdefault(record.fold, []).append((record.epoch + 1, found))
    lines = [Line(sorted(points), f"{look} each", f"{name}fold {fold}") for fold, points in folds.items()]
    if len(folds) < 2:
        return [dataclasses.replace(line, look=f"{look} mean") for line in lines]
    by_epoch: dict[float, list[float]] = {}
    for points in folds.values():
        for epoch, found in points:
            by_epoch.setdefault(epoch, []).append(found)
    mean = [(epoch, sum(v) / len(v)) for epoch, v in sorted(by_epoch.items()) if len(v) == len(folds)]
    return [*lines, Line(mean, f"{look} mean", f"{name}mean of the folds")] if mean else lines


def _values(lines: Sequence[Line]) -> list[float]:
    return [y for line in lines for _, y in line.points]


def _loss(records: Sequence[EpochRecord], x: Axis, marks: Sequence[Mark]) -> Plot:
    held_out = _lines(records, _metric("log_loss"), "main", "held out, ")
    lines = [*_lines(records, lambda record: record.train_loss, "soft", "training, "), *held_out]
    said = f"Training loss {_span(records, lambda r: r.train_loss)}"
    if held_out:
        said += f"; held out {_span(records, _metric('log_loss'))}"
    return Plot("Loss: held out, and in training (dashed)", said, x, fitting("", _values(lines)), lines, marks=marks)


def _plot(
    title: str,
    records: Sequence[EpochRecord],
    value: Value,
    x: Axis,
    marks: Sequence[Mark],
    show: Callable[[float], str],
    zero: bool = False,
) -> Plot:
    lines = _lines(records, value, "main", "")
    return Plot(
        title, f"{title} {_span(records, value)}", x, fitting("", _values(lines), show, zero), lines, marks=marks
    )


def _rates(records: Sequence[EpochRecord], x: Axis, marks: Sequence[Mark]) -> Plot:
    lines = _lines(records, lambda record: record.lr, "main", "")
    rates = [rate for rate in _values(lines) if rate > 0]
    lines = [dataclasses.replace(line, points=[(e, y) for e, y in line.points if y > 0]) for line in lines]
    low, high = (min(rates), max(rates)) if rates else (1e-6, 1e-3)
    if high / low < 3:
        low, high = low / 2, high * 2
    y = Axis("", low, high, lambda value: f"{value:.0e}".replace("e-0", "e-"), decades=True)
    return Plot("Learning rate", f"Learning rate {_span(records, lambda r: r.lr)}", x, y, lines, marks=marks)


def _span(records: Sequence[EpochRecord], value: Value) -> str:
    """From the first epoch to the last, in words."""
    ends = []
    for epoch in (min(r.epoch for r in records), max(r.epoch for r in records)):
        found = [v for r in records if r.epoch == epoch and (v := value(r)) is not None]
        ends.append(f"{sum(found) / len(found):.4g}" if found else "unknown")
    return f"from {ends[0]} in the first epoch to {ends[1]} in the last, mean of the folds"


def _stages(records: Sequence[EpochRecord]) -> list[Mark]:
    """Where a stage begins, with the size of its images; nothing for a run of one stage."""
    first: dict[int, EpochRecord] = {}
    for record in sorted(records, key=lambda record: record.epoch):
        first.setdefault(record.stage, record)
    if len(first) < 2:
        return []
    return [Mark(max(1.0, r.epoch + 0.5), f"{r.size[0]}×{r.size[1]}") for r in first.values()]


def _row(record: EpochRecord, select: str) -> dict[str, Any]:
    return {
        "fold": record.fold,
        "stage": record.stage,
        "epoch": record.epoch + 1,
        "size": f"{record.size[0]} × {record.size[1]}",
        "lr": record.lr,
        "train_loss": record.train_loss,
        "log_loss": record.metrics.get("log_loss"),
        "accuracy": record.metrics.get("accuracy"),
        "rate": record.images_per_second,
        "waited": record.waited,
        "best": record.best,
    }
