"""The reference against the libraries whose definitions it takes: Kornia, torchvision and PIL, with the same numbers.

Only the reference: the executors answer to it (`test_executors.py`). Kornia maps pixel centres at integers, so its
matrices are moved by half a pixel before and after. Its ColorJitter blends with gray as here; its ColorJiggle scales
HSV saturation and shifts brightness, and is another thing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import kornia.augmentation
import kornia.enhance as enhance
import kornia.geometry as geometry
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as torchvision
from PIL import Image
from torch import Tensor

from engine.kernels import Border, Color, Fill, Filter, Plan, Ragged, one_pass

SIZE = (150, 190)
PICTURES = pytest.mark.parametrize("picture", ["photo", "smooth", "detailed"])


def draw(picture: str, make_photo: Callable[..., Tensor], height: int = SIZE[0], width: int = SIZE[1]) -> Tensor:
    """uint8 (height, width, 3)."""
    if picture == "photo":
        return make_photo(height, width)
    y, x = np.mgrid[0:height, 0:width]
    waves = {"smooth": (0.05, 0.08, 0.11), "detailed": (0.5, 0.9, 1.4)}[picture]
    image = np.stack([0.5 + 0.5 * np.sin(f * x + 0.6 * f * y) * np.cos(0.4 * f * x - f * y) for f in waves], axis=2)
    return torch.from_numpy((image * 255 + 0.5).astype(np.uint8))


def ours(image_HW3: Tensor, size: tuple[int, int], matrix_33: Tensor, **more: Any) -> Tensor:
    """(1, 3, *size) in [0, 1] from the reference."""
    plan = Plan(*size, matrix_33[None].float(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return one_pass(Ragged([image_HW3]), dataclasses.replace(plan, **more), executor="reference")


def floats(image_HW3: Tensor) -> Tensor:
    return image_HW3.permute(2, 0, 1)[None] / 255


def mean_difference(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    difference = (a - b).abs()
    return float((difference if where is None else difference[..., where]).mean())


# --- geometry ---------------------------------------------------------------------------------------------------------


def output_to_source(kornia_33: Tensor) -> Tensor:
    """Our matrix for Kornia's source-to-output matrix between pixel centres at integers."""
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=torch.float64)
    return half @ torch.linalg.inv(kornia_33.double()) @ torch.linalg.inv(half)


