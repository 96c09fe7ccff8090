"""What the bench found, in the form of every result: a row a phase of a stage, and beside them all that the figures
depend on."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from engine.bench.ceilings import Ceilings
from engine.bench.envelope import Envelope, Row
from engine.bench.phases import Bench, Measured, Phase
from engine.recipe.sections import Recipe, StageSection


def rows_of(bench: Bench, measured: Iterable[Measured]) -> Iterator[Row]:
    """The rows of a stage. Rates in images a second; `ms`: milliseconds of one image, or of what happens once;
    `waited` and `share` are shares, the latter of what `limit` names; memory in GiB, of all that was measured
    together."""
    for together in measured:
        for phase in together.phases:
            yield row_of(bench.number, bench.stage, phase) | {
                "device_gib": None if together.device_gib is None else round(together.device_gib, 3),
                "host_gib": round(together.host_gib, 3),
            }


def row_of(number: int, stage: StageSection, phase: Phase) -> Row:
    """A row but for its memory."""
    rate = phase.rate
    ms = 1000 / rate.median if rate is not None else statistics.median(phase.seconds) * 1000 if phase.seconds else None
    return {
        "stage": number,
        "size": list(stage.size),
        "batch": stage.batch,
        "phase": phase.name,
        "images_per_second": None if rate is None else round(rate.median, 2),
        "windows": [] if rate is None else [round(window, 2) for window in rate.windows],
        "ms": None if ms is None else round(ms, 4),
        "waited": None if phase.waited is None else round(phase.waited, 4),
        "share": None if phase.share is None else round(phase.share, 5),
        "limit": phase.limit,
        "note": phase.note,
    }


def report(
    recipe: Recipe, limits: Ceilings, rows: Sequence[Row], settings: dict[str, Any], device: torch.device, command: str
) -> Envelope:
    """The rows of all stages of `recipe`; `settings` are those that it does not know."""
    whole = {
        "backbone": recipe.model.backbone,
        "views": recipe.predict.tta,
        "executor": recipe.augment.executor,
        "limits": {"tflops": round(limits.flops / 1e12, 4), "gb_per_second": round(limits.bytes / 1e9, 2)},
        **settings,
    }
    return Envelope.of(rows, whole, device, command)


def rate_of(rows: Sequence[Row], stage: int, phase: str) -> float | None:
    """Images a second of a phase; None where it has none."""
    found = [row["images_per_second"] for row in rows if row["stage"] == stage and row["phase"] == phase]
    return found[0] if found else None


def loader_over_step(rows: Sequence[Row], stage: int = 0) -> float:
    """How many times as many images the loader makes as the training step takes: below 1 the model waits for it."""
    loader, step = (rate_of(rows, stage, phase) for phase in ("loader", "training step"))
    assert loader and step  # always measured
    return loader / step
