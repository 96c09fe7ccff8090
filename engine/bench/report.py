"""What the bench found, in the form of every result: a row a phase, and beside them all that the figures depend on."""

from __future__ import annotations

from collections.abc import Sequence

from engine.bench.envelope import Envelope, Row
from engine.bench.phases import Bench, Phase


def report(bench: Bench, phases: Sequence[Phase], source: str, command: str) -> Envelope:
    """The figures of `phases` as `bench` measured them; `source` says in words which photos it was given."""
    recipe, stage = bench.recipe, bench.stage
    settings = {
        "size": list(stage.size),
        "batch": stage.batch,
        "backbone": recipe.model.backbone,
        "views": recipe.predict.tta,
        "executor": recipe.augment.executor,
        "images": {"source": source, "count": bench.images},
        "seconds_per_phase": bench.seconds,
    }
    return Envelope.of([_row(phase) for phase in phases], settings, bench.device, command)


def _row(phase: Phase) -> Row:
    """Rates in images a second; `waited` is a share; memory in GiB."""
    rate = phase.rate
    return {
        "phase": phase.name,
        "images_per_second": round(rate.median, 2),
        "windows": [round(window, 2) for window in rate.windows],
        "waited": None if rate.waited is None else round(rate.waited, 4),
        "device_gib": None if phase.device_gib is None else round(phase.device_gib, 3),
        "host_gib": round(phase.host_gib, 3),
    }


def loader_over_step(rows: Sequence[Row]) -> float:
    """How many times as many images the loader makes as the training step takes: below 1 the model waits for it."""
    rate = {row["phase"]: row["images_per_second"] for row in rows}
    return float(rate["loader"] / rate["training step"])
