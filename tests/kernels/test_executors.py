"""Every executor keeps the definitions: against the reference on random plans, and against what must hold anyway."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.kernels import Border, Color, Executor, Fill, Filter, Plan, Ragged, one_pass
from engine.kernels.reference import noise, reference_pass

Run = Callable[..., Tensor]
FILTERS = pytest.mark.parametrize("filter", list(Filter), ids=lambda f: f.name.lower())
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def colors(*steps: tuple[Color, float], batch: int = 1) -> dict[str, Tensor]:
    """The same colour program for each of `batch` samples, as keywords of Plan."""
    return {
        "color_op_BK": torch.tensor([[op for op, _ in steps]] * batch, dtype=torch.int32),
        "color_arg_BK": torch.tensor([[arg for _, arg in steps]] * batch, dtype=torch.float32),
    }


def boxes(*corners: tuple[int, int, int, int]) -> Tensor:
    return torch.tensor(corners, dtype=torch.int32)


def noisy(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_bytes(batch_BCHW: Tensor) -> list[Tensor]:
    """Un-normalised output back to images."""
    return list((batch_BCHW.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).contiguous())


# --- random plans -----------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, taps: int, largest: int, out_px: int) -> tuple[Ragged, Plan]:
    """A batch of images and a plan for it. About `taps` taps an axis, sources and outputs up to the given sizes.

    Structure is drawn by hypothesis (so that a failing case shrinks), numbers from a generator with a drawn seed.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 4))
    height, width = draw(st.integers(1, out_px)), draw(st.integers(1, out_px))
    side = st.one_of(st.integers(1, 6), st.integers(1, 80), st.integers(1, largest))
    images = Ragged([noisy(draw(side), draw(side), seed=int(rng.integers(1 << 30))) for _ in range(batch)])
    filter = draw(st.sampled_from(Filter))
    perspective = draw(st.booleans())
    matrices = [random_matrix(rng, image.shape, height, width, taps, perspective) for image in images.tensors]
    n_steps, n_rects = draw(st.integers(0, 5)), draw(st.integers(0, 3))

    def numbers(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape, dtype=np.float32))

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.from_numpy(rng.integers(low, high, shape, dtype=np.int32))

    def sometimes(value: Tensor) -> Tensor | None:
        return value if draw(st.booleans()) else None

    plan = Plan(
        height=height,
        width=width,
        matrix_B33=torch.from_numpy(np.stack(matrices)).float(),
        mean=tuple(rng.uniform(0.2, 0.6, 3).tolist()),
        std=tuple(rng.uniform(0.2, 0.5, 3).tolist()),
        filter=filter,
        antialias=draw(st.booleans()),
        border_B=sometimes(integers(0, len(Border), batch)),
        border_color_B3=sometimes(numbers(batch, 3)),
        noise_seed_B=sometimes(torch.from_numpy(rng.integers(-(2**40), 2**40, batch))),
    )
    if n_steps:
        op_BK = integers(0, len(Color), batch, n_steps)
        plan = dataclasses.replace(plan, color_op_BK=op_BK, color_arg_BK=random_args(op_BK, numbers(batch, n_steps)))
    if n_rects:
        plan = dataclasses.replace(
            plan,
            rect_BR4=integers(-3, out_px + 3, batch, n_rects, 4),
            rect_fill_BR=integers(0, len(Fill), batch, n_rects),
            rect_color_BR3=sometimes(numbers(batch, n_rects, 3)),
        )
    if draw(st.booleans()):
        weight_B = (numbers(batch) * 1.5 - 0.25).clamp(0, 1)  # exact 0 and 1 among them
        plan = dataclasses.replace(
            plan,
            partner_B=torch.from_numpy(rng.integers(0, batch, batch)),
            weight_B=sometimes(weight_B),
            box_B4=sometimes(integers(-3, out_px + 3, batch, 4)),
        )
    return images, plan


