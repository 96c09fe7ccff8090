"""An estimate of the memory a training step takes, without taking it.

The model is built of fake tensors, which have shapes and no memory, and run forward once: what autograd would keep for
the backward pass is counted tensor by tensor, instead of being guessed from a table of architectures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.model.build import build_model
from engine.recipe.sections import ModelSection, StageSection

# Workspace of convolutions and the allocator's fragmentation, on top of what is counted.
OVERHEAD = 1.15


def step_bytes(model: ModelSection, classes: int, stage: StageSection, bf16: bool, averages: int) -> int:
    """Bytes at the peak of a step of `stage`: weights, gradients, AdamW's two moments and `averages` in fp32, and the
    activations kept for the backward pass, times `OVERHEAD`. Without torch.compile, which keeps less."""
    shapes_only = model.model_copy(update={"pretrained": False, "weights": ""})
    kept: dict[int, int] = {}  # address of a storage -> bytes

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.device("meta"):
        network = build_model(shapes_only, classes, stage.size).train()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        network.to_empty(device="cpu")  # fake too, in this mode; autocast knows no meta device
        weights = sum(p.numel() * 4 for p in network.parameters())
        own = {p.untyped_storage()._cdata for p in network.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            answer = network(torch.zeros(stage.batch, 3, *stage.size))
        activations = sum(size for address, size in kept.items() if address not in own)
        del answer
    copies = 4 + averages  # weights, gradients, two moments
    return int((weights * copies + activations) * OVERHEAD)
