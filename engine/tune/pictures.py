"""Pictures of what was tried. Made by a bare Figure, which draws with Agg: pyplot would look for a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.files import atomic_write
from engine.metrics import METRICS
from engine.tune.curve import RULE, Curve

_SIZE = (8.0, 4.5)  # inches, at
_DPI = 120


def draw_curve(curve: Curve, title: str, path: Path) -> None:
    """The loss over the learning rate, with the suggestion marked, as a PNG."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="learning rate", ylabel="training loss", xscale="log")
    rates, smoothed = curve.rates[: len(curve.losses)], np.array(curve.smoothed)
    axes.plot(rates, curve.losses, color="0.75", linewidth=0.8, label="of each step")
    axes.plot(rates, smoothed, color="tab:blue", label="smoothed")
    if suggestion := curve.suggest():
        for rate, color, label in (
            (suggestion.steepest, "tab:red", RULE),
            (suggestion.tenth_of_minimum, "tab:green", "a tenth of the lowest point's"),
        ):
            axes.axvline(rate, color=color, linewidth=0.8, linestyle="--")
            height = float(np.interp(np.log(rate), np.log(rates), smoothed))
            axes.plot([rate], [height], "o", color=color, label=f"{rate:.2g}: {label}")
    if len(smoothed):
        low, start, top = smoothed.min(), smoothed[: max(1, len(smoothed) // 4)].max(), smoothed.max()
        margin = 0.15 * (start - low) + 0.02 * start
        axes.set_ylim(max(0.0, low - margin), min(top, 1.5 * start) + margin)  # where it runs away tells nothing
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def draw_history(values: Sequence[tuple[int, float | None]], metric: str, folder: Path) -> None:
    """The score of each finished trial by its number, and the best so far, as `folder`/history.png."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel=metric.replace("_", " "))
    numbers, scores = zip(*((number, value) for number, value in values if value is not None), strict=True)
    best_of = np.maximum if METRICS[metric].higher_is_better else np.minimum
    axes.plot(numbers, scores, "o", color="tab:blue", label="trained to the end")
    axes.step(numbers, best_of.accumulate(scores), where="post", color="tab:red", label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, folder / "history.png")


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)
