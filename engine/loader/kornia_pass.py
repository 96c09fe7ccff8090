"""The plan run by Kornia's own functions, and Kornia's own chain for the same recipe: for comparison, not for speed.

`kornia_pass` answers "is the one pass right?": it takes the same numbers through an independent implementation.
`kornia_chain` answers "what would one run instead?": the stock modules with their own random draws.

Where the two differ by design: Kornia has no antialiased warp, so a shrinking source is first blurred as Kornia's
resize does it (Gaussian, sigma = (footprint - 1) / 2) where the pass widens its filter; its bicubic has a = -0.75
(the pass: -0.5); contrast's mean is over all output pixels (the pass: over 32 x 32 of them); posterize rounds down.
"""

from __future__ import annotations

import math

import kornia
import torch
from torch import Tensor, nn

from engine.kernels import Border, Color, Fill, Filter, Plan, Ragged
from engine.kernels.reference import PERMUTATIONS, noise
from engine.recipe.sections.augment import AugmentSection

_PADDING = {Border.CONSTANT: "fill", Border.EDGE: "border", Border.REFLECT: "reflection"}


def kornia_pass(images: Ragged, plan: Plan) -> Tensor:
    """Run `plan` on `images` with Kornia: (B, 3, height, width), float32, normalised, on the images' device."""
    plan = plan.to(images.device)
    pixels_BCHW = torch.cat([_warped(image, plan, b) for b, image in enumerate(images.tensors)])
    if plan.color_op_BK is not None and plan.color_arg_BK is not None:
        for op_B, arg_B in zip(plan.color_op_BK.unbind(1), plan.color_arg_BK.unbind(1), strict=True):
            for code in op_B.unique().tolist():
                chosen_B = op_B == code
                pixels_BCHW[chosen_B] = _colored(code, pixels_BCHW[chosen_B], arg_B[chosen_B]).clamp(0, 1)
    _fill_rectangles(pixels_BCHW, plan)
    pixels_BCHW = kornia.enhance.normalize(
        pixels_BCHW, pixels_BCHW.new_tensor(plan.mean), pixels_BCHW.new_tensor(plan.std)
    )
    return _mixed(pixels_BCHW, plan).contiguous(memory_format=torch.channels_last)


