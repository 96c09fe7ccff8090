"""Matrices put points where the operation's definition says, in continuous pixel coordinates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.augment import geometry

sizes = st.integers(1, 3000)


def _at(matrix_33: Tensor, x: float, y: float) -> tuple[float, float]:
    u, v, w = (matrix_33 @ torch.tensor([x, y, 1], dtype=torch.float64)).tolist()
    return u / w, v / w


@given(sizes, sizes, sizes, sizes)
@settings(max_examples=50, deadline=None)
def test_a_letterbox_shows_all_of_the_source_centred_with_its_aspect(h: int, w: int, height: int, width: int) -> None:
    box = geometry.fit_box("letterbox", 1.0, torch.tensor([[h, w]]), height, width)
    matrix = geometry.box_matrix(box, height, width)[0]
    scale = min(height / h, width / w)
    left, top = (width - w * scale) / 2, (height - h * scale) / 2
    assert _at(matrix, left, top) == pytest.approx((0, 0), abs=1e-6 * max(h, w))
    assert _at(matrix, width - left, height - top) == pytest.approx((w, h), rel=1e-9)


@given(sizes, sizes, sizes, sizes, st.floats(0.1, 1))
@settings(max_examples=50, deadline=None)
def test_a_centre_crop_lies_in_the_source_centred_with_the_outputs_aspect(
    h: int, w: int, height: int, width: int, crop: float
) -> None:
    x, y, box_w, box_h = geometry.fit_box("center", crop, torch.tensor([[h, w]]), height, width)[0].tolist()
    assert (x + box_w / 2, y + box_h / 2) == pytest.approx((w / 2, h / 2))
    assert box_w / box_h == pytest.approx(width / height)
    assert max(box_w / w, box_h / h) == pytest.approx(crop)


def test_stretch_maps_corners_to_corners() -> None:
    matrix = geometry.box_matrix(geometry.fit_box("stretch", 1.0, torch.tensor([[30, 50]]), 7, 9), 7, 9)[0]
    assert _at(matrix, 0, 0) == (0, 0)
    assert _at(matrix, 9, 7) == pytest.approx((50, 30))


def test_an_unknown_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'fill'.*letterbox"):
        geometry.fit_box("fill", 1.0, torch.tensor([[3, 5]]), 7, 9)


def test_flips_mirror_and_undo_themselves() -> None:
    choices = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    flips = geometry.flips(choices[:, 0], choices[:, 1], 20, 30)
    assert [_at(m, 1, 2) for m in flips] == [(1, 2), (29, 2), (1, 18), (29, 18)]
    assert torch.equal(flips @ flips, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


def test_a_quarter_turn_is_counter_clockwise_and_swaps_the_sides() -> None:
    matrices, turned = geometry.quarter_turns(torch.tensor([0, 1, 2, 3]), torch.tensor([[20, 30]] * 4))
    assert turned.tolist() == [[20, 30], [30, 20], [20, 30], [30, 20]]
    # What shows in the upper left corner: the source's own corner that a turn by 0, 90, 180, 270 degrees brings there.
    assert [_at(m, 0, 0) for m in matrices] == [(0, 0), (30, 0), (30, 20), (0, 20)]
    ends = [_at(m, float(w), float(h)) for m, (h, w) in zip(matrices, turned.tolist(), strict=True)]
    assert ends == [(30, 20), (0, 20), (0, 0), (30, 0)]


def _affine(scale: float = 1.0, degrees: float = 0.0, shear: tuple = (0, 0), shift: tuple = (0, 0)) -> Tensor:
    one = torch.ones(1, dtype=torch.float64)
    linear = geometry.linear(one * scale, one * math.radians(degrees), torch.tensor([shear]))
    return geometry.affine(linear, torch.tensor([shift], dtype=torch.float64), 20, 30)[0]


def test_affine_moves_content_as_its_names_say() -> None:
    """Matrices say where an output point is read, so content at the read point appears at the output point."""
    assert _at(_affine(shift=(4, -3)), 10, 10) == pytest.approx((6, 13))  # right and up
    assert _at(_affine(scale=2), 15 + 4, 10 + 2) == pytest.approx((15 + 2, 10 + 1))  # larger
    assert _at(_affine(degrees=90), 15, 10 - 5) == pytest.approx((15 + 5, 10))  # right of the centre goes up
    assert _at(_affine(shear=(0.5, 0)), 15 + 1, 10 + 2) == pytest.approx((15, 10 + 2))  # lower goes right
    assert _at(_affine(shear=(0, 0.5)), 15 + 2, 10 + 1) == pytest.approx((15 + 2, 10))  # right goes down


@given(st.floats(0.5, 2), st.floats(-180, 180), st.floats(-1, 1), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_the_linear_part_is_scale_times_turn_times_shear(scale: float, degrees: float, tx: float, ty: float) -> None:
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64)
    shear_y = torch.tensor([[1, 0], [ty, 1]], dtype=torch.float64)
    shear_x = torch.tensor([[1, tx], [0, 1]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    linear = geometry.linear(one * scale, one * a, torch.tensor([[tx, ty]], dtype=torch.float64))[0]
    assert torch.allclose(linear, scale * turn @ shear_y @ shear_x)


@given(st.lists(st.floats(-0.24, 0.24), min_size=8, max_size=8))
@settings(max_examples=50, deadline=None)
def test_perspective_maps_the_corners_and_has_a_source_everywhere(moves: list[float]) -> None:
    height, width = 20, 30
    unit = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    size = torch.tensor([width, height])
    corners = (unit + torch.tensor(moves, dtype=torch.float64).view(4, 2)) * size
    matrix = geometry.perspective(corners[None], height, width)[0]
    for (x, y), corner in zip((unit * size).tolist(), corners.tolist(), strict=True):
        assert _at(matrix, x, y) == pytest.approx(corner, abs=1e-6)
        assert (matrix @ torch.tensor([x, y, 1], dtype=torch.float64))[2] > 0


@given(sizes, sizes, st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_a_random_crop_lies_within_its_source_and_its_ratio(h: int, w: int, seed: int) -> None:
    draws = torch.rand(50, geometry.CROP_DRAWS, generator=torch.Generator().manual_seed(seed))
    boxes = geometry.random_box(draws, torch.tensor([[h, w]]).expand(50, 2), (0.3, 1.0), (0.75, 1.5))
    x, y, box_w, box_h = boxes.unbind(1)
    assert (x >= 0).all() and (y >= 0).all()
    assert (x + box_w <= w * (1 + 1e-12)).all() and (y + box_h <= h * (1 + 1e-12)).all()
    assert ((box_w / box_h > 0.75 - 1e-6) & (box_w / box_h < 1.5 + 1e-6)).all()


def test_a_source_too_narrow_for_any_crop_shows_its_largest_middle() -> None:
    draws = torch.rand(5, geometry.CROP_DRAWS, generator=torch.Generator().manual_seed(0))
    boxes = geometry.random_box(draws, torch.tensor([[1000, 10]]).expand(5, 2), (0.5, 1.0), (0.75, 1.5))
    assert boxes.tolist() == [pytest.approx([0, 500 - 10 / 0.75 / 2, 10, 10 / 0.75])] * 5