def random_matrix(
    rng: np.random.Generator, shape: tuple[int, ...], height: int, width: int, taps: int, perspective: bool
) -> np.ndarray:
    """A random place, turn, flip, scale and shear: footprints up to about taps / 4, some of it outside the source."""
    largest_scale = min(taps / 4, 2 * shape[0] / height + 1, 2 * shape[1] / width + 1)
    scale_x, scale_y = np.exp(rng.uniform(math.log(0.05), math.log(largest_scale), 2)) * rng.choice([-1, 1], 2)
    angle = rng.uniform(0, 2 * math.pi) if rng.random() < 0.6 else rng.choice([0, math.pi / 2])
    turn = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    scale = np.diag([scale_x, scale_y, 1])
    scale[0, 1] = rng.uniform(-0.3, 0.3)
    if perspective:
        scale[2, :2] = rng.uniform(-0.8, 0.8, 2) / [width, height]
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    place = np.eye(3)
    place[:2, 2] = rng.uniform(-0.2, 1.2, 2) * [shape[1], shape[0]]
    matrix: np.ndarray = place @ turn @ scale @ to_centre
    return matrix


# Over which an operation's argument is drawn; where it has none, any will do.
ARGUMENTS = {
    Color.NONE: (0, 1),
    Color.BRIGHTNESS: (0.2, 2),
    Color.CONTRAST: (0, 2),
    Color.SATURATION: (0, 2),
    Color.HUE: (-1, 1),
    Color.GRAY: (-1, 1),
    Color.SHUFFLE: (0, 5),
    Color.INVERT: (0, 1),
    Color.SOLARIZE: (0, 1),
    Color.POSTERIZE: (0, 8),
    Color.GAMMA: (0.5, 2.5),
}


def test_every_operation_is_drawn_over_its_range() -> None:
    assert ARGUMENTS.keys() == set(Color), "give the new operation its range in ARGUMENTS"


def random_args(op_BK: Tensor, unit_BK: Tensor) -> Tensor:
    """Arguments over each operation's range, from numbers in [0, 1)."""
    low_BK, high_BK = torch.zeros_like(unit_BK), torch.ones_like(unit_BK)
    for op, (low, high) in ARGUMENTS.items():
        low_BK[op_BK == op], high_BK[op_BK == op] = low, high
    arg_BK = low_BK + unit_BK * (high_BK - low_BK)
    return torch.where((op_BK == Color.SHUFFLE) | (op_BK == Color.POSTERIZE), arg_BK.round(), arg_BK)


# How far an executor's reading may be from the truth, of the colour range: float32 arithmetic, or taps weighted by
# fixed-point numbers on the CPU (a twentieth of a byte's step).
READING_ERROR = {"reference": 2e-5, "triton": 2e-5, "cpu": 2e-4}


def rounding_neighbours(plan: Plan, reading_error: float) -> list[Plan]:
    """Plans an executor may confuse with this one: coordinates off by a few float32 ulp, colours by the error
    before one step of their program.
    """
    near = []
    size_3 = torch.tensor([plan.width, plan.height, 1.0])
    nudge_B3 = (plan.matrix_B33.abs() * size_3).sum(2) * 2e-6
    for row, sign in itertools.product(range(3), (-1, 1)):
        matrix_B33 = plan.matrix_B33.clone()
        matrix_B33[:, row, 2] += sign * nudge_B3[:, row]
        near.append(dataclasses.replace(plan, matrix_B33=matrix_B33))
    if plan.color_op_BK is None or plan.color_arg_BK is None:
        return near
    for scale in (1 - 2 * reading_error, 1 + 2 * reading_error):  # of x or 1 - x: one is at least a half
        for before in ([(Color.BRIGHTNESS, scale)], [(Color.INVERT, 0), (Color.BRIGHTNESS, scale), (Color.INVERT, 0)]):
            extra = colors(*before, batch=plan.batch)
            for k in range(plan.color_op_BK.shape[1]):
                op_BK, arg_BK = plan.color_op_BK, plan.color_arg_BK
                op_BK = torch.cat([op_BK[:, :k], extra["color_op_BK"], op_BK[:, k:]], 1)
                arg_BK = torch.cat([arg_BK[:, :k], extra["color_arg_BK"], arg_BK[:, k:]], 1)
                near.append(dataclasses.replace(plan, color_op_BK=op_BK, color_arg_BK=arg_BK))
    return near


