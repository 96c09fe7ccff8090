"""Averages of the weights along training.

Two kinds, because they answer different wishes: a moving average is there from the first step and follows the weights,
the mean over the last epochs (SWA) waits until training has settled and weighs them alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from engine.model.build import Classifier


class Average:
    """Exponential moving average of the weights and buffers of `model`, whose tensors stay the ones they are.

    The decay of the n-th step is 1 - n ** (-2/3), at most `decay`: from 0, so that a short run's average is not its
    random start. Source: Polyak & Juditsky 1992; timm's ModelEmaV3, to whose bits it keeps, without looking for the
    tensors in two state dicts at every step, which takes longer than averaging them.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.model = copy.deepcopy(model).eval()
        pairs = [*zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)]
        self._mine, self._theirs = _sides([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters = _sides([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        before = self.steps - 1
        decay = min(1 - (1 + before) ** (-2 / 3), self.decay) if before else 0.0
        torch._foreach_lerp_(self._mine, self._theirs, weight=1.0 - decay)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the current weights."""
        self.steps = 0
        torch._foreach_copy_(self._mine, self._theirs)
        if self._counters[0]:
            torch._foreach_copy_(*self._counters)

    def state_dict(self) -> dict[str, object]:
        return {"steps": self.steps, "weights": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, object]) -> None:
        steps, weights = state["steps"], state["weights"]
        assert isinstance(steps, int) and isinstance(weights, dict)
        self.steps = steps
        self.model.load_state_dict(weights)


def _sides(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """The first of each, and the second."""
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]


class EpochMean:
    """The mean of a model's weights at the ends of epochs (SWA): of none until the first is taken in.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018; torch's AveragedModel.
    """

    def __init__(self, model: Classifier) -> None:
        self._mean = AveragedModel(model)

    @property
    def model(self) -> Classifier:
        """The model with the mean weights."""
        module = self._mean.module
        assert isinstance(module, Classifier)
        return module

    @property
    def epochs(self) -> int:
        """How many epochs it is the mean of."""
        return int(self._mean.n_averaged)

    def update(self, model: nn.Module) -> None:
        """Take in the weights at an epoch's end."""
        self._mean.update_parameters(model)

    @property
    def norms(self) -> list[Tensor]:
        """The statistics of its batch norms, which are of other weights until `renew_norms` has been called."""
        modules = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        return [s for m in modules for s in (m.running_mean, m.running_var) if s is not None]

    def renew_norms(self, images: Iterable[Tensor], device: torch.device) -> None:
        """Estimate the statistics of batch norms anew from training batches."""
        update_bn(images, self.model, device)

    def state_dict(self) -> dict[str, Tensor]:
        return self._mean.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._mean.load_state_dict(state)


def build_average(model: Classifier, decay: float) -> Average | None:
    """None when `decay` is 0."""
    return Average(model, decay) if decay > 0 else None
