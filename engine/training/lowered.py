"""A copy of a model with its backbone in bf16, which steps go through, while the model keeps the float32 weights.

Autocast casts every weight at every step and makes float32 of norms, scales and residuals, so most maps of a ConvNeXt
go through memory twice as wide as its products need. Here they are bf16 from the first layer to the last. The float32
weights, called masters, are the model itself: whoever averages, scores, saves or freezes it sees what it saw before.

What is small and sums up finely stays float32 and is one with the model's own: pooling and head, and batch norms with
their statistics. Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018, with bf16 in place of fp16, whose
range needs no scaling of the loss.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import RecipeError
from engine.model.build import Classifier, build_shapes
from engine.recipe.sections import ModelSection


class Lowered:
    """The copy of a model as it stands: its weights, what of them learns, and what is in training mode."""

    def __init__(self, model: Classifier) -> None:
        kept = [tensor for module in _staying(model) for tensor in _own(module)]
        self.model: Classifier = copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
        self.model.lowered = True
        known = {id(tensor): tensor for tensor in kept}
        for module in self.model.backbone.modules():
            _lower(module, known)
        both = zip(model.parameters(), self.model.parameters(), strict=True)
        self._pairs: list[tuple[Tensor, Tensor]] = [(master, low) for master, low in both if low is not master]
        self._weights = [low for _, low in self._pairs], [master for master, _ in self._pairs]

    @torch.no_grad()
    def hand_over(self) -> None:
        """Add the copy's gradients to the masters', in float32."""
        fresh: tuple[list[Tensor], list[Tensor]] = ([], [])
        added: tuple[list[Tensor], list[Tensor]] = ([], [])
        for master, low in self._pairs:
            if low.grad is None:
                continue
            if master.grad is None:
                master.grad = torch.empty_like(master)
                to = fresh
            else:
                to = added
            to[0].append(master.grad)
            to[1].append(low.grad)
            low.grad = None
        if fresh[0]:
            torch._foreach_copy_(*fresh)
        if added[0]:
            torch._foreach_add_(*added)

    @torch.no_grad()
    def take_over(self) -> None:
        """Take the masters' weights again."""
        torch._foreach_copy_(*self._weights)


def check_lowered(model: ModelSection, classes: int, size: tuple[int, int]) -> None:
    """Raise RecipeError unless the backbone answers about images of (height, width) with its weights in bf16."""
    if reason := _refusal(Lowered(build_shapes(model, classes, size).eval()).model, size):
        raise RecipeError(
            f'train.precision = "bf16_weights": {model.backbone} cannot do with bf16 alone ({reason}); use "bf16"'
        )


def _refusal(lowered: Classifier, size: tuple[int, int]) -> str:
    """Why it does not answer, in a line; "" where it does."""
    try:
        lowered.outputs(torch.zeros(1, 3, *size, dtype=torch.bfloat16, device="meta"))
    except Exception as error:  # whatever it is that any of a thousand architectures raises
        return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ""


def _staying(model: Classifier) -> list[nn.Module]:
    """The modules that stay float32."""
    apart = [module for name, module in model.named_modules() if name.split(".")[0] in ("pool", "head")]
    return [*apart, *(module for module in model.backbone.modules() if isinstance(module, _BatchNorm))]


def _lower(module: nn.Module, known: dict[int, Tensor]) -> None:
    """Put its own weights and buffers into bf16. `known`: what becomes of tensors, by their ids: those that stay, and
    those that another module has a share in."""
    for own in (module._parameters, module._buffers):
        for name, tensor in own.items():
            if tensor is None or not tensor.is_floating_point():
                continue
            if id(tensor) not in known:
                low = tensor.detach().to(torch.bfloat16)
                known[id(tensor)] = nn.Parameter(low, tensor.requires_grad) if own is module._parameters else low
            own[name] = known[id(tensor)]  # type: ignore[assignment]  # a parameter for a parameter


def _own(module: nn.Module) -> list[Tensor]:
    return [*itertools.chain(module.parameters(recurse=False), module.buffers(recurse=False))]
