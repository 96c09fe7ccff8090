"""Losses: mixed labels weigh their two classes, the margin lowers the true class alone, and changing it is free."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.nn import functional

from engine.augment.mix import MixedLabels
from engine.errors import RecipeError
from engine.model.losses import (
    AngularMargin,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Loss,
    build_loss,
    class_weights,
)
from engine.recipe.sections import ModelSection, TrainSection

SCALE = 30.0


def soft_labels() -> torch.Tensor:
    share_B1 = MIXED.share_B[:, None]
    return functional.one_hot(MIXED.own_B, 5) * share_B1 + functional.one_hot(MIXED.partner_B, 5) * (1 - share_B1)


def logits(batch: int = 6, classes: int = 5, seed: int = 0) -> torch.Tensor:
    """Scaled cosines."""
    return SCALE * (torch.rand(batch, classes, generator=torch.Generator().manual_seed(seed)) * 2 - 1)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
MIXED = MixedLabels(LABELS, LABELS.roll(1), torch.tensor([1.0, 0.9, 0.5, 0.3, 0.1, 0.0]))


def margin_of(size: float) -> AngularMargin:
    margin = AngularMargin(SCALE)
    margin.margin.fill_(size)
    return margin


def test_hard_labels_are_plain_cross_entropy() -> None:
    torch.testing.assert_close(
        Loss(CrossEntropy(0.1))(logits(), LABELS), functional.cross_entropy(logits(), LABELS, label_smoothing=0.1)
    )


def test_a_share_of_one_is_no_mixing() -> None:
    unmixed = MixedLabels(LABELS, LABELS.roll(1), torch.ones(6))
    torch.testing.assert_close(Loss(CrossEntropy(0.1))(logits(), unmixed), Loss(CrossEntropy(0.1))(logits(), LABELS))


@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_mixed_labels_equal_cross_entropy_against_the_soft_label(smoothing: float) -> None:
    expected = functional.cross_entropy(logits(), soft_labels(), label_smoothing=smoothing)
    torch.testing.assert_close(Loss(CrossEntropy(smoothing))(logits(), MIXED), expected)


def test_the_margin_lowers_the_logit_of_the_true_class_and_no_other() -> None:
    before = logits()
    after = margin_of(0.2)(before, LABELS)
    true = functional.one_hot(LABELS, 5).bool()
    assert (after[true] < before[true]).all()
    assert torch.equal(after[~true], before[~true])


def test_the_margin_is_added_to_the_angle() -> None:
    angle = torch.tensor([[1.0]])
    after = margin_of(0.3)(SCALE * angle.cos(), torch.tensor([0]))
    torch.testing.assert_close(after, SCALE * (angle + 0.3).cos())


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1.5))
def test_the_margined_logit_falls_with_the_angle_all_the_way(size: float) -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 400)[:, None]
    after = margin_of(size)(SCALE * angles.cos(), torch.zeros(400, dtype=torch.int64))
    assert (after.diff(dim=0) < 0).all()
    assert (after < SCALE * angles.cos()).all()


def test_a_margin_of_zero_changes_nothing() -> None:
    torch.testing.assert_close(margin_of(0.0)(logits(), LABELS), logits())


def test_with_mixed_labels_each_part_gets_the_margin_on_its_own_class() -> None:
    loss = Loss(CrossEntropy(), margin_of(0.3))
    own = functional.cross_entropy(margin_of(0.3)(logits(), MIXED.own_B), MIXED.own_B, reduction="none")
    partner = functional.cross_entropy(margin_of(0.3)(logits(), MIXED.partner_B), MIXED.partner_B, reduction="none")
    torch.testing.assert_close(loss(logits(), MIXED), (MIXED.share_B * own + (1 - MIXED.share_B) * partner).mean())


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_gradients_stay_finite_at_the_ends_of_the_angle(cosine: float) -> None:
    x = torch.full((1, 2), SCALE * cosine, requires_grad=True)
    Loss(CrossEntropy(), margin_of(0.1))(x, torch.tensor([0])).backward()
    assert torch.isfinite(x.grad).all()


def test_bf16_logits_are_summed_in_fp32_also_under_autocast() -> None:
    half = logits().bfloat16()
    loss = Loss(CrossEntropy(0.05), margin_of(0.1))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, MIXED)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(half.float(), MIXED))


def test_changing_the_margin_does_not_recompile() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = build_loss(ModelSection(backbone="test_convnext", head="arcface"), TrainSection(label_smoothing=0.05))
    compiled = torch.compile(loss, backend=counter)
    values = []
    for margin in (0.0, 0.1, 0.05, 0.3):
        loss.set_margin(margin)
        values.append(compiled(logits(), MIXED).item())
        assert values[-1] == pytest.approx(loss(logits(), MIXED).item(), rel=1e-5)
    assert counter.frame_count == 1
    assert len(set(values)) == 4


def test_a_margin_without_angles_is_refused_with_the_key() -> None:
    loss = build_loss(ModelSection(backbone="test_convnext", head="linear"), TrainSection())
    loss.set_margin(0.0)
    with pytest.raises(RecipeError, match=r'model.head = "arcface"'):
        loss.set_margin(0.1)


def test_the_loss_has_nothing_to_save() -> None:
    assert not build_loss(ModelSection(backbone="test_convnext", head="arcface"), TrainSection()).state_dict()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_of_mixed_labels_is_that_against_the_soft_label(smoothing: float) -> None:
    target = soft_labels() * (1 - smoothing) + smoothing / 5
    expected = functional.binary_cross_entropy_with_logits(logits(), target)
    torch.testing.assert_close(Loss(BinaryCrossEntropy(smoothing))(logits(), MIXED), expected)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    torch.testing.assert_close(Loss(Focal(0.0))(logits(), MIXED), Loss(CrossEntropy())(logits(), MIXED))


def test_focal_loss_counts_what_is_known_less() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    classes = torch.tensor([0, 0])
    p = x.softmax(1)[:, 0]
    torch.testing.assert_close(Focal(2.0)(x, classes), -((1 - p) ** 2) * p.log())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_finite_gradients_when_it_is_certain(gamma: float) -> None:
    x = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    Loss(Focal(gamma))(x, torch.tensor([0, 0])).backward()
    assert torch.isfinite(x.grad).all()


def test_class_weights_make_rare_classes_cost_as_much_in_sum() -> None:
    counts = torch.tensor([90, 10, 0])
    weights = class_weights(counts)
    torch.testing.assert_close(weights * counts, torch.tensor([50.0, 50.0, 0.0]))
    torch.testing.assert_close(class_weights(counts, power=0.0), torch.tensor([1.0, 1.0, 0.0]))


def test_each_part_of_a_mixed_sample_is_weighed_by_its_own_class() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    own = functional.cross_entropy(logits(), MIXED.own_B, reduction="none") * weights[MIXED.own_B]
    partner = functional.cross_entropy(logits(), MIXED.partner_B, reduction="none") * weights[MIXED.partner_B]
    expected = (MIXED.share_B * own + (1 - MIXED.share_B) * partner).mean()
    torch.testing.assert_close(Loss(CrossEntropy(), weights_C=weights)(logits(), MIXED), expected)
