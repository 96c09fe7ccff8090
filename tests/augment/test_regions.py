"""The region of a photo that a plan needs: all it reads, little more, and no smaller than the output shows."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import fit_to_regions, needed_regions
from engine.augment.views import PLAIN, view_plan
from engine.kernels import Border, Filter, Plan, Ragged, one_pass
from engine.kernels.jpeg import Region
from engine.recipe.sections.augment import AffineSection, AugmentSection, CropSection, PerspectiveSection

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE = torch.tensor([[120, 160]])


def cut(images: Ragged, regions: list[Region]) -> Ragged:
    """What a decoder that brings just these regions would bring."""
    cuts = [t[r.y0 : r.y1, r.x0 : r.x1] for t, r in zip(images.tensors, regions, strict=True)]
    return Ragged([region.contiguous() for region in cuts])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**30),
    filter=st.sampled_from(Filter),
    border=st.sampled_from(Border),
    antialias=st.booleans(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    strength=st.sampled_from([0.2, 1.0, 3.0]),
    perspective=st.booleans(),
)
def test_the_pass_sees_no_difference_between_the_photo_and_the_region(
    pictures: Ragged,
    seed: int,
    filter: Filter,
    border: Border,
    antialias: bool,
    size: tuple[int, int],
    strength: float,
    perspective: bool,
) -> None:
    random = torch.Generator().manual_seed(seed)
    height, width = size
    batch = len(pictures)
    shown_B33 = torch.eye(3).repeat(batch, 1, 1)
    # From the whole photo at the output's size, squeezed, turned and shifted, often far beyond the edges.
    fit_B33 = torch.diag_embed(
        torch.stack([*(pictures.sizes_B2.flip(1) / torch.tensor([width, height])).T, torch.ones(batch)], 1)
    )
    shown_B33[:, :2, :2] += strength * (torch.rand(batch, 2, 2, generator=random) - 0.5)
    shown_B33[:, :2, 2] = strength * (torch.rand(batch, 2, generator=random) - 0.5) * torch.tensor([width, height])
    if perspective:
        shown_B33[:, 2, :2] = 0.6 * (torch.rand(batch, 2, generator=random) - 0.5) / torch.tensor([width, height])
    plan = Plan(
        height,
        width,
        fit_B33 @ shown_B33,
        MEAN,
        STD,
        filter,
        antialias,
        torch.full((batch,), int(border), dtype=torch.int32),
    )
    regions = needed_regions(plan, pictures.sizes_B2, reduce=False)
    frames = [
        (*size, region.x0, region.y0, 1) for size, region in zip(pictures.sizes_B2.tolist(), regions, strict=True)
    ]
    fitted = fit_to_regions(plan, torch.tensor(frames, dtype=torch.int32))
    whole_BCHW = one_pass(pictures, plan, executor="reference")
    region_BCHW = one_pass(cut(pictures, regions), fitted, executor="reference")
    if filter == Filter.NEAREST:  # float32 may round a point on the line between two pixels either way
        assert (whole_BCHW - region_BCHW).abs().gt(1e-3).float().mean() < 0.02
    else:
        assert torch.allclose(whole_BCHW, region_BCHW, atol=0.02)


def plan_of(matrix: list[list[float]], **changes: object) -> Plan:
    plan = Plan(32, 32, torch.tensor([matrix]), MEAN, STD)
    return dataclasses.replace(plan, **changes)


def test_a_crop_needs_its_pixels_and_a_rim() -> None:
    plan = plan_of([[1, 0, 50], [0, 1, 70], [0, 0, 1]])
    (region,) = needed_regions(plan, SIZE, reduce=True)
    assert region == Region(48, 68, 84, 104, 1)


def test_a_plan_is_fitted_to_a_region_that_was_decoded_smaller() -> None:
    plan = plan_of([[2, 0, 40], [0, 3, 30], [0, 0, 1]])
    fitted = fit_to_regions(plan, torch.tensor([[200, 200, 32, 16, 2]], dtype=torch.int32))
    expected = torch.tensor([[[1, 0, 4], [0, 1.5, 7], [0, 0, 1]]])
    assert torch.allclose(fitted.matrix_B33, expected) and fitted.matrix_B33.dtype == torch.float32


def test_a_mirror_at_the_edge_needs_what_it_shows() -> None:
    matrix = [[1, 0, -25], [0, 1, 40], [0, 0, 1]]
    mirrored = plan_of(matrix, border_B=torch.tensor([int(Border.REFLECT)], dtype=torch.int32))
    black = plan_of(matrix, border_B=torch.tensor([int(Border.CONSTANT)], dtype=torch.int32))
    assert needed_regions(mirrored, SIZE, reduce=False)[0][:3:2] == (0, 27)
    assert needed_regions(black, SIZE, reduce=False)[0][:3:2] == (0, 9)


def test_a_view_of_nothing_needs_one_pixel() -> None:
    (region,) = needed_regions(plan_of([[1, 0, 5000], [0, 1, -5000], [0, 0, 1]]), SIZE, reduce=True)
    assert (region.x1 - region.x0, region.y1 - region.y0) == (1, 1)


def test_a_horizon_in_view_needs_the_whole_photo() -> None:
    (region,) = needed_regions(plan_of([[1, 0, 0], [0, 1, 0], [-0.05, 0, 1]]), SIZE, reduce=True)
    assert region == Region(0, 0, 160, 120, 1)


@pytest.mark.parametrize(
    ("scale", "reduction"), [(0.5, 1), (1.99, 1), (2.0, 2), (3.9, 2), (4.0, 4), (7.9, 4), (8, 8), (40, 8)]
)
def test_a_photo_is_reduced_as_far_as_its_output_allows(scale: float, reduction: int) -> None:
    plan = plan_of([[scale, 0, 0], [0, scale * 1.3, 0], [0, 0, 1]])
    size = torch.tensor([[3000, 4000]])
    assert needed_regions(plan, size, reduce=True)[0].reduction == reduction
    assert needed_regions(plan, size, reduce=False)[0].reduction == 1
    sharp = dataclasses.replace(plan, antialias=False)
    assert needed_regions(sharp, size, reduce=True)[0].reduction == 1, "what picks single pixels must find them"


def test_turned_crops_are_reduced_as_upright_ones_are() -> None:
    plan = plan_of([[0, -4.1, 2000], [4.1, 0, 1000], [0, 0, 1]])
    assert needed_regions(plan, torch.tensor([[3000, 4000]]), reduce=True)[0].reduction == 4


def test_random_crops_need_less_than_the_photo() -> None:
    sizes_B2 = torch.tensor([[400, 533]] * 200)
    crop = AugmentSection(crop=CropSection(scale=(0.08, 1.0)))
    moved = AugmentSection(affine=AffineSection(p=1), perspective=PerspectiveSection(p=1))
    for section, most in ((crop, 0.65), (moved, 0.97)):
        plan = Policy(section, MEAN, STD).draw(torch.arange(200), sizes_B2, 224, 224, seed=1, epoch=2)
        regions = needed_regions(plan, sizes_B2, reduce=True)
        area = sum((p.x1 - p.x0) * (p.y1 - p.y0) for p in regions) / (200 * 400 * 533)
        assert 0.3 < area < most


def test_the_middle_that_is_scored_is_all_that_is_needed() -> None:
    contract = Contract(64, 64, MEAN, STD, fit="center")
    (region,) = needed_regions(view_plan(PLAIN, contract, SIZE, torch.device("cpu")), SIZE, reduce=False)
    assert region.y0 == 0 and region.y1 == 120
    assert 10 <= region.x0 <= 20 and 140 <= region.x1 <= 150
