"""The curve of a learning rate range test and what it suggests: numbers in, numbers out."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
from scipy.signal import savgol_filter

DIVERGED = 4.0  # times the best smoothed loss so far
_SMOOTH_OVER = 1 / 20  # of the steps: what the moving average looks back on; it lags behind by as much
_SLOPE_OVER = 1 / 5  # of the steps: the window a slope is fitted to; with less, small batches decide where it is
RULE = "steepest descent of the smoothed loss"


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Learning rates that a curve speaks for."""

    steepest: float  # where the smoothed loss falls fastest: what is suggested
    minimum: float  # where the smoothed loss is lowest

    @property
    def tenth_of_minimum(self) -> float:
        """The older rule of thumb: ten times below where the loss is lowest."""
        return self.minimum / 10


class Curve:
    """Losses at rising learning rates, filled step by step.

    `rates` are all that are planned, evenly spaced in their logarithm; `losses` and `smoothed` those so far.
    """

    def __init__(self, low: float, high: float, steps: int) -> None:
        if not 0 < low < high or steps < 2:
            raise ValueError(f"expected 0 < low < high and 2 steps or more, got {low}, {high}, {steps}")
        self.rates = np.geomspace(low, high, steps)
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.diverged = False
        self._decay = max(0.0, 1 - 1 / (_SMOOTH_OVER * steps))
        self._average = 0.0

    def add(self, loss: float) -> None:
        """Take in the loss of the next step; see `diverged` for whether to go on.

        The smoothed loss is an exponential moving average, corrected for its start at 0 as in Adam. A loss that is no
        number is not kept.
        """
        if not math.isfinite(loss):
            self.diverged = True
            return
        self._average = self._decay * self._average + (1 - self._decay) * loss
        self.losses.append(loss)
        self.smoothed.append(self._average / (1 - self._decay ** len(self.losses)))
        self.diverged = self.smoothed[-1] > DIVERGED * min(self.smoothed)

    @property
    def falls_to_the_end(self) -> bool:
        """Whether the loss was lowest at the highest rate, so that a higher one may be better still."""
        return len(self.losses) == len(self.rates) and int(np.argmin(self.smoothed)) == len(self.losses) - 1

    def suggest(self) -> Suggestion | None:
        """The rate at which the smoothed loss falls fastest by the logarithm of the rate, before its lowest point; None
        when it never falls. Slopes are of lines fitted to a fifth of the steps: from step to step, the differences
        between batches are larger than what the rate does.

        Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017; the rule is fastai's.
        """
        window = max(3, round(_SLOPE_OVER * len(self.rates))) | 1
        if len(self.smoothed) <= window:
            return None
        decades = math.log10(self.rates[1] / self.rates[0])
        slopes = savgol_filter(self.smoothed, window, polyorder=1, deriv=1, delta=decades)
        lowest = int(np.argmin(self.smoothed))
        first = window // 2  # before it, the smoothed loss is that of a batch or two
        if lowest <= first:
            return None
        steepest = first + int(np.argmin(slopes[first : lowest + 1]))
        if slopes[steepest] >= 0:
            return None
        return Suggestion(float(self.rates[steepest]), float(self.rates[lowest]))

    def to_csv(self) -> str:
        """A line a step: step, lr, loss, smoothed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("step", "lr", "loss", "smoothed"))
        for step, (loss, smoothed) in enumerate(zip(self.losses, self.smoothed, strict=True)):
            writer.writerow((step, f"{self.rates[step]:.6g}", f"{loss:.6g}", f"{smoothed:.6g}"))
        return text.getvalue()

    def to_dict(self) -> dict[str, object]:
        """All of it, for JSON."""
        suggestion = self.suggest()
        return {
            "rule": RULE,
            "suggested_lr": suggestion.steepest if suggestion else None,
            "minimum_lr": suggestion.minimum if suggestion else None,
            "minimum_lr_over_10": suggestion.tenth_of_minimum if suggestion else None,
            "diverged": self.diverged,
            "lr": self.rates[: len(self.losses)].tolist(),
            "loss": self.losses,
            "smoothed": self.smoothed,
        }
