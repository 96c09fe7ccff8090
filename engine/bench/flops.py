"""How much arithmetic an image is, counted on a network without memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from engine.model.build import build_shapes
from engine.recipe.sections import ModelSection, StageSection
from engine.training.freeze import Freezer, thawed_layers, to_training

_IMAGES = 2  # batch norms refuse to learn from one


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations an image, multiplications and additions counted apart: of the network's answer, and of
    an answer with its gradients. Products and convolutions are counted, as the limit is one of these; what goes element
    by element is not."""

    forward: float
    training: float


def flops(model: ModelSection, stage: StageSection, classes: int) -> Flops:
    """Of an image of the stage, in its last epoch, when the most of the network learns.

    By torch's own counter, with a rule of ours where its own is wrong (torch 2.15): it counts the gradient of a grouped
    convolution's weights as if there were one group, which makes a depthwise network's backward pass four times too
    much.
    """
    network = build_shapes(model, classes, stage.size)
    Freezer(network).thaw(thawed_layers(stage, stage.epochs - 1))
    to_training(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network.to_empty(device="cpu")
        images_BCHW = torch.zeros(_IMAGES, 3, *stage.size)
        with FlopCounterMode(display=False) as forward:
            answer = network(images_BCHW)
        rules = {torch.ops.aten.convolution_backward: _convolution_backward}
        with FlopCounterMode(display=False, custom_mapping=rules) as backward:
            answer.sum().backward()
    once = forward.get_total_flops()
    return Flops(once / _IMAGES, (once + backward.get_total_flops()) / _IMAGES)


def _convolution_backward(
    gradient: Sequence[int], _: Sequence[int], weight: Sequence[int], *others: Any, **__: Any
) -> int:
    """Each of the two gradients, of the images and of the weights, is as much as the convolution itself. Shapes: of the
    answer's gradient, of the images, of the weights; the last argument says which gradients are wanted."""
    wanted = others[-1][:2]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(wanted)