def assert_agrees(got_BCHW: Tensor, images: Ragged, plan: Plan, reading_error: float) -> None:
    """`got` is the reference in float64 up to its reading error and the rounding of its own dtype.

    Where the answer itself jumps or is steep (nearest, solarize, posterize, gamma at black, the horizon), it may stray
    as far as those of the rounding neighbours.
    """
    std_C11 = torch.tensor(plan.std).view(3, 1, 1)
    want_BCHW = reference_pass(images, plan, torch.float64)
    own_rounding = torch.finfo(got_BCHW.dtype).eps if got_BCHW.dtype != torch.float32 else 0.0
    allowed = 1.5 * reading_error + own_rounding * want_BCHW.abs() * std_C11
    error = (got_BCHW.double() - want_BCHW).abs() * std_C11
    if (error <= allowed).all():
        return
    near = torch.stack([reference_pass(images, p, torch.float64) for p in rounding_neighbours(plan, reading_error)])
    allowed = allowed + 2 * ((near - want_BCHW).abs() * std_C11).amax(0)
    worst = int((error - allowed).argmax())
    assert (error <= allowed).all(), (
        f"differs by {error.flatten()[worst]:.5f}, allowed {allowed.flatten()[worst]:.5f}, at {worst} of {plan}"
    )


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
MANY = settings(deadline=None, suppress_health_check=list(HealthCheck))


def test_random_plans_agree_with_the_reference(run: Run, executor: Executor) -> None:
    examples, taps, out_px = {"reference": (40, 24, 40), "cpu": (150, 24, 60), "triton": (15, 12, 9)}[executor]

    @settings(MANY, max_examples=examples)
    @given(cases(taps, 200, out_px), DTYPES)
    def check(case: tuple[Ragged, Plan], dtype: torch.dtype) -> None:
        images, plan = case
        assert_agrees(run(images, plan, dtype), images, plan, READING_ERROR[executor])

    check()


def test_large_images_agree_with_the_reference(run: Run, executor: Executor) -> None:
    examples, taps, out_px = {"reference": (3, 60, 40), "cpu": (12, 200, 90), "triton": (3, 10, 9)}[executor]

    @settings(MANY, max_examples=examples)
    @given(cases(taps, 3000, out_px))
    def check(case: tuple[Ragged, Plan]) -> None:
        images, plan = case
        assert_agrees(run(images, plan), images, plan, READING_ERROR[executor])

    check()


# --- geometry ---------------------------------------------------------------------------------------------------------


