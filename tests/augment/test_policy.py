"""What a policy draws follows the recipe's distributions and depends on the address of the sample alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from engine.augment.policy import Policy
from engine.kernels import Border, Color, Fill, Filter, Plan
from engine.recipe.sections.augment import AugmentSection, MixSection

pytestmark = pytest.mark.usefixtures("drawn_by")

COUNT = 4000
KEYS = torch.arange(COUNT) * 15_485_863
SIZES = torch.tensor([[300, 400]], dtype=torch.int32).repeat(COUNT, 1)
EVERYTHING = {
    "vertical_flip": 0.5,
    "quarter_turn": 0.5,
    "crop": {"letterbox_p": 0.3, "half_p": 0.3},
    "affine": {"p": 0.5, "shear": 10},
    "perspective": {"p": 0.5},
    "color": {"p": 0.7},
    "tone": dict.fromkeys(["gamma", "gray", "shuffle", "invert", "solarize", "posterize"], 0.3),
    "policy": {"kind": "randaugment"},
    "erase": {"p": 0.5},
    "random_erasing": {"p": 0.5, "fill": "noise"},
    "cutout": {"p": 0.5},
    "corner": {"p": 0.5},
}


def _plan(
    settings: dict[str, Any],
    keys: Tensor = KEYS,
    sizes: Tensor = SIZES,
    epoch: int = 0,
    size: tuple[int, int] = (100, 200),
    mix: MixSection | None = None,
) -> Plan:
    policy = Policy(AugmentSection(**{"flip": 0.0, **settings}), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    return policy.draw(keys, sizes, *size, seed=11, epoch=epoch, mix=mix)


def _rows(plan: Plan, rows: Tensor) -> dict[str, Tensor]:
    """The per-sample fields of some rows; partners left out, they are indices into the batch."""
    fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
    return {name: v[rows] for name, v in fields.items() if isinstance(v, Tensor) and name != "partner_B"}


def _is_uniform(values: Tensor, low: float, high: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), stats.uniform(low, high - low).cdf).pvalue > 0.01)


@pytest.mark.parametrize(
    ("chosen", "interpolation", "filter"),
    [("nearest", "bicubic", 0), ("bilinear", "bicubic", 1), ("auto", "bilinear", 1), ("auto", "bicubic", 2)],
)
def test_the_filter_is_the_chosen_or_the_backbones_own_and_all_else_is_drawn_alike(
    chosen: str, interpolation: str, filter: int
) -> None:
    section = AugmentSection.model_validate({**EVERYTHING, "filter": chosen})
    policy = Policy(section, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), interpolation)
    plan = policy.draw(KEYS, SIZES, 100, 200, seed=11, epoch=0)
    assert plan.filter == Filter(filter)
    other = _plan({"flip": 0.5, **EVERYTHING})
    for name, values in _rows(plan, torch.arange(len(KEYS))).items():
        assert torch.equal(values, getattr(other, name)), name


def test_a_samples_plan_does_not_depend_on_its_batch() -> None:
    keys, sizes = KEYS[:40], torch.randint(50, 500, (40, 2), generator=torch.Generator().manual_seed(0))
    mix = MixSection(mixup=0.4, cutmix=1.0, p=0.7)
    plan = _plan(EVERYTHING, keys, sizes, mix=mix)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:13]
    part = _plan(EVERYTHING, keys[rows], sizes[rows], mix=mix)
    expected, found = _rows(plan, rows), _rows(part, torch.arange(13))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name


def test_epochs_and_samples_differ() -> None:
    crop = {"crop": {"scale": (0.1, 0.5)}}  # small enough that none falls back to the whole middle
    first, second = _plan(crop, epoch=0), _plan(crop, epoch=1)
    assert (first.matrix_B33 != second.matrix_B33).flatten(1).any(1).all()
    assert len(first.matrix_B33.unique(dim=0)) == COUNT


def test_adding_an_operation_leaves_the_draws_of_the_others() -> None:
    few = _plan({"color": {"p": 0.7}, "erase": {"p": 0.5}})
    many = _plan({"color": {"p": 0.7}, "erase": {"p": 0.5}, "corner": {"p": 0.5}, "tone": {"gray": 0.5}})
    assert few.color_arg_BK is not None and many.color_arg_BK is not None
    assert torch.equal(few.matrix_B33, many.matrix_B33)
    assert torch.equal(few.color_arg_BK, many.color_arg_BK[:, :4])
    assert few.rect_BR4 is not None and many.rect_BR4 is not None
    assert torch.equal(few.rect_BR4, many.rect_BR4[:, :8])


def test_what_is_not_asked_for_is_not_in_the_plan() -> None:
    plan = _plan({"crop": {"kind": "stretch"}})
    absent = [plan.color_op_BK, plan.color_arg_BK, plan.rect_BR4, plan.rect_fill_BR, plan.rect_color_BR3]
    absent += [plan.noise_seed_B, plan.partner_B, plan.weight_B, plan.box_B4]
    assert absent == [None] * len(absent)
    expected = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1]]).expand(COUNT, 3, 3)
    assert torch.equal(plan.matrix_B33, expected)


def test_random_crops_have_the_intended_area_and_aspect() -> None:
    """Conditions under which every first try fits, so that the distributions are the textbook ones."""
    plan = _plan({"crop": {"scale": (0.1, 0.5), "ratio": (0.8, 1.25)}})
    box_w, box_h = plan.matrix_B33[:, 0, 0] * 200, plan.matrix_B33[:, 1, 1] * 100
    assert _is_uniform(box_w * box_h / (300 * 400), 0.1, 0.5)
    assert _is_uniform(torch.log(box_w / box_h), math.log(0.8), math.log(1.25))
    room_x, room_y = 400 - box_w, 300 - box_h
    assert _is_uniform(plan.matrix_B33[:, 0, 2] / room_x, 0, 1)
    assert _is_uniform(plan.matrix_B33[:, 1, 2] / room_y, 0, 1)


def test_random_crops_match_torchvisions() -> None:
    """With retries and the fallback in play, from a wide source."""
    from torchvision.transforms import RandomResizedCrop

    plan = _plan({"crop": {"scale": (0.3, 1.0)}}, sizes=torch.tensor([[300, 700]]).repeat(COUNT, 1))
    areas = plan.matrix_B33[:, 0, 0] * 200 * plan.matrix_B33[:, 1, 1] * 100
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(torch.empty(3, 300, 700), [0.3, 1.0], [0.75, 4 / 3]) for _ in range(1500)]
    # Theirs are whole pixels: ours rounded likewise would differ by a pixel at most, far below this test's resolution.
    assert stats.ks_2samp(areas.numpy(), [h * w for _, _, h, w in theirs]).pvalue > 0.01


def test_affine_draws_scale_angle_and_shift_uniformly() -> None:
    settings = {"crop": {"kind": "stretch"}, "affine": {"p": 1.0, "shift": 0.1, "scale": 0.2, "rotate": 30}}
    plan = _plan(settings, sizes=torch.tensor([[100, 200]]).repeat(COUNT, 1))  # source and output of one size
    forward = torch.linalg.inv(plan.matrix_B33.double())
    scale = torch.linalg.det(forward[:, :2, :2]).sqrt()
    assert _is_uniform(scale, 0.8, 1.2)
    assert _is_uniform(torch.rad2deg(torch.atan2(forward[:, 0, 1], forward[:, 0, 0])), -30, 30)
    moved = (forward @ torch.tensor([100.0, 50, 1]).double())[:, :2] - torch.tensor([100.0, 50])
    assert _is_uniform(moved[:, 0] / 200, -0.1, 0.1)
    assert _is_uniform(moved[:, 1] / 100, -0.1, 0.1)
    assert abs(stats.pearsonr(moved[:, 0].numpy(), moved[:, 1].numpy())[0]) < 0.06


def test_shear_draws_slants_uniformly_in_degrees() -> None:
    affine = {"p": 1.0, "shift": 0.0, "scale": 0.0, "rotate": 0.0, "shear": 20}
    plan = _plan({"crop": {"kind": "stretch"}, "affine": affine}, sizes=torch.tensor([[100, 200]]).repeat(COUNT, 1))
    forward = torch.linalg.inv(plan.matrix_B33.double())
    for slant in (forward[:, 0, 1], forward[:, 1, 0]):
        assert _is_uniform(torch.rad2deg(torch.atan(slant)), -20, 20)


@pytest.mark.parametrize(
    ("settings", "applied"),
    [
        ({"flip": 0.3}, lambda p: p.matrix_B33[:, 0, 0] < 0),
        ({"vertical_flip": 0.3}, lambda p: p.matrix_B33[:, 1, 1] < 0),
        ({"quarter_turn": 0.3}, lambda p: (p.matrix_B33[:, 0, 0] == 0) | (p.matrix_B33[:, 0, 0] < 0)),
        ({"affine": {"p": 0.3}}, lambda p: p.matrix_B33[:, 0, 1] != 0),
        ({"perspective": {"p": 0.3}}, lambda p: p.matrix_B33[:, 2, 0] != 0),
        ({"crop": {"letterbox_p": 0.3}}, lambda p: p.border_B == Border.CONSTANT),
        ({"color": {"p": 0.3}}, lambda p: p.color_op_BK[:, 0] != Color.NONE),
        ({"tone": {"gamma": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.GAMMA),
        ({"tone": {"gray": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.GRAY),
        ({"tone": {"shuffle": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.SHUFFLE),
        ({"tone": {"invert": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.INVERT),
        ({"tone": {"solarize": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.SOLARIZE),
        ({"tone": {"posterize": 0.3}}, lambda p: p.color_op_BK[:, 0] == Color.POSTERIZE),
        ({"erase": {"p": 0.3}}, lambda p: (p.rect_fill_BR == Fill.MEAN).any(1)),
        ({"random_erasing": {"p": 0.3}}, lambda p: (p.rect_fill_BR == Fill.MEAN).any(1)),
        ({"cutout": {"p": 0.3, "fill": "constant"}}, lambda p: (p.rect_fill_BR == Fill.CONSTANT).any(1)),
        ({"corner": {"p": 0.3, "fill": "noise"}}, lambda p: (p.rect_fill_BR == Fill.NOISE).any(1)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_each_operation_is_applied_with_its_chance(settings: dict[str, Any], applied: Any) -> None:
    for chance, expected in ((0.3, pytest.approx(0.3, abs=0.025)), (1.0, 1.0)):
        scaled = {
            key: chance if value == 0.3 else {k: chance if v == 0.3 else v for k, v in value.items()}
            for key, value in settings.items()
        }
        assert applied(_plan(scaled)).double().mean().item() == expected


def test_a_letterboxed_sample_is_padded_with_the_mean_whatever_the_border() -> None:
    plan = _plan({"crop": {"letterbox_p": 0.5}, "border": "edge"})
    assert plan.border_B is not None and plan.border_color_B3 is not None
    letterboxed = plan.border_B == Border.CONSTANT
    assert torch.equal(plan.border_B[~letterboxed], torch.full_like(plan.border_B[~letterboxed], Border.EDGE))
    assert torch.allclose(plan.border_color_B3, torch.tensor([0.5, 0.4, 0.3]))
    # 300 x 400 into 100 x 200: 3 source pixels for one of the output, 33 columns of padding on either side.
    expected = torch.tensor([[3.0, 0, -100], [0, 3, 0], [0, 0, 1]])
    assert torch.allclose(plan.matrix_B33[letterboxed], expected.expand(int(letterboxed.sum()), 3, 3))


def test_a_half_crop_shows_one_half_and_both_equally_often() -> None:
    plan = _plan({"crop": {"half_p": 1.0}})
    left = plan.matrix_B33[:, 0, 2]
    right = left + 200 * plan.matrix_B33[:, 0, 0]
    in_left, in_right = right <= 200 + 1e-3, left >= 200 - 1e-3
    assert (in_left ^ in_right).all()
    assert in_left.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_coarse_dropout_draws_count_size_and_place_uniformly_inside_the_image() -> None:
    plan = _plan({"erase": {"p": 1.0, "count": (2, 5), "size": (0.1, 0.3)}}, size=(1000, 2000))
    assert plan.rect_BR4 is not None and plan.rect_fill_BR is not None
    drawn = plan.rect_fill_BR == Fill.MEAN
    _, counts = drawn.sum(1).unique(return_counts=True)
    assert len(counts) == 4
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
    x0, y0, x1, y1 = plan.rect_BR4[drawn].double().unbind(1)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 2000).all() and (y1 <= 1000).all()
    assert _is_uniform((x1 - x0) / 2000, 0.1, 0.3)
    assert _is_uniform((y1 - y0) / 1000, 0.1, 0.3)
    assert _is_uniform(x0 / (2000 - (x1 - x0)), 0, 1)


def test_random_erasing_draws_area_and_aspect() -> None:
    plan = _plan({"random_erasing": {"p": 1.0, "area": (0.05, 0.2), "ratio": (0.5, 2.0)}}, size=(2000, 2000))
    assert plan.rect_BR4 is not None
    x0, y0, x1, y1 = plan.rect_BR4[:, 0].double().unbind(1)
    assert _is_uniform((x1 - x0) * (y1 - y0) / 2000**2, 0.05, 0.2)
    assert _is_uniform(torch.log((y1 - y0) / (x1 - x0)), math.log(0.5), math.log(2.0))


def test_cutout_reaches_over_the_edge_and_the_corner_mask_sits_upper_right() -> None:
    plan = _plan({"cutout": {"p": 1.0, "size": 0.5}, "corner": {"p": 1.0, "size": (0.2, 0.4)}}, size=(1000, 1000))
    assert plan.rect_BR4 is not None
    cut, corner = plan.rect_BR4.double().unbind(1)
    assert _is_uniform(((cut[:, 0] == 0).double() * 0 + (cut[:, 0] + 250))[cut[:, 0] > 0], 250, 1000)
    assert (cut >= 0).all() and (cut <= 1000).all()
    assert (corner[:, 2] == 1000).all() and (corner[:, 1] == 0).all()
    assert _is_uniform(1000 - corner[:, 0], 200, 400) and _is_uniform(corner[:, 3], 200, 400)


def test_an_erased_constant_has_the_recipes_color() -> None:
    plan = _plan({"erase": {"p": 1.0, "fill": "constant", "color": (0.1, 0.2, 0.3)}})
    assert plan.rect_color_BR3 is not None
    assert torch.allclose(plan.rect_color_BR3, torch.tensor([0.1, 0.2, 0.3]).expand(COUNT, 8, 3))


@pytest.mark.gpu
def test_a_plan_drawn_on_the_gpu_is_the_plan_drawn_on_the_host() -> None:
    mix = MixSection(mixup=0.4, cutmix=1.0)
    host, device = _plan(EVERYTHING, mix=mix), _plan(EVERYTHING, KEYS.cuda(), mix=mix).to("cpu")
    rows = torch.arange(COUNT)
    for name, value in _rows(host, rows).items():
        other = _rows(device, rows)[name]
        # Transcendental functions may differ in their last digit; a rounded rectangle then by one pixel, rarely.
        assert (value.double() - other.double()).abs().median() == 0, name
        assert torch.isclose(value.double(), other.double(), rtol=1e-4, atol=1e-3).double().mean() > 0.999, name
    assert host.partner_B is not None and device.partner_B is not None
    assert torch.equal(host.partner_B, device.partner_B)
