"""Averages of the weights along training; timm's implementation."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn

from engine.model.build import Classifier


class Average:
    """Exponential moving average of a model's weights.

    The decay warms up from 0 (1 - (1 + step) ** -2/3, up to `decay`), so that a short run's average is not its random
    start. Source: Polyak & Juditsky 1992; timm's ModelEmaV3.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._ema = ModelEmaV3(model, decay=decay, use_warmup=True)

    @property
    def model(self) -> Classifier:
        """The averaged model, in evaluation mode."""
        return self._ema.module

    def update(self, model: nn.Module) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        self._ema.update(model, step=self.steps)

    def restart(self, model: nn.Module) -> None:
        """Begin again from the current weights."""
        self.steps = 0
        self._ema.set(model)

    def state_dict(self) -> dict[str, object]:
        return {"steps": self.steps, "weights": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        steps, weights = state["steps"], state["weights"]
        assert isinstance(steps, int) and isinstance(weights, dict)
        self.steps = steps
        self.model.load_state_dict(weights)


def build_average(model: Classifier, decay: float) -> Average | None:
    """None when `decay` is 0."""
    return Average(model, decay) if decay > 0 else None


@torch.no_grad()
def scored_model(model: Classifier, average: Average | None) -> Classifier:
    """The model whose weights are scored and saved: the average when there is one."""
    return average.model if average is not None else model
