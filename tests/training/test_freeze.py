"""Freezing: the head alone, then the backbone, at once or layer by layer from the top."""

from __future__ import annotations

import pytest
import torch

from engine.model.build import Classifier, build_model
from engine.recipe.sections import ModelSection, StageSection
from engine.training.freeze import Freezer, thawed_layers, to_training
from engine.training.optim import backbone_layers


def stage(**changes: int) -> StageSection:
    return StageSection(size=(32, 32), batch=4, epochs=9, lr=1e-3, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "thawed"),
    [
        ({}, [None] * 5),
        ({"head_only": 2}, [0, 0, None, None, None]),
        ({"head_only": 1, "thaw_blocks": 2}, [0, 2, 4, 6, 8]),
        ({"thaw_blocks": 3}, [3, 6, 9, 12, 15]),
        ({"head_only": 9}, [0] * 5),
    ],
)
def test_what_is_thawed_when(changes: dict[str, int], thawed: list[int | None]) -> None:
    assert [thawed_layers(stage(**changes), epoch) for epoch in range(5)] == thawed


def model(backbone: str = "test_convnext") -> Classifier:
    return build_model(ModelSection(backbone=backbone, pretrained=False, pooling="gem"), 3, (64, 64))


def learning(classifier: Classifier) -> list[bool]:
    """Whether each layer of the backbone learns, from the input; all its parameters agree."""
    flags = [{p.requires_grad for p in layer} for layer in backbone_layers(classifier)]
    assert all(len(flag) == 1 for flag in flags)
    assert all(p.requires_grad for p in classifier.head_parameters())
    return [flag.pop() for flag in flags]


def test_layers_thaw_from_the_top() -> None:
    classifier = model()
    freezer = Freezer(classifier)
    count = len(backbone_layers(classifier))
    assert freezer.thaw(0) and learning(classifier) == [False] * count
    assert freezer.thaw(3) and learning(classifier) == [False] * (count - 3) + [True] * 3
    assert not freezer.thaw(3)
    assert freezer.thaw(None) and learning(classifier) == [True] * count
    assert not freezer.thaw(count + 5)  # more than there are


def test_what_never_learns_stays_so() -> None:
    classifier = model()
    fixed = next(classifier.backbone_parameters())
    fixed.requires_grad_(False)
    freezer = Freezer(classifier)
    freezer.thaw(0)
    freezer.thaw(None)
    assert not fixed.requires_grad and all(p.requires_grad for p in classifier.parameters() if p is not fixed)


def test_frozen_batch_norms_keep_their_statistics() -> None:
    classifier = model("test_resnet")
    freezer = Freezer(classifier)

    def changed() -> list[str]:
        before = {name: b.clone() for name, b in classifier.named_buffers() if name.endswith("running_mean")}
        to_training(classifier)
        classifier(torch.randn(4, 3, 64, 64))
        return [name for name, b in classifier.named_buffers() if name in before and not torch.equal(b, before[name])]

    freezer.thaw(0)
    assert changed() == []
    assert not classifier.backbone.training and classifier.head.training
    freezer.thaw(2)
    some = changed()
    assert some and all(name.startswith(("backbone.layer4", "backbone.layer3")) for name in some)
    freezer.thaw(None)
    assert any(name.startswith("backbone.conv1") or name.startswith("backbone.bn1") for name in changed())
