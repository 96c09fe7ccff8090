"""An image's arithmetic is that of its network's products, both ways."""

from __future__ import annotations

import pytest
import torch

from engine.bench.ceilings import ceilings
from engine.bench.flops import flops
from engine.model.build import build_model
from engine.recipe.sections import ModelSection, StageSection

CLASSES = 10


def stage(**changes: object) -> StageSection:
    values = {"size": (64, 64), "batch": 4, "epochs": 1, "lr": 1e-3} | changes
    return StageSection.model_validate(values)


def by_hand(network: torch.nn.Module, images_BCHW: torch.Tensor) -> float:
    """Of one forward pass, added up by hooks."""
    found = []

    def note(module: torch.nn.Module, _: object, answer: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            found.append(2 * answer.numel() * kernel)
        elif isinstance(module, torch.nn.Linear):
            found.append(2 * answer.numel() * module.in_features)

    for module in network.modules():
        module.register_forward_hook(note)
    network(images_BCHW)
    return sum(found) / len(images_BCHW)


@pytest.mark.parametrize("backbone", ["test_convnext", "test_efficientnet"])
def test_every_convolution_and_product_is_counted(backbone: str) -> None:
    section = ModelSection(backbone=backbone, pretrained=False)
    counted = flops(section, stage(), CLASSES)
    network = build_model(section, CLASSES, (64, 64)).eval()
    assert counted.forward == pytest.approx(by_hand(network, torch.zeros(2, 3, 64, 64)), rel=1e-3)
    # Each gradient is as much again, but for the images themselves, which need none.
    assert 2.5 * counted.forward < counted.training <= 3 * counted.forward


def test_what_does_not_learn_needs_no_gradient() -> None:
    section = ModelSection(backbone="test_convnext", pretrained=False)
    whole, head = flops(section, stage(), CLASSES), flops(section, stage(head_only=1), CLASSES)
    assert head.forward == whole.forward
    assert head.training < 1.05 * head.forward


def test_limits_are_reached_by_this_machine() -> None:
    found = ceilings(torch.device("cpu"), torch.float32, 0.05)
    assert found.flops > 1e9 and found.bytes > 1e8
