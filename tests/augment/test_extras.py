"""Blur, noise and their kind are drawn with their chances, in their ranges, and not too many of them."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from engine.augment.extras import Extra, Extras
from engine.augment.policy import Policy
from engine.recipe.sections.augment import AugmentSection

pytestmark = pytest.mark.usefixtures("drawn_by")

COUNT = 4000
KEYS = torch.arange(COUNT) * 104_729
ALL = {"blur": 0.3, "motion": 0.3, "noise": 0.3, "jpeg": 0.3, "clahe": 0.3, "equalize": 0.3, "elastic": 0.3}


def _draw(settings: dict[str, object], keys: Tensor = KEYS) -> Extras:
    extras = _policy({"extras": settings}).extras(keys, seed=2, epoch=1)
    assert extras is not None
    return extras


def _policy(settings: dict[str, object]) -> Policy:
    return Policy(AugmentSection.model_validate(settings), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_each_is_drawn_with_its_chance_and_within_its_range() -> None:
    extras = _draw({**ALL, "most": 7})
    ranges = {
        Extra.BLUR: (0.5, 2.0),
        Extra.MOTION: (3, 11),
        Extra.NOISE: (0.01, 0.06),
        Extra.JPEG: (20, 70),
        Extra.CLAHE: (1, 4),
        Extra.ELASTIC: (0.004, 0.012),
    }
    for op in (*ranges, Extra.EQUALIZE):
        drawn = extras.op_BE == op
        assert (drawn.sum(1) <= 1).all()
        assert drawn.any(1).double().mean().item() == pytest.approx(0.3, abs=0.03)
        if op in ranges:
            low, high = ranges[op]
            args = extras.arg_BE[drawn].numpy()
            assert stats.kstest(args, stats.uniform(low, high - low).cdf).pvalue > 0.01


def test_at_most_so_many_are_applied_and_all_kinds_equally_often() -> None:
    extras = _draw({**dict.fromkeys(ALL, 1.0), "most": 2})
    assert extras.op_BE.shape == (COUNT, 2)
    assert (extras.op_BE != Extra.NONE).all()
    counts = torch.bincount(extras.op_BE[:, 0], minlength=8)[1:]
    assert stats.chisquare(counts.numpy()).pvalue > 0.01


def test_a_recipe_without_extras_draws_none() -> None:
    assert _policy({}).extras(KEYS, 0, 0) is None


def test_a_policys_whole_image_operations_are_extras() -> None:
    extras = _policy({"policy": {"kind": "autoaugment"}}).extras(KEYS, 0, 0)
    assert extras is not None
    drawn = set(extras.op_BE.unique().tolist())
    assert drawn == {Extra.NONE, Extra.EQUALIZE, Extra.SHARPNESS, Extra.AUTO_CONTRAST}
