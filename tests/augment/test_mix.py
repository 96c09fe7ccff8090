"""MixUp and CutMix: who is mixed with whom, how strongly, where."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from engine.augment.mix import mix_at, mixed_labels, with_mix
from engine.augment.policy import Policy
from engine.kernels import Plan, draws
from engine.recipe.sections.augment import AugmentSection, MixSection

pytestmark = pytest.mark.usefixtures("drawn_by")

KEYS = torch.arange(3000) * 104_729


POLICY = Policy(AugmentSection(), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


class _Mix(NamedTuple):
    partner_B: Tensor
    weight_B: Tensor
    box_B4: Tensor
    own_share_B: Tensor


def _plain(batch: int) -> Plan:
    return Plan(200, 300, torch.eye(3).repeat(batch, 1, 1), mean=(0, 0, 0), std=(1, 1, 1))


def _draw(section: MixSection, keys: Tensor = KEYS, epoch: int = 0) -> _Mix:
    sizes_B2 = torch.tensor([[100, 100]]).expand(len(keys), 2)
    plan = POLICY.draw(keys, sizes_B2, 200, 300, seed=7, epoch=epoch, mix=section)
    assert plan.partner_B is not None and plan.weight_B is not None and plan.box_B4 is not None
    return _Mix(plan.partner_B, plan.weight_B, plan.box_B4, plan.own_share_B())


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_nobody_is_their_own_partner_and_everybody_is_one_partner(batch: int) -> None:
    for epoch in range(20):
        partner = _draw(MixSection(mixup=1.0), KEYS[:batch], epoch).partner_B
        assert (partner != torch.arange(batch)).all()
        assert sorted(partner.tolist()) == list(range(batch))


def test_partners_follow_the_samples_and_not_their_places() -> None:
    keys, order = KEYS[:50], torch.randperm(50, generator=torch.Generator().manual_seed(3))
    one, other = (_draw(MixSection(mixup=0.4, cutmix=1.0), k) for k in (keys, keys[order]))
    assert torch.equal(keys[one.partner_B][order], keys[order][other.partner_B])
    assert torch.equal(one.weight_B[order], other.weight_B)
    assert torch.equal(one.box_B4[order], other.box_B4)


def test_every_other_sample_is_equally_likely_as_partner() -> None:
    partners = torch.stack([_draw(MixSection(mixup=1.0), KEYS[:5], epoch).partner_B for epoch in range(2000)])
    counts = torch.bincount(partners[:, 0], minlength=5)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_the_beta_distribution(alpha: float) -> None:
    mix = _draw(MixSection(mixup=alpha))
    assert stats.kstest(mix.weight_B.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert (mix.box_B4 == 0).all()


def test_cutmix_boxes_have_the_drawn_area_before_clipping_and_the_label_share_after() -> None:
    mix = _draw(MixSection(cutmix=1.0))
    x0, y0, x1, y1 = mix.box_B4.unbind(1)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 300).all() and (y1 <= 200).all()
    assert (mix.weight_B == 1).all()
    inside = (x0 > 0) & (y0 > 0) & (x1 < 300) & (y1 < 200)
    assert inside.sum() > 300
    # Sides sqrt(1 - own) of the image's: the aspect of an unclipped box is the image's, to a pixel.
    assert ((x1 - x0) / 300 - (y1 - y0) / 200)[inside].abs().max() <= 1 / 200
    area = ((x1 - x0) * (y1 - y0)).double() / (200 * 300)
    assert torch.allclose(mix.own_share_B.double(), 1 - area, atol=1e-6)


def test_cutmix_follows_the_papers_distribution_of_true_areas() -> None:
    """Against the paper's own code for the box, run here with numpy's generator."""
    random = np.random.default_rng(0)
    expected = []
    for _ in range(3000):
        cut = np.sqrt(1 - random.beta(1.0, 1.0))
        cut_w, cut_h = int(300 * cut), int(200 * cut)
        cx, cy = random.integers(300), random.integers(200)
        x0, x1 = np.clip([cx - cut_w // 2, cx + cut_w // 2], 0, 300)
        y0, y1 = np.clip([cy - cut_h // 2, cy + cut_h // 2], 0, 200)
        expected.append(1 - (x1 - x0) * (y1 - y0) / (200 * 300))
    assert stats.ks_2samp(_draw(MixSection(cutmix=1.0)).own_share_B.numpy(), expected).pvalue > 0.01


def test_both_kinds_share_a_batch_in_the_given_proportion() -> None:
    mix = _draw(MixSection(mixup=1.0, cutmix=1.0, p=0.6, cutmix_share=0.25))
    mixed = mix.partner_B != torch.arange(len(KEYS))
    cut = mix.box_B4.any(1)
    blended = mix.weight_B < 1
    assert not (cut & blended).any()
    assert not (mixed < (cut | blended)).any()
    assert mixed.double().mean().item() == pytest.approx(0.6, abs=0.03)
    assert (cut.sum() / mixed.sum()).item() == pytest.approx(0.25, abs=0.03)
    assert (mix.own_share_B[~mixed] == 1).all()


def test_per_batch_all_samples_share_kind_and_weight_and_batches_differ() -> None:
    section = MixSection(mixup=0.5, cutmix=0.5, per="batch")
    draws = [_draw(section, KEYS[i : i + 8]) for i in range(0, 400, 8)]
    for mix in draws:
        assert len(mix.weight_B.unique()) == 1
        assert len(mix.box_B4.unique(dim=0)) == 1
    assert len({mix.weight_B[0].item() for mix in draws}) > 10
    assert len({tuple(mix.box_B4[0].tolist()) for mix in draws}) > 10
    again = _draw(section, KEYS[:8].flip(0))
    assert torch.equal(again.weight_B, draws[0].weight_B)


def test_labels_are_those_of_both_partners_and_the_share_of_the_first() -> None:
    plan = _plain(len(KEYS))
    own_B = torch.arange(len(KEYS)) % 7
    plain = mixed_labels(plan, own_B)
    assert torch.equal(plain.own_B, plain.partner_B) and (plain.share_B == 1).all()
    plan = with_mix(plan, MixSection(mixup=0.4, cutmix=1.0), KEYS, seed=1, epoch=0)
    mixed = mixed_labels(plan, own_B)
    assert plan.partner_B is not None and torch.equal(mixed.partner_B, own_B[plan.partner_B])
    assert torch.equal(mixed.own_B, own_B) and torch.equal(mixed.share_B, plan.own_share_B())


def test_labels_that_do_not_belong_to_the_plan_are_refused() -> None:
    if not draws.available():
        pytest.skip("torch's indexing has words of its own")
    with pytest.raises(ValueError, match="of a plan for 4: expected int64"):
        mixed_labels(_plain(4), torch.arange(5))
    for partner in (4, -1):
        plan = dataclasses.replace(_plain(4), partner_B=torch.tensor([1, 2, 3, partner]))
        with pytest.raises(IndexError, match="not among the 4 images"):
            mixed_labels(plan, torch.arange(4))


def test_nothing_to_mix_is_no_mix() -> None:
    for section in (MixSection(), MixSection(mixup=0.2, p=0.0)):
        plan = with_mix(_plain(4), section, KEYS[:4], 0, 0)
        assert (plan.partner_B, plan.weight_B, plan.box_B4) == (None, None, None)


def test_the_first_section_that_covers_an_epoch_applies() -> None:
    cutmix = MixSection(cutmix=1.0, epochs=(0, 15))
    mixup = MixSection(mixup=0.2, epochs=(10, 20))
    assert [mix_at((cutmix, mixup), epoch) for epoch in (0, 15, 16, 20, 21)] == [cutmix, cutmix, mixup, mixup, None]
    assert mix_at((MixSection(mixup=1.0),), 1000) is not None