def kornia_chain(
    section: AugmentSection,
    height: int,
    width: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> nn.Sequential:
    """Kornia's modules for a recipe's crop, affine, flip, colour jitter, erasing and normalisation.

    Takes (B, 3, H, W) float images in [0, 1], all of one size. Raises ValueError for a crop that Kornia's
    RandomResizedCrop cannot express.
    """
    if section.crop.kind != "random_resized" or section.crop.letterbox_p or section.crop.half_p:
        raise ValueError("the Kornia chain crops by RandomResizedCrop only; set augment.crop.kind to random_resized")
    k = kornia.augmentation
    affine, color, erase = section.affine, section.color, section.erase
    modules: list[nn.Module] = [
        k.RandomResizedCrop((height, width), scale=section.crop.scale, ratio=section.crop.ratio),
        k.RandomAffine(
            degrees=affine.rotate,
            translate=(affine.shift, affine.shift),
            scale=(1 - affine.scale, 1 + affine.scale),
            shear=(-affine.shear, affine.shear, -affine.shear, affine.shear),
            p=affine.p,
        ),
        k.RandomHorizontalFlip(p=section.flip),
        k.RandomVerticalFlip(p=section.vertical_flip),
        k.ColorJitter(color.brightness, color.contrast, color.saturation, color.hue, p=color.p),
    ]
    # Kornia's erases one rectangle at a time: a module for each there may be, with the chance that keeps the mean.
    area, chance = (erase.size[0] ** 2, erase.size[1] ** 2), erase.p * sum(erase.count) / (2 * erase.count[1])
    modules += [k.RandomErasing(scale=area, ratio=(0.5, 2.0), p=chance) for _ in range(erase.count[1] if chance else 0)]
    modules.append(k.Normalize(torch.tensor(mean), torch.tensor(std)))
    return nn.Sequential(*modules)


def _warped(image_HW3: Tensor, plan: Plan, b: int) -> Tensor:
    """(1, 3, height, width) in [0, 1]."""
    source_1CHW = image_HW3.permute(2, 0, 1)[None].float() / 255
    matrix_33 = plan.matrix_B33[b].double()
    fx, fy = _footprint(matrix_33, plan)
    if max(fx, fy) > 1:
        sigmas = (max((fy - 1) / 2, 1e-3), max((fx - 1) / 2, 1e-3))
        # Kornia's resize cuts at two sigma; three cost little and leave no ringing. Its padding must be below the size.
        sides = tuple(
            2 * min(math.ceil(3 * sigma), size - 1) + 1
            for sigma, size in zip(sigmas, source_1CHW.shape[2:], strict=True)
        )
        source_1CHW = kornia.filters.gaussian_blur2d(source_1CHW, sides, sigmas)
    # Kornia's pixel centres lie at whole numbers, the plan's at + 0.5; Kornia wants source to destination.
    half_33 = torch.eye(3, dtype=torch.float64, device=matrix_33.device)
    half_33[:2, 2] = 0.5
    forward_33 = torch.linalg.inv(torch.linalg.inv(half_33) @ matrix_33 @ half_33)
    border = Border.CONSTANT if plan.border_B is None else Border(int(plan.border_B[b]))
    color_3 = source_1CHW.new_zeros(3) if plan.border_color_B3 is None else plan.border_color_B3[b]
    return kornia.geometry.warp_perspective(
        source_1CHW,
        forward_33.float()[None],
        (plan.height, plan.width),
        mode={Filter.NEAREST: "nearest", Filter.BILINEAR: "bilinear", Filter.BICUBIC: "bicubic"}[plan.filter],
        padding_mode=_PADDING[border],
        align_corners=False,
        fill_value=color_3,
    ).clamp(0, 1)


def _footprint(matrix_33: Tensor, plan: Plan) -> tuple[float, float]:
    """How many source pixels an output pixel spans along x and y at the output's centre, at least 1."""
    if not plan.antialias or plan.filter == Filter.NEAREST:
        return 1.0, 1.0
    u, v, w = (matrix_33 @ matrix_33.new_tensor([plan.width / 2, plan.height / 2, 1])).tolist()
    rows = matrix_33.tolist()
    du = [(rows[0][i] - u / w * rows[2][i]) / w for i in (0, 1)]
    dv = [(rows[1][i] - v / w * rows[2][i]) / w for i in (0, 1)]
    return max(math.hypot(*du), 1.0), max(math.hypot(*dv), 1.0)


def _colored(code: int, images_NCHW: Tensor, arg_N: Tensor) -> Tensor:
    enhance = kornia.enhance
    match code:
        case Color.BRIGHTNESS:
            return enhance.adjust_brightness_accumulative(images_NCHW, arg_N)
        case Color.CONTRAST:
            return enhance.adjust_contrast_with_mean_subtraction(images_NCHW, arg_N)
        case Color.SATURATION:
            return enhance.adjust_saturation_with_gray_subtraction(images_NCHW, arg_N)
        case Color.HUE:
            return enhance.adjust_hue(images_NCHW, arg_N * (2 * math.pi))
        case Color.GRAY:
            gray_NCHW = kornia.color.rgb_to_grayscale(images_NCHW).expand_as(images_NCHW)
            return torch.where((arg_N > 0)[:, None, None, None], gray_NCHW, images_NCHW)
        case Color.SHUFFLE:
            order_N3 = torch.tensor(PERMUTATIONS, device=images_NCHW.device)[arg_N.round().long()]
            return images_NCHW.gather(1, order_N3[:, :, None, None].expand_as(images_NCHW))
        case Color.INVERT:
            return enhance.invert(images_NCHW)
        case Color.SOLARIZE:
            return enhance.solarize(images_NCHW, arg_N)
        case Color.POSTERIZE:
            return enhance.posterize(images_NCHW, arg_N.round().int())
        case Color.GAMMA:
            return enhance.adjust_gamma(images_NCHW, arg_N)
    return images_NCHW


def _fill_rectangles(images_BCHW: Tensor, plan: Plan) -> None:
    if plan.rect_BR4 is None or plan.rect_fill_BR is None:
        return
    width = plan.width
    for b, (rects_R4, fills_R) in enumerate(zip(plan.rect_BR4.tolist(), plan.rect_fill_BR.tolist(), strict=True)):
        for r, ((x0, y0, x1, y1), fill) in enumerate(zip(rects_R4, fills_R, strict=True)):
            part_3hw = images_BCHW[b, :, y0:y1, x0:x1]
            if fill == Fill.CONSTANT:
                color_3 = part_3hw.new_zeros(3) if plan.rect_color_BR3 is None else plan.rect_color_BR3[b, r]
                part_3hw[:] = color_3[:, None, None]
            elif fill == Fill.MEAN:
                part_3hw[:] = part_3hw.new_tensor(plan.mean)[:, None, None]
            elif fill == Fill.NOISE:
                y, x = (torch.arange(a, z, device=part_3hw.device) for a, z in ((y0, y1), (x0, x1)))
                channel = torch.arange(3, device=part_3hw.device)[:, None, None]
                seed = 0 if plan.noise_seed_B is None else int(plan.noise_seed_B[b])
                part_3hw[:] = noise(seed, y[:, None] * width + x, channel)


def _mixed(images_BCHW: Tensor, plan: Plan) -> Tensor:
    if plan.partner_B is None:
        return images_BCHW
    partners_BCHW = images_BCHW[plan.partner_B]
    if plan.weight_B is not None:
        images_BCHW = torch.lerp(partners_BCHW, images_BCHW, plan.weight_B[:, None, None, None])
    if plan.box_B4 is not None:
        x0, y0, x1, y1 = plan.box_B4[:, :, None, None].unbind(1)
        y = torch.arange(plan.height, device=plan.device)[None, :, None]
        x = torch.arange(plan.width, device=plan.device)[None, None, :]
        inside_BHW = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        images_BCHW = torch.where(inside_BHW[:, None], partners_BCHW, images_BCHW)
    return images_BCHW