def away_from_borders(matrix_33: Tensor, size: tuple[int, int], margin: float = 2) -> Tensor:
    """Which output pixels read at least `margin` pixels inside the source: (height, width) bool."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    u, v, w = torch.einsum("ij,jhw->ihw", matrix_33.double(), torch.stack([x, y, torch.ones_like(x)]).double())
    inside_x = (u / w > margin) & (u / w < SIZE[1] - margin)
    return inside_x & (v / w > margin) & (v / w < SIZE[0] - margin) & (w > 0)


@PICTURES
@pytest.mark.parametrize("name", ["bilinear", "nearest"])
def test_affine_maps_are_kornias(picture: str, name: str, make_photo: Callable[..., Tensor]) -> None:
    image_HW3, size = draw(picture, make_photo), (120, 140)
    for angle, scale, shift in [(0.0, 1.0, (3.0, -7.0)), (0.4, 1.3, (-30.0, 11.0)), (2.0, 0.9, (170.0, 5.0))]:
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        matrix_23 = torch.tensor([[cos, -sin + 0.1, shift[0]], [sin, cos, shift[1]]])
        theirs = geometry.warp_affine(floats(image_HW3), matrix_23[None], size, mode=name)
        matrix_33 = output_to_source(torch.cat([matrix_23, torch.tensor([[0.0, 0, 1]])]))
        mine = ours(image_HW3, size, matrix_33, filter=Filter[name.upper()], antialias=False)
        inside = away_from_borders(matrix_33, size)
        assert inside.float().mean() > 0.3
        assert mean_difference(mine, theirs, inside) < 2 / 255
        assert mean_difference(mine, theirs) < 2 / 255  # a constant border is theirs too


@PICTURES
def test_perspective_maps_are_kornias(picture: str, make_photo: Callable[..., Tensor]) -> None:
    image_HW3, size = draw(picture, make_photo), (130, 160)
    h, w = SIZE
    start = torch.tensor([[[0.0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]]])
    end = torch.tensor([[[9.0, 20], [150, 2], [139, 128], [-8, 110]]])
    kornia_133 = geometry.get_perspective_transform(start, end)
    theirs = geometry.warp_perspective(floats(image_HW3), kornia_133, size)
    matrix_33 = output_to_source(kornia_133[0])
    mine = ours(image_HW3, size, matrix_33, antialias=False)
    assert mean_difference(mine, theirs, away_from_borders(matrix_33, size)) < 2 / 255


@PICTURES
def test_crop_and_resize_is_kornias(picture: str, make_photo: Callable[..., Tensor]) -> None:
    """Kornia's crop maps the centres of the box's corner pixels to those of the output."""
    image_HW3, size = draw(picture, make_photo), (96, 80)
    x0, y0, x1, y1 = 21.0, 14.0, 160.0, 133.0
    box_142 = torch.tensor([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]])
    theirs = geometry.crop_and_resize(floats(image_HW3), box_142, size)
    sx, sy = (x1 - x0) / (size[1] - 1), (y1 - y0) / (size[0] - 1)
    matrix_33 = torch.tensor([[sx, 0, x0 + 0.5 - sx / 2], [0, sy, y0 + 0.5 - sy / 2], [0, 0, 1]])
    assert mean_difference(ours(image_HW3, size, matrix_33, antialias=False), theirs) < 2 / 255


@PICTURES
@pytest.mark.parametrize("filter", [Filter.BILINEAR, Filter.BICUBIC], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [1 / 8, 1 / 3, 0.7, 1.0, 1.6, 4.0])
def test_resizing_is_pils_and_torchvisions(
    picture: str, filter: Filter, scale: float, make_photo: Callable[..., Tensor]
) -> None:
    height, width = (240, 320) if scale < 1 else (60, 80)
    image_HW3 = draw(picture, make_photo, height, width)
    size = (round(height * scale), round(width * scale * 0.9))  # not the same in both axes
    matrix_33 = torch.diag(torch.tensor([width / size[1], height / size[0], 1]))
    edge_1 = torch.tensor([Border.EDGE], dtype=torch.int32)
    mine = ours(image_HW3, size, matrix_33, filter=filter, border_B=edge_1)
    pil = Image.fromarray(image_HW3.numpy()).resize(size[::-1], getattr(Image.Resampling, filter.name))
    mode = getattr(torchvision.InterpolationMode, filter.name)
    tv = torchvision.resize(floats(image_HW3), list(size), interpolation=mode, antialias=True).clamp(0, 1)
    assert mean_difference(mine, floats(torch.from_numpy(np.array(pil)))) < 2 / 255
    assert mean_difference(mine, tv) < 2 / 255


@pytest.mark.parametrize("scale", [0.3, 2.7])
def test_bicubic_has_the_kernel_that_pil_shrinks_and_enlarges_with(scale: float) -> None:
    """a = -0.5, with which most backbones' weights were made. Kornia has -0.75, as torch where it does not widen."""
    image_HW3 = torch.zeros(60, 80, 3, dtype=torch.uint8)
    image_HW3[:, 40:] = 200  # one edge: how far it rings is the kernel's
    size = (round(60 * scale), round(80 * scale))
    matrix_33 = torch.diag(torch.tensor([80 / size[1], 60 / size[0], 1]))
    edge_1 = torch.tensor([Border.EDGE], dtype=torch.int32)
    mine = ours(image_HW3, size, matrix_33, filter=Filter.BICUBIC, border_B=edge_1)
    pil = Image.fromarray(image_HW3.numpy()).resize(size[::-1], Image.Resampling.BICUBIC)
    assert (mine - floats(torch.from_numpy(np.array(pil)))).abs().max() <= 1 / 255
    sharper = torch.nn.functional.interpolate(floats(image_HW3), size, mode="bicubic").clamp(0, 1)
    assert scale < 1 or (mine - sharper).abs().max() > 4 / 255


