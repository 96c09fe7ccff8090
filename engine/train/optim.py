"""Parameter groups, the optimiser and the schedule of a stage, by torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from engine.model.build import Classifier
from engine.recipe.sections import StageSection, TrainSection


def parameter_groups(model: Classifier, section: TrainSection) -> list[dict[str, object]]:
    """Backbone and head, each with and without weight decay (biases, norms and other vectors have none).

    Each group carries `scale`, its multiple of the stage's learning rate.
    """
    groups: list[dict[str, object]] = []
    for parameters, scale in (
        (model.backbone_parameters(), 1.0),
        (model.head_parameters(), section.head_lr_multiplier),
    ):
        matrices: list[nn.Parameter] = []
        vectors: list[nn.Parameter] = []
        for parameter in parameters:
            (matrices if parameter.ndim > 1 else vectors).append(parameter)
        for members, decay in ((matrices, section.weight_decay), (vectors, 0.0)):
            if members:
                groups.append({"params": members, "weight_decay": decay, "scale": scale})
    return groups


def build_optimizer(model: Classifier, section: TrainSection) -> torch.optim.Optimizer:
    """AdamW over `parameter_groups`; `stage_schedule` gives it its learning rates."""
    on_gpu = all(p.is_cuda for p in model.parameters())
    return torch.optim.AdamW(parameter_groups(model, section), lr=0.0, fused=on_gpu)


def stage_schedule(
    optimizer: torch.optim.Optimizer, section: TrainSection, stage: StageSection, steps_per_epoch: int
) -> LRScheduler:
    """Linear warm-up over `warmup_epochs`, then a cosine to `min_lr_ratio` of the peak, stepped once per step.

    The optimiser keeps its moments from the stage before. Source: Loshchilov & Hutter, "SGDR", ICLR 2017.
    """
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * group["scale"]
        group.pop("initial_lr", None)  # the base rate of the stage before
    steps = stage.epochs * steps_per_epoch
    warmup = min(round(section.warmup_epochs * steps_per_epoch), steps - 1)
    cosine = CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=stage.lr * section.min_lr_ratio)
    if warmup == 0:
        return cosine
    # The cosine above has set its rates already; the chain sets them again from its first part.
    linear = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
