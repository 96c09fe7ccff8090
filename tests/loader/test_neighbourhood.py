"""Blur, noise and their kind: on the samples that drew them, in the strength that was drawn, and nowhere else."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from scipy import stats
from torch import Tensor

from engine.augment.extras import Extra, Extras
from engine.augment.policy import Policy
from engine.kernels import Plan, Ragged
from engine.loader.neighbourhood import apply_extras
from engine.loader.passes import execute
from engine.recipe.sections.augment import AugmentSection

KEYS = torch.arange(6) * 104_729
SIZE = 64


def _policy(settings: dict[str, object]) -> Policy:
    return Policy(AugmentSection.model_validate(settings), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _plan(images: Ragged) -> Plan:
    return _policy({"color": {"p": 1.0}}).draw(KEYS[: len(images)], images.sizes_B2, SIZE, SIZE, seed=2, epoch=1)


def _changed(op: Extra, arg: float, image: Tensor, seed: int = 0) -> Tensor:
    """One image (SIZE, SIZE, 3) of uint8 after one operation, float (3, SIZE, SIZE) in [0, 1]."""
    plan = Plan(SIZE, SIZE, torch.eye(3)[None], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    extras = Extras(torch.tensor([[op]], dtype=torch.int32), torch.tensor([[arg]]), torch.tensor([seed]))
    images, plan = apply_extras(extras, Ragged([image]), plan, "reference")
    return execute("reference", images, plan)[0]


@pytest.fixture(scope="module")
def photo(pictures: Ragged) -> Tensor:
    height, width = pictures.tensors[2].shape[:2]
    assert (height, width) == (SIZE, SIZE)
    return pictures.tensors[2]


def _unit(image_HW3: Tensor) -> Tensor:
    return image_HW3.permute(2, 0, 1).float() / 255


def test_samples_that_drew_nothing_are_passed_on_as_they_are(pictures: Ragged) -> None:
    plan = _plan(pictures)
    ops = torch.zeros(6, 1, dtype=torch.int32)
    extras = Extras(ops, torch.ones(6, 1), torch.arange(6))
    assert apply_extras(extras, pictures, plan) == (pictures, plan)
    ops[[1, 4]] = Extra.BLUR
    images, changed = apply_extras(extras, pictures, plan, "reference")
    for row in (0, 2, 3, 5):
        assert images.tensors[row] is pictures.tensors[row]
        assert torch.equal(changed.matrix_B33[row], plan.matrix_B33[row])
    for row in (1, 4):
        assert images.tensors[row].shape == (SIZE, SIZE, 3)
        assert torch.equal(changed.matrix_B33[row], torch.eye(3))


def test_an_extra_that_changes_nothing_changes_nothing_else(pictures: Ragged) -> None:
    """Sharpness 1 is the image itself: geometry, colours and borders must survive the detour, to 8-bit rounding."""
    section = {
        "crop": {"letterbox_p": 0.5},
        "affine": {"p": 1.0},
        "color": {"p": 1.0, "contrast": 0.0, "brightness": 0.1},
        "erase": {"p": 1.0},
    }
    plan = _policy(section).draw(KEYS[:6], pictures.sizes_B2, SIZE, SIZE, 0, 0)
    extras = Extras(torch.full((6, 1), Extra.SHARPNESS, dtype=torch.int32), torch.ones(6, 1), torch.arange(6))
    plain = execute("reference", pictures, plan)
    detour = execute("reference", *apply_extras(extras, pictures, plan, "reference"))
    assert ((plain - detour).abs() * 0.25 * 255).max() < 1.6


def test_a_sample_looks_the_same_in_any_batch(pictures: Ragged) -> None:
    extras = Extras(
        torch.tensor([[Extra.BLUR], [Extra.NOISE], [Extra.MOTION], [Extra.BLUR], [Extra.ELASTIC], [Extra.NOISE]]).int(),
        torch.tensor([[0.8], [0.05], [5.0], [2.0], [0.02], [0.02]]),
        torch.arange(6) * 12345,
    )
    plan = _plan(pictures)
    whole = execute("reference", *apply_extras(extras, pictures, plan, "reference"))
    for row in range(6):
        fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
        part = {name: value[row : row + 1] for name, value in fields.items() if isinstance(value, Tensor)}
        one = Extras(extras.op_BE[row : row + 1], extras.arg_BE[row : row + 1], extras.seed_B[row : row + 1])
        images, one_plan = apply_extras(
            one, Ragged([pictures.tensors[row]]), dataclasses.replace(plan, **part), "reference"
        )
        alone = execute("reference", images, one_plan)
        # Kornia may sum in another order for another batch size, which moves a value by one step of 8 bits.
        assert (alone[0] - whole[row]).abs().mean() < 2e-3


def test_noise_has_the_drawn_deviation_and_differs_by_seed() -> None:
    gray = torch.full((SIZE, SIZE, 3), 128, dtype=torch.uint8)
    one, other = (_changed(Extra.NOISE, 0.05, gray, seed) for seed in (1, 2))
    assert (one - 128 / 255).std().item() == pytest.approx(0.05, rel=0.05)
    assert one.mean().item() == pytest.approx(128 / 255, abs=0.002)
    correlation = stats.pearsonr(one.flatten().numpy(), other.flatten().numpy())[0]
    assert abs(correlation) < 0.04


def test_blur_spreads_a_point_by_its_sigma() -> None:
    point = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    point[30:35, 30:35] = 255
    profile = _changed(Extra.BLUR, 1.5, point)[0].sum(0)
    where = torch.arange(SIZE) - 32.0
    variance = (profile * where**2).sum() / profile.sum()
    assert variance.item() == pytest.approx(1.5**2 + 2, rel=0.05)  # five pixels alone have variance 2


def test_motion_blur_smears_along_one_direction_only() -> None:
    point = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
    point[31:34, 31:34] = 255
    smeared = _changed(Extra.MOTION, 9.0, point, seed=0)[0]  # seed 0: angle 0
    columns, rows = (smeared.sum(0) > 0.02).sum().item(), (smeared.sum(1) > 0.02).sum().item()
    assert (columns, rows) == (11, 3)


def test_jpeg_artefacts_grow_as_quality_falls(photo: Tensor) -> None:
    errors = [(_changed(Extra.JPEG, quality, photo) - _unit(photo)).abs().mean().item() for quality in (90, 50, 10)]
    assert errors == sorted(errors)
    assert 0.002 < errors[0] < errors[2] < 0.1


def test_equalize_and_clahe_flatten_the_histogram(photo: Tensor) -> None:
    dull = (photo // 4 + 90).contiguous()
    spread = _unit(dull).std().item()
    assert _changed(Extra.EQUALIZE, 0, dull).std().item() == pytest.approx(12**-0.5, rel=0.1)
    assert _changed(Extra.CLAHE, 4.0, dull).std().item() > 1.3 * spread


def test_auto_contrast_uses_the_whole_range_and_leaves_a_flat_channel(photo: Tensor) -> None:
    dull = (photo // 4 + 90).contiguous()
    dull[:, :, 1] = 100
    changed = _changed(Extra.AUTO_CONTRAST, 0, dull)
    assert (changed[0].min(), changed[0].max()) == (0, 1)
    assert torch.allclose(changed[1], torch.tensor(100 / 255))


def test_elastic_moves_pixels_by_the_typical_shift() -> None:
    """On a ramp of 3 levels a pixel, a change of value tells the shift along x."""
    ramp = (torch.arange(SIZE) * 3)[None, :, None].expand(SIZE, SIZE, 3).to(torch.uint8).contiguous()
    shifts = [(_changed(Extra.ELASTIC, 0.02, ramp, seed) - _unit(ramp))[0, 16:-16, 16:-16] for seed in range(30)]
    pixels = torch.stack(shifts) * 255 / 3
    assert pixels.square().mean().sqrt().item() == pytest.approx(0.02 * SIZE, rel=0.2)


def test_sharpness_sharpens_and_softens(photo: Tensor) -> None:
    def edges(image: Tensor) -> float:
        return image.diff(dim=2).abs().mean().item()

    soft, plain, sharp = (edges(_changed(Extra.SHARPNESS, factor, photo)) for factor in (0.1, 1.0, 1.9))
    assert soft < plain < sharp


def test_tiny_outputs_are_no_exception(pictures: Ragged) -> None:
    for op, arg in (
        (Extra.BLUR, 2.0),
        (Extra.MOTION, 11.0),
        (Extra.CLAHE, 2.0),
        (Extra.JPEG, 30.0),
        (Extra.ELASTIC, 0.02),
    ):
        plan = _policy({}).draw(KEYS[:6], pictures.sizes_B2, 8, 8, 0, 0)
        extras = Extras(torch.full((6, 1), op, dtype=torch.int32), torch.full((6, 1), arg), torch.arange(6))
        batch = execute("reference", *apply_extras(extras, pictures, plan, "reference"))
        assert batch.isfinite().all()
