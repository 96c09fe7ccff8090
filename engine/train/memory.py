"""An estimate of the memory a training step takes, without taking it.

The model is built on torch's meta device and run forward once: what autograd would keep for the backward pass is
counted tensor by tensor, instead of being guessed from a table of architectures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.model.build import build_model
from engine.recipe.sections import ModelSection, StageSection

GIB = 1024**3
# Workspace of convolutions and the allocator's fragmentation, on top of what is counted.
OVERHEAD = 1.15


def step_bytes(model: ModelSection, classes: int, stage: StageSection, bf16: bool, average: bool) -> int:
    """Bytes at the peak of a step of `stage`: weights, gradients, AdamW's two moments and the average in fp32, the
    activations kept for the backward pass (half of it in bf16), times `OVERHEAD`. Without torch.compile, which keeps
    less."""
    shapes_only = model.model_copy(update={"pretrained": False, "weights": ""})
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.device("meta"):
        network = build_model(shapes_only, classes, stage.size).train()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            images_BCHW = torch.zeros(stage.batch, 3, *stage.size)
            network(images_BCHW)
    weights = sum(p.numel() * 4 for p in network.parameters())
    own = {id(p.untyped_storage()) for p in network.parameters()}
    activations = sum(t.untyped_storage().nbytes() for i, t in kept.items() if i not in own)
    copies = 4 + average  # weights, gradients, two moments
    return int((weights * copies + activations * (0.5 if bf16 else 1)) * OVERHEAD)