# --- colours ----------------------------------------------------------------------------------------------------------

COLORS: list[tuple[Color, float, Callable[[Tensor, float], Tensor]]] = [
    (Color.BRIGHTNESS, 0.6, enhance.adjust_brightness_accumulative),
    (Color.BRIGHTNESS, 1.4, torchvision.adjust_brightness),
    (Color.CONTRAST, 0.5, enhance.adjust_contrast_with_mean_subtraction),
    (Color.CONTRAST, 1.5, enhance.adjust_contrast_with_mean_subtraction),
    (Color.CONTRAST, 1.5, torchvision.adjust_contrast),
    (Color.SATURATION, 0.4, enhance.adjust_saturation_with_gray_subtraction),
    (Color.SATURATION, 1.8, enhance.adjust_saturation_with_gray_subtraction),
    (Color.SATURATION, 1.8, torchvision.adjust_saturation),
    (Color.HUE, 0.13, lambda x, turns: enhance.adjust_hue(x, 2 * math.pi * turns)),
    (Color.HUE, -0.4, lambda x, turns: enhance.adjust_hue(x, 2 * math.pi * turns)),
    (Color.HUE, -0.4, torchvision.adjust_hue),
    (Color.GRAY, 1.0, lambda x, _: torchvision.rgb_to_grayscale(x, 3)),
    (Color.INVERT, 0.0, lambda x, _: enhance.invert(x)),
    (Color.SOLARIZE, 0.6, enhance.solarize),
    (Color.POSTERIZE, 3.0, lambda x, bits: enhance.posterize(x, int(bits))),
    (Color.POSTERIZE, 5.0, lambda x, bits: torchvision.posterize((x * 255).round().to(torch.uint8), int(bits)) / 255),
    (Color.GAMMA, 0.7, enhance.adjust_gamma),
    (Color.GAMMA, 1.8, torchvision.adjust_gamma),
]


@PICTURES
@pytest.mark.parametrize(("op", "arg", "theirs"), COLORS)
def test_each_color_step_is_theirs(
    picture: str, op: Color, arg: float, theirs: Callable[[Tensor, float], Tensor], make_photo: Callable[..., Tensor]
) -> None:
    image_HW3 = draw(picture, make_photo)
    op_11, arg_11 = torch.tensor([[op]], dtype=torch.int32), torch.tensor([[arg]])
    mine = ours(image_HW3, SIZE, torch.eye(3), color_op_BK=op_11, color_arg_BK=arg_11)
    assert mean_difference(mine, theirs(floats(image_HW3), arg)) < 1 / 255


def test_erasing_is_kornias(make_photo: Callable[..., Tensor]) -> None:
    image_HW3 = make_photo(*SIZE)
    erase = kornia.augmentation.RandomErasing(p=1.0, value=0.25, scale=(0.1, 0.3))
    theirs = erase(floats(image_HW3))
    drawn = {key: int(value[0]) for key, value in erase._params.items() if key in ("xs", "ys", "widths", "heights")}
    x0, y0 = drawn["xs"], drawn["ys"]
    mine = ours(
        image_HW3,
        SIZE,
        torch.eye(3),
        rect_BR4=torch.tensor([[[x0, y0, x0 + drawn["widths"], y0 + drawn["heights"]]]], dtype=torch.int32),
        rect_fill_BR=torch.tensor([[Fill.CONSTANT]], dtype=torch.int32),
        rect_color_BR3=torch.full((1, 1, 3), 0.25),
    )
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
