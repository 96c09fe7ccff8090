"""What `engine train` and `engine infer` say about specialists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from engine.cli.common import table

if TYPE_CHECKING:  # they import torch
    from engine.predict.outcome import Outcome
    from engine.training.plan import RunPlan
    from engine.training.run import Result

_METRICS = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1"}


def print_plan(plan: RunPlan) -> None:
    """The specialists that will be trained, on how many images; nothing when there are none."""
    rows: list[tuple[object, ...]] = [
        (one.name, ", ".join(one.answers), one.epochs, one.trained_on, one.held_out) for one in plan.specialists
    ]
    if rows:
        title = f"specialists, in fold {plan.folds[0].fold}"
        table("", "answers", "epochs", "trained on", "held out", rows=rows, title=title)


def print_effects(result: Result) -> None:
    """The out-of-fold scores of the main model, and after each specialist was asked; nothing when there are none."""
    if not result.effects:
        return
    rows: list[tuple[object, ...]] = [("main model", *_shown(result.effects[0].before), "", "", "")]
    rows += [(e.name, *_shown(e.after), e.asked, e.wrong_to_right, e.right_to_wrong) for e in result.effects]
    title = f"specialists, each after those before it, on {result.effects[0].images:,} images"
    table("", *_METRICS.values(), "asked", "fixed", "broken", rows=rows, title=title)


def print_asked(outcome: Outcome) -> None:
    """About how many images each specialist was asked."""
    for name, count in outcome.asked.items():
        click.echo(f"{name} was asked about {count:,} of {outcome.images:,} images")


def _shown(metrics: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{metrics[name]:.4f}" for name in _METRICS)
