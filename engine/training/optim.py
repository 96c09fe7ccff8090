"""Parameter groups, and the optimiser by its name in timm, which knows torch's own and many others."""

from __future__ import annotations

import functools
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn

from engine.errors import RecipeError
from engine.model.build import Classifier
from engine.recipe.sections import TrainSection
from engine.text import similar

_HEAD = "a name that no matcher knows"  # timm counts what it has no rule for to the head
_STEPS = 6  # after which an optimiser keeps all that it will; Lookahead's slow weights come last
_FUSED = ("adam", "adamw", "sgd")  # torch's own, which have one kernel for all parameters


def backbone_layers(model: Classifier) -> list[list[nn.Parameter]]:
    """The backbone's parameters by layer, from the input to the output, as timm groups them.

    A layer is a stem, a block, or what follows the last block. Raises RecipeError for the few backbones that timm has
    no grouping for.
    """
    depths = _depths(model)
    layers: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.backbone.named_parameters():
        layers.setdefault(depths[name], []).append(parameter)
    return [layers[depth] for depth in sorted(layers, reverse=True)]


def _depths(model: Classifier) -> dict[str, int]:
    """How many layers below the head each parameter of the backbone is: 0 for what timm counts to the head itself."""
    backbone: Any = model.backbone
    if not hasattr(backbone, "group_matcher"):
        raise RecipeError(
            f"timm does not say what the layers of {type(backbone).__name__} are: set train.layer_decay = 1, and "
            "head_only and thaw_blocks of all stages to 0"
        )
    named = [*backbone.named_parameters(), (_HEAD, None)]
    number = group_with_matcher(named, backbone.group_matcher(coarse=False), reverse=True)
    return {name: number[_HEAD] - layer for name, layer in number.items()}


def parameter_groups(model: Classifier, section: TrainSection) -> list[dict[str, object]]:
    """Head, then backbone, by multiples of the learning rate and by weight decay (biases, norms and other vectors have
    none). Each group carries `scale`, its multiple of the stage's learning rate.

    With `layer_decay` each layer's multiple is that times the one above it, beginning below the head. Source: Clark et
    al., "ELECTRA", ICLR 2020; as in timm.
    """
    scaled = [(p, section.head_lr_multiplier) for p in model.head_parameters()]
    if section.layer_decay == 1:
        scaled += [(p, 1.0) for p in model.backbone_parameters()]
    else:
        depths = _depths(model)
        scaled += [(p, section.layer_decay ** depths[name]) for name, p in model.backbone.named_parameters()]
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, scale in scaled:
        decay = section.weight_decay if parameter.ndim > 1 else 0.0
        members.setdefault((scale, decay), []).append(parameter)
    return [{"params": group, "weight_decay": decay, "scale": scale} for (scale, decay), group in members.items()]


def build_optimizer(model: Classifier, section: TrainSection, recorded: bool = False) -> torch.optim.Optimizer:
    """The optimiser over `parameter_groups`; `set_rate` gives it its learning rates. Raises RecipeError.

    `recorded`: its steps will be CUDA graphs, so that all that changes between them lies on the device.
    """
    optimizer = _create(parameter_groups(model, section), section)
    _settle(optimizer, recorded)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], recorded: bool = False) -> None:
    """Go on from what its `state_dict` gave, whether that one was recorded or not."""
    optimizer.load_state_dict(state)
    _settle(optimizer, recorded)


def _settle(optimizer: torch.optim.Optimizer, recorded: bool) -> None:
    """Where the learning rates lie: on the device of what learns, or on the host."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = recorded
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, device=group["params"][0].device) if recorded else rate


def check_optimizer(section: TrainSection) -> None:
    """Raise RecipeError, naming the nearest names, when there is no optimiser of the name or it cannot be used here."""
    _create([{"params": [nn.Parameter(torch.zeros(2, 2))], "weight_decay": 0.0, "scale": 1.0}], section)


@functools.lru_cache(maxsize=8)
def kept_share(section: TrainSection) -> float:
    """Bytes that the optimiser keeps for each byte of weights in matrices: it is asked, with a matrix to learn."""
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = _create([{"params": [weight], "weight_decay": 0.0, "scale": 1.0}], section)
    set_rate(optimizer, 1e-3)
    for _ in range(_STEPS):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    inner = getattr(optimizer, "_base_optimizer", optimizer)  # timm's Lookahead keeps all of it there
    states = [state for state in inner.state.values() if isinstance(state, dict)]
    held = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in held) / (4 * weight.numel())


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate: each group's is `lr` times its scale."""
    for group in optimizer.param_groups:
        rate = lr * group["scale"]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _create(groups: list[dict[str, object]], section: TrainSection) -> torch.optim.Optimizer:
    name = section.optimizer.lower()
    if name.rpartition("_")[2] not in list_optimizers():
        near = similar(name, list_optimizers()) or ["adamw", "adam", "sgd"]
        raise RecipeError(
            f'train.optimizer = "{section.optimizer}": timm has no such optimiser; nearest: {", ".join(near)}'
        )
    options = {"fused": True} if name in _FUSED else {}
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            groups, opt=name, lr=1.0, momentum=section.momentum, **options
        )
    except (ValueError, TypeError, ImportError, RuntimeError, AssertionError) as error:
        raise RecipeError(f'train.optimizer = "{section.optimizer}" cannot be used here: {error}') from error
    if getattr(optimizer, "is_second_order", False):
        raise RecipeError(f'train.optimizer = "{section.optimizer}" needs second derivatives, which are not computed')
    return optimizer
