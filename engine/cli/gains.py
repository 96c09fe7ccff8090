"""What `engine train` and `engine ensemble` say about what was fitted after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.cli.common import table

if TYPE_CHECKING:  # it imports numpy and what else is fitted with
    from engine.ensemble.fitting import Gain

_METRICS = {"log_loss": "log loss", "accuracy": "accuracy", "calibration_error": "ECE"}


def print_gains(gains: Sequence[Gain]) -> None:
    """A row for each part that was tried, on images that it was not fitted on; nothing when none was."""
    if not gains:
        return
    rows: list[tuple[object, ...]] = [("(before)", *_values(gains[0].before), "", "")]
    rows += [(f"{one.part}\n{one.how}", *_values(one.after), _difference(one), one.why or "kept") for one in gains]
    title = "fitted on out-of-fold answers, each after what was kept before it, and judged on images it had not seen"
    table("", *_METRICS.values(), "in log loss", "", rows=rows, title=title)


def _values(metrics: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(f"{metrics[name]:.4f}" if name in metrics else "" for name in _METRICS)


def _difference(gain: Gain) -> str:
    found = gain.difference
    if found is None:
        return ""
    between = "" if found.low is None else f"\n{found.low:+.4f}, {found.high:+.4f}"
    return f"{found.difference:+.4f}{between}"
