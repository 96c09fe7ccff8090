"""Kornia's own functions, given the same plan, give the same pictures as the reference."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from engine.augment.policy import Policy
from engine.kernels import Color, Fill, Filter, Plan, Ragged
from engine.loader.kornia_pass import kornia_chain
from engine.loader.passes import execute
from engine.recipe.sections.augment import AugmentSection, MixSection

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
KEYS = torch.arange(6) * 7919


def _plan(images: Ragged, section: AugmentSection, mix: MixSection | None = None) -> Plan:
    return Policy(section, MEAN, STD).draw(KEYS[: len(images)], images.sizes_B2, 40, 56, 3, 1, mix)


def _difference(images: Ragged, plan: Plan) -> Tensor:
    """Mean absolute difference of each image, of values 0 to 255, three pixels from the output's edges."""
    reference, other = execute("reference", images, plan), execute("kornia", images, plan)
    assert other.shape == reference.shape
    std = torch.tensor(STD)[:, None, None]
    return ((reference - other) * std * 255)[..., 3:-3, 3:-3].abs().mean((1, 2, 3))


def _identity(images: Ragged, **fields: object) -> Plan:
    """No geometry at all: output pixels are source pixels."""
    height, width = images.tensors[0].shape[:2]
    eye = torch.eye(3).repeat(len(images), 1, 1)
    return dataclasses.replace(Plan(height, width, eye, MEAN, STD), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("border", ["constant", "edge", "reflect"])
@pytest.mark.parametrize("filter", ["nearest", "bilinear"])
def test_geometry_agrees(pictures: Ragged, border: str, filter: str) -> None:
    section = AugmentSection.model_validate(
        {
            "border": border,
            "filter": filter,
            "quarter_turn": 0.5,
            "crop": {"scale": (0.2, 0.6), "letterbox_p": 0.2, "half_p": 0.3},
            "affine": {"p": 1.0, "shear": 10},
            "perspective": {"p": 0.5},
        }
    )
    plan = dataclasses.replace(_plan(pictures, section), antialias=False)
    # Nearest neighbours flip where a point lies on the line between two pixels, and only there.
    assert _difference(pictures, plan).max() < (2.0 if filter == "nearest" else 0.05)


def test_antialiased_shrinking_agrees(pictures: Ragged) -> None:
    section = AugmentSection.model_validate({"crop": {"letterbox_p": 0.3}, "affine": {"p": 0.5}})
    assert _difference(pictures, _plan(pictures, section)).mean() < 2


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (Color.BRIGHTNESS, (0.6, 1.4)),
        (Color.SATURATION, (0.5, 1.5)),
        (Color.HUE, (-0.3, 0.1)),
        (Color.GRAY, (0.0, 1.0)),
        (Color.SHUFFLE, (3.0, 4.0)),
        (Color.INVERT, (0.0, 0.0)),
        (Color.SOLARIZE, (0.3, 0.7)),
        (Color.POSTERIZE, (3.0, 5.0)),
        (Color.GAMMA, (0.5, 2.0)),
    ],
)
def test_each_color_step_agrees(pictures: Ragged, op: Color, args: tuple[float, float]) -> None:
    images = Ragged([pictures.tensors[0], pictures.tensors[0].flip(1).contiguous()])
    plan = _identity(
        images,
        color_op_BK=torch.full((2, 1), op, dtype=torch.int32),
        color_arg_BK=torch.tensor(args)[:, None],
    )
    assert _difference(images, plan).max() < 0.5


def test_contrast_agrees_up_to_where_its_mean_is_taken(pictures: Ragged) -> None:
    images = Ragged(list(pictures.tensors[:1]) * 2)
    ops = torch.full((2, 1), Color.CONTRAST, dtype=torch.int32)
    plan = _identity(images, color_op_BK=ops, color_arg_BK=torch.tensor([[0.6], [1.4]]))
    assert _difference(images, plan).max() < 1


def test_rectangles_agree_exactly(pictures: Ragged) -> None:
    images = Ragged(list(pictures.tensors[:1]) * 2)
    rects = torch.tensor([[0, 0, 9, 5], [4, 3, 30, 20], [10, 10, 50, 60], [0, 0, 60, 80]], dtype=torch.int32)
    fills = torch.tensor([Fill.CONSTANT, Fill.NOISE, Fill.MEAN, Fill.NONE], dtype=torch.int32)
    plan = _identity(
        images,
        rect_BR4=rects.repeat(2, 1, 1),
        rect_fill_BR=fills.repeat(2, 1),
        rect_color_BR3=torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)),
        noise_seed_B=torch.tensor([5, 2**40 + 3]),
    )
    assert _difference(images, plan).max() < 1e-3


def test_a_whole_recipe_agrees(pictures: Ragged) -> None:
    section = AugmentSection.model_validate(
        {
            "crop": {"letterbox_p": 0.3},
            "affine": {"p": 0.5},
            "color": {"p": 1.0},
            "erase": {"p": 0.5},
            "corner": {"p": 0.5, "fill": "noise"},
        }
    )
    plan = _plan(pictures, section, MixSection(mixup=1.0, cutmix=1.0))
    assert _difference(pictures, plan).mean() < 2


@pytest.mark.parametrize("name", ["reference", "kornia"])
def test_every_executor_fills_the_given_buffer(pictures: Ragged, name: str) -> None:
    plan = _plan(pictures, AugmentSection())
    out = torch.empty(6, 3, 40, 56, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    assert execute(name, pictures, plan, out) is out  # type: ignore[arg-type]
    assert torch.allclose(out.float(), execute(name, pictures, plan), atol=0.03)  # type: ignore[arg-type]


def test_an_unknown_executor_is_refused_by_name(pictures: Ragged) -> None:
    with pytest.raises(ValueError, match="'opencv'"):
        execute("opencv", pictures, _plan(pictures, AugmentSection()))  # type: ignore[arg-type]


def test_bicubic_agrees_up_to_kornias_sharper_kernel(pictures: Ragged) -> None:
    section = AugmentSection.model_validate({"filter": "bicubic", "crop": {"scale": (0.1, 0.2)}})
    plan = _plan(pictures, section)
    assert plan.filter == Filter.BICUBIC
    assert _difference(pictures, plan).mean() < 2


def test_kornias_own_chain_gives_a_normalised_batch() -> None:
    section = AugmentSection.model_validate({"affine": {"p": 1.0}, "color": {"p": 1.0}, "erase": {"p": 1.0}})
    images = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    batch = kornia_chain(section, 24, 32, MEAN, STD)(images)
    assert batch.shape == (2, 3, 24, 32)
    low, high = (torch.tensor([x - m for m in MEAN]) / torch.tensor(STD) for x in (0, 1))
    assert (batch >= low[:, None, None] - 1e-4).all() and (batch <= high[:, None, None] + 1e-4).all()
    assert batch.std() > 0.3


def test_kornias_chain_refuses_a_crop_it_does_not_have() -> None:
    with pytest.raises(ValueError, match=r"augment\.crop\.kind"):
        kornia_chain(AugmentSection.model_validate({"crop": {"kind": "letterbox"}}), 24, 32, MEAN, STD)