@FILTERS
@pytest.mark.parametrize("size", [(1, 1), (7, 70)])
def test_the_identity_returns_the_normalised_input(run: Run, filter: Filter, size: tuple[int, int]) -> None:
    image_HW3 = noisy(*size)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    got_1CHW = run(Ragged([image_HW3]), Plan(*size, torch.eye(3)[None], mean, std, filter))
    want_HW3 = (image_HW3 / 255 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(got_1CHW[0].permute(1, 2, 0), want_HW3, atol=5e-6, rtol=0)


@FILTERS
def test_a_flip_flips_and_twice_is_the_identity(run: Run, filter: Filter) -> None:
    image_HW3 = noisy(6, 9)
    flip = torch.tensor([[[-1.0, 0, 9], [0, 1, 0], [0, 0, 1]]])
    plan = Plan(6, 9, flip, **PLAIN, filter=filter)
    once = as_bytes(run(Ragged([image_HW3]), plan))
    assert torch.equal(once[0], image_HW3.flip(1))
    assert torch.equal(as_bytes(run(Ragged(once), plan))[0], image_HW3)


@FILTERS
def test_a_quarter_turn_moves_pixels_exactly(run: Run, filter: Filter) -> None:
    image_HW3 = noisy(5, 8)
    turn = torch.tensor([[[0.0, -1, 8], [1, 0, 0], [0, 0, 1]]])  # output (x, y) reads (8 - y, x)
    got = as_bytes(run(Ragged([image_HW3]), Plan(8, 5, turn, **PLAIN, filter=filter)))
    assert torch.equal(got[0], torch.rot90(image_HW3))


def test_a_matrix_and_its_inverse_bring_the_picture_back(run: Run, make_photo: Callable[..., Tensor]) -> None:
    image_HW3 = make_photo(40, 40)
    angle, zoom = 0.5, 0.6
    there = torch.tensor(
        [[zoom * math.cos(angle), -zoom * math.sin(angle), 9.0], [zoom * math.sin(angle), zoom * math.cos(angle), 1.0]]
    )
    there_133 = torch.cat([there, torch.tensor([[0.0, 0, 1]])])[None]
    turned = as_bytes(run(Ragged([image_HW3]), Plan(64, 64, there_133, **PLAIN, filter=Filter.BICUBIC)))
    back_133 = torch.linalg.inv(there_133)
    back = run(Ragged(turned), Plan(40, 40, back_133, **PLAIN, filter=Filter.BICUBIC, antialias=False))
    difference = (back[0].permute(1, 2, 0) - image_HW3 / 255)[12:28, 12:28].abs()
    assert difference.mean() < 2 / 255


@pytest.mark.parametrize(("border", "numpy_mode"), [(Border.EDGE, "edge"), (Border.REFLECT, "symmetric")])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@FILTERS
def test_borders_continue_the_image_as_numpy_pads_it(
    run: Run, border: Border, numpy_mode: str, size: tuple[int, int], filter: Filter
) -> None:
    image_HW3 = noisy(*size)
    pad = 11  # further than twice the largest side
    shift = torch.tensor([[[1.0, 0, -pad], [0, 1, -pad], [0, 0, 1]]])
    plan = Plan(size[0] + 2 * pad, size[1] + 2 * pad, shift, **PLAIN, filter=filter)
    plan = dataclasses.replace(plan, border_B=torch.tensor([border], dtype=torch.int32))
    want = np.pad(image_HW3.numpy(), ((pad, pad), (pad, pad), (0, 0)), mode=numpy_mode)
    assert np.array_equal(as_bytes(run(Ragged([image_HW3]), plan))[0].numpy(), want)


def test_a_constant_border_blends_in_over_half_a_pixel(run: Run) -> None:
    white = torch.full((4, 4, 3), 255, dtype=torch.uint8)
    shift = torch.tensor([[[1.0, 0, -2.25], [0, 1, 0], [0, 0, 1]]])
    plan = Plan(4, 4, shift, **PLAIN, border_color_B3=torch.tensor([[0.0, 0.5, 1.0]]))
    row_3W = run(Ragged([white]), plan)[0, :, 1]
    expected = [[0.0, 0, 0.75, 1], [0.5, 0.5, 0.875, 1], [1, 1, 1, 1]]
    torch.testing.assert_close(row_3W, torch.tensor(expected), atol=1e-5, rtol=0)


@FILTERS
@pytest.mark.parametrize("border", list(Border))
def test_points_without_a_source_take_the_border_color(run: Run, filter: Filter, border: Border) -> None:
    """Behind the horizon (w <= 0), beyond all coordinates, and not a number."""
    bad = [
        [[1.0, 0, 0], [0, 1, 0], [0, 0, -1]],
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 0]],
        [[1e30, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1.0, 0, 0], [0, 1, -4e9], [0, 0, 1]],
        [[math.nan, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[math.inf, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]
    color_B3 = torch.rand(len(bad), 3)
    border_B = torch.full((len(bad),), border, dtype=torch.int32)
    images = Ragged([noisy(5, 5)] * len(bad))
    plan = Plan(3, 2, torch.tensor(bad), **PLAIN, filter=filter, border_B=border_B, border_color_B3=color_B3)
    want_BCHW = color_B3[:, :, None, None].expand(-1, -1, 3, 2)
    torch.testing.assert_close(run(images, plan), want_BCHW, atol=1e-6, rtol=0)


@pytest.mark.parametrize("filter", [Filter.BILINEAR, Filter.BICUBIC])
def test_shrinking_averages_when_antialiased_and_skips_when_not(run: Run, filter: Filter) -> None:
    stripes = torch.zeros(24, 24, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255
    shrink = torch.diag(torch.tensor([4.0, 4, 1]))[None]
    edge_1 = torch.tensor([Border.EDGE], dtype=torch.int32)
    plan = Plan(6, 6, shrink, **PLAIN, filter=filter, border_B=edge_1)
    smooth = run(Ragged([stripes]), plan)
    assert (smooth[..., 1:-1] - 0.5).abs().max() < 0.03
    shifted = shrink.clone()
    shifted[:, 0, 2] = 0.5  # on the white stripes' centres
    rough = run(Ragged([stripes]), dataclasses.replace(plan, matrix_B33=shifted, antialias=False))
    assert rough.min() > 0.99


def test_the_footprint_of_a_turned_and_stretched_map_is_measured_in_both_axes(run: Run, executor: Executor) -> None:
    cos, sin = math.cos(0.6), math.sin(0.6)
    matrix_33 = torch.tensor([[3 * cos, -1.5 * sin, 12], [3 * sin, 2 * cos, 4], [0.001, 0.002, 1]])
    images = Ragged([noisy(40, 40)])
    plan = Plan(8, 9, matrix_33[None], **PLAIN)
    assert_agrees(run(images, plan), images, plan, READING_ERROR[executor])


# --- colours ----------------------------------------------------------------------------------------------------------

GRAY_CARD = torch.tensor([[[200, 100, 50], [10, 250, 130]], [[0, 0, 0], [255, 255, 255]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("op", "arg", "want"),
    [
        (Color.NONE, 3.0, [[200, 100, 50], [10, 250, 130], [0, 0, 0], [255, 255, 255]]),
        (Color.BRIGHTNESS, 1.5, [[255, 150, 75], [15, 255, 195], [0, 0, 0], [255, 255, 255]]),
        (Color.SATURATION, 0.0, [[124.2] * 3, [164.56] * 3, [0] * 3, [255] * 3]),
        (Color.GRAY, 1.0, [[124.2] * 3, [164.56] * 3, [0] * 3, [255] * 3]),
        (Color.GRAY, 0.0, [[200, 100, 50], [10, 250, 130], [0, 0, 0], [255, 255, 255]]),
        (Color.HUE, 1 / 3, [[50, 200, 100], [130, 10, 250], [0, 0, 0], [255, 255, 255]]),
        (Color.HUE, -2 / 3, [[50, 200, 100], [130, 10, 250], [0, 0, 0], [255, 255, 255]]),
        (Color.SHUFFLE, 0.0, [[200, 100, 50], [10, 250, 130], [0, 0, 0], [255, 255, 255]]),
        (Color.SHUFFLE, 1.0, [[200, 50, 100], [10, 130, 250], [0, 0, 0], [255, 255, 255]]),
        (Color.SHUFFLE, 3.0, [[100, 50, 200], [250, 130, 10], [0, 0, 0], [255, 255, 255]]),
        (Color.SHUFFLE, 4.0, [[50, 200, 100], [130, 10, 250], [0, 0, 0], [255, 255, 255]]),
        (Color.SHUFFLE, 5.0, [[50, 100, 200], [130, 250, 10], [0, 0, 0], [255, 255, 255]]),
        (Color.INVERT, 0.0, [[55, 155, 205], [245, 5, 125], [255, 255, 255], [0, 0, 0]]),
        (Color.SOLARIZE, 0.5, [[55, 100, 50], [10, 5, 125], [0, 0, 0], [0, 0, 0]]),
        (Color.POSTERIZE, 2.0, [[192, 64, 0], [0, 192, 128], [0, 0, 0], [192, 192, 192]]),
        (Color.POSTERIZE, 8.0, [[200, 100, 50], [10, 250, 130], [0, 0, 0], [255, 255, 255]]),
        (Color.GAMMA, 2.0, [[156.86, 39.22, 9.80], [0.392, 245.1, 66.27], [0, 0, 0], [255, 255, 255]]),
        (Color.GAMMA, 0.0, [[255] * 3] * 4),
    ],
)
def test_each_color_step_does_what_its_name_says(run: Run, op: Color, arg: float, want: list[list[float]]) -> None:
    plan = Plan(2, 2, torch.eye(3)[None], **PLAIN, **colors((op, arg)))
    got_43 = run(Ragged([GRAY_CARD]), plan)[0].permute(1, 2, 0).reshape(4, 3) * 255
    torch.testing.assert_close(got_43, torch.tensor(want, dtype=torch.float32), atol=0.02, rtol=0)


def test_contrast_zero_leaves_the_mean_luma_of_the_image_as_it_is_before_that_step(run: Run) -> None:
    image_HW3 = torch.zeros(32, 32, 3, dtype=torch.uint8)
    image_HW3[:, :8] = torch.tensor([250, 100, 50], dtype=torch.uint8)
    luma = (0.299 * 250 + 0.587 * 100 + 0.114 * 50) / 255
    for steps, want in {
        ((Color.CONTRAST, 0.0),): luma / 4,
        ((Color.BRIGHTNESS, 0.5), (Color.CONTRAST, 0.0)): luma / 8,
        ((Color.INVERT, 0.0), (Color.CONTRAST, 0.5), (Color.CONTRAST, 0.0)): 1 - luma / 4,
    }.items():
        plan = Plan(32, 32, torch.eye(3)[None], **PLAIN, **colors(*steps))
        got = run(Ragged([image_HW3]), plan)
        torch.testing.assert_close(got, torch.full_like(got, want), atol=1e-4, rtol=0)


# --- rectangles -------------------------------------------------------------------------------------------------------


def test_rectangles_paint_in_turn_and_only_inside(run: Run) -> None:
    mean = (0.1, 0.2, 0.3)
    plan = Plan(
        6,
        8,
        torch.eye(3)[None],
        mean,
        (0.5, 0.5, 0.5),
        rect_BR4=boxes((1, 1, 5, 4), (3, 2, 30, 30), (0, 0, 0, 9), (-4, -4, 1, 1), (2, 2, 2, 5), (0, 0, 8, 6))[None],
        rect_fill_BR=torch.tensor(
            [[Fill.CONSTANT, Fill.MEAN, Fill.CONSTANT, Fill.CONSTANT, Fill.MEAN, Fill.NONE]], dtype=torch.int32
        ),
        rect_color_BR3=torch.tensor([[[1.0, 0.5, 0]] * 6]),
    )
    image_HW3 = noisy(6, 8)
    want_HW3 = (image_HW3 / 255 - torch.tensor(mean)) / 0.5
    color_3 = (torch.tensor([1.0, 0.5, 0]) - torch.tensor(mean)) / 0.5
    want_HW3[1:4, 1:5] = color_3
    want_HW3[2:, 3:] = 0
    want_HW3[:1, :1] = color_3
    got_HW3 = run(Ragged([image_HW3]), plan)[0].permute(1, 2, 0)
    torch.testing.assert_close(got_HW3, want_HW3, atol=5e-6, rtol=0)


def test_noise_is_uniform_repeats_with_its_seed_and_only_with_it(run: Run) -> None:
    side = 32
    seeds_B = torch.tensor([7, 7, 8, 7 + 2**32])  # the lower 32 bits count
    whole_B14 = boxes((0, 0, side, side)).expand(4, 1, 4)
    noise_B1 = torch.full((4, 1), Fill.NOISE, dtype=torch.int32)
    plan = Plan(side, side, torch.eye(3).repeat(4, 1, 1), **PLAIN, rect_BR4=whole_B14, rect_fill_BR=noise_B1)
    got = run(Ragged([noisy(3, 3)] * 4), dataclasses.replace(plan, noise_seed_B=seeds_B))
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[3])
    assert (got[0] == got[2]).float().mean() < 0.01
    sorted_N = got[0].flatten().double().sort().values
    uniform_N = (torch.arange(len(sorted_N)) + 0.5) / len(sorted_N)
    assert (sorted_N - uniform_N).abs().max() < 1.63 / math.sqrt(len(sorted_N))  # Kolmogorov-Smirnov at 1%
    flat_3N = got[0].flatten(1)
    neighbours = torch.cat([torch.corrcoef(flat_3N)[0, 1:], torch.corrcoef(got[0][0])[0, 1:].mean()[None]])
    assert neighbours.abs().max() < 0.1
    pixel_HW = torch.arange(side * side).view(side, side)
    assert torch.equal(got[2], torch.stack([noise(8, pixel_HW, torch.tensor(c)) for c in range(3)]))


# --- mixing -----------------------------------------------------------------------------------------------------------


def mixing(size: int, batch: int = 3, **more: Tensor) -> tuple[Ragged, Plan]:
    """Images of different sizes, zoomed to `size`, each with colours and a rectangle of its own; partner: the next."""
    images = Ragged([noisy(5 + i, 9 - i, seed=i) for i in range(batch)])
    plan = Plan(
        size,
        size,
        torch.stack([torch.diag(torch.tensor([t.shape[1] / size, t.shape[0] / size, 1])) for t in images.tensors]),
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        color_op_BK=torch.tensor([[Color.INVERT], [Color.BRIGHTNESS], [Color.CONTRAST]], dtype=torch.int32),
        color_arg_BK=torch.tensor([[0.0], [0.7], [1.5]]),
        rect_BR4=boxes((0, 0, 3, 3), (2, 2, 5, 6), (1, 0, 2, size))[:, None],
        rect_fill_BR=torch.tensor([[Fill.MEAN], [Fill.CONSTANT], [Fill.NOISE]], dtype=torch.int32),
        noise_seed_B=torch.arange(batch),
        partner_B=(torch.arange(batch) + 1) % batch,
    )
    return images, dataclasses.replace(plan, **more)


def alone(plan: Plan) -> Plan:
    return dataclasses.replace(plan, partner_B=None, weight_B=None, box_B4=None)


def test_weight_one_and_an_empty_box_is_no_mixing(run: Run) -> None:
    images, plan = mixing(10, weight_B=torch.ones(3), box_B4=boxes((4, 4, 4, 8), (0, 0, 0, 0), (6, 1, 2, 9)))
    assert torch.equal(run(images, plan), run(images, alone(plan)))
    assert torch.equal(plan.own_share_B(), torch.ones(3))


def test_mixup_is_the_weighted_mean_of_both_samples_each_with_its_own_colors_and_rectangles(run: Run) -> None:
    weight_B = torch.tensor([0.5, 0.0, 0.8])
    images, plan = mixing(10, weight_B=weight_B)
    single = run(images, alone(plan))
    want = weight_B.view(3, 1, 1, 1) * single + (1 - weight_B.view(3, 1, 1, 1)) * single[[1, 2, 0]]
    torch.testing.assert_close(run(images, plan), want, atol=1e-5, rtol=0)
    assert torch.equal(plan.own_share_B(), weight_B)


def test_cutmix_shows_the_partner_inside_its_box_and_nowhere_else(run: Run) -> None:
    images, plan = mixing(18, box_B4=boxes((2, 3, 17, 6), (-5, -5, 4, 900), (0, 0, 18, 18)))
    single = run(images, alone(plan))
    want = single.clone()
    want[0, :, 3:6, 2:17] = single[1, :, 3:6, 2:17]
    want[1, :, :, :4] = single[2, :, :, :4]
    want[2] = single[0]
    torch.testing.assert_close(run(images, plan), want, atol=1e-5, rtol=0)


@settings(MANY, max_examples=5)
@given(weight=st.floats(0, 1, width=32), box=st.tuples(*[st.integers(-3, 12)] * 4))
def test_the_label_keeps_the_share_of_the_image_that_the_pixels_keep(
    run: Run, weight: float, box: tuple[int, int, int, int]
) -> None:
    """On white mixed with black, the mean pixel is the sample's own share."""
    images = Ragged([torch.full((4, 4, 3), value, dtype=torch.uint8) for value in (255, 0)])
    shrink = torch.diag(torch.tensor([0.4, 0.4, 1])).expand(2, 3, 3)
    edge_B = torch.full((2,), Border.EDGE, dtype=torch.int32)
    plan = Plan(9, 9, shrink, **PLAIN, border_B=edge_B, partner_B=torch.tensor([1, 0]))
    plan = dataclasses.replace(plan, weight_B=torch.tensor([weight, 1.0]), box_B4=boxes(box, (0, 0, 0, 0)))
    assert float(run(images, plan)[0].mean()) == pytest.approx(float(plan.own_share_B()[0]), abs=1e-5)


# --- buffers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_output_is_the_float32_output_rounded(run: Run, dtype: torch.dtype) -> None:
    images, plan = mixing(13, weight_B=torch.tensor([0.3, 1.0, 0.5]))
    full, half = run(images, plan), run(images, plan, dtype)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), full, atol=1e-4, rtol=torch.finfo(dtype).eps)


def test_the_reference_in_float32_is_the_reference_in_float64_rounded() -> None:
    images, plan = mixing(13, weight_B=torch.tensor([0.3, 1.0, 0.5]))
    double = reference_pass(images, plan, torch.float64)
    assert double.dtype == torch.float64
    torch.testing.assert_close(one_pass(images, plan, executor="reference").double(), double, atol=1e-5, rtol=0)
