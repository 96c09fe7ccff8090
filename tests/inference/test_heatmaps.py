"""Where a model looked: the place that was looked at is hot, whatever the backbone, and nobody's answers change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.augment.contract import Contract
from engine.augment.views import PLAIN, View, tta_views, view_named
from engine.inference.heatmaps import class_map, heatmap
from engine.inference.member import Member
from engine.inference.members import Members
from engine.kernels import Ragged
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.store.checkpoint import Checkpoint

CPU = torch.device("cpu")


def built(backbone: str, size: tuple[int, int] = (64, 64), **model: Any) -> Classifier:
    """A model of random weights, in evaluation mode."""
    recipe = parse_recipe(
        {
            "model": {"backbone": backbone, "pretrained": False, **model},
            "stage": [{"size": [*size], "batch": 4, "epochs": 1, "lr": 1e-3}],
        }
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return build_model(recipe.model, 5, size).eval()


def noise(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def scaled(map_HW: Tensor) -> Tensor:
    positive = map_HW.clamp(min=0)
    return positive / positive.max()


@pytest.mark.parametrize("backbone", ["resnet10t", "test_convnext", "test_efficientnet"])
def test_behind_an_average_it_is_grad_cam(backbone: str) -> None:
    model, image = built(backbone, (128, 128)), noise(128, 128)
    found: list[Tensor] = []
    layer = getattr(model.backbone, {"resnet10t": "layer4", "test_convnext": "stages"}.get(backbone, "bn2"))
    oracle = captum.attr.LayerGradCam(model, layer).attribute(image, target=2)[0, 0].detach()
    found.append(class_map(model, image, 2))
    torch.testing.assert_close(scaled(found[0]), scaled(oracle), atol=1e-4, rtol=1e-3)
