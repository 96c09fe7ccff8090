"""A policy draws plans: from a recipe's section and an address (seed, epoch, sample keys) to numbers, never to pixels.

Nothing here reads an image, so drawing costs the same for any resolution, and the executor that runs the plan can be
swapped without changing what is drawn. Each operation draws from streams of its own name; an operation whose chance is
0 takes no part at all, and its colour steps and rectangles do not lengthen the plan.

Drawn by C++ on the host, where it is built (`engine.kernels.draws`): the plain torch here is what it is held to, number
by number, and what draws on a GPU.

In order: quarter turn, half, crop or letterbox, flips, affine, perspective, policy -> one matrix; policy, colour
jitter, tone -> the colour program; coarse dropout, random erasing, cutout, corner -> rectangles; then the mix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.augment import geometry
from engine.augment.auto import choose, policy_streams
from engine.augment.color import Steps, color_steps, color_streams
from engine.augment.contract import chosen_filter
from engine.augment.drawn import Asked, Look, draw_extras, draw_plan
from engine.augment.extras import Extras, extra_steps, extra_streams
from engine.augment.mix import with_mix
from engine.augment.program import Program
from engine.augment.rects import rect_streams, with_rects
from engine.augment.rng import hashes, uniforms
from engine.kernels import Border, Filter, Plan, draws
from engine.recipe.sections.augment import AugmentSection, MixSection

Draws = dict[str, Tensor]


class Policy:
    """What a recipe's `augment` section says, ready to draw plans. `mean`, `std` and `interpolation` (timm's word; for
    `filter = "auto"`) are the backbone's."""

    def __init__(
        self,
        section: AugmentSection,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        interpolation: str = "bilinear",
    ) -> None:
        self.section = section
        self.mean = mean
        self.std = std
        self.filter = Filter[chosen_filter(section, interpolation).upper()]
        self._streams = _streams(section)
        self._extra_streams = policy_streams(section.policy) | extra_streams(section.extras)
        self._program = Program(section, mean, self._streams)

    def draw(
        self,
        keys_B: Tensor,
        sizes_B2: Tensor,
        height: int,
        width: int,
        seed: int,
        epoch: int,
        mix: MixSection | None = None,
    ) -> Plan:
        """The plan of one batch, on the device of `keys_B` (int64); `sizes_B2` are the sources' (height, width).

        All of a sample's numbers depend on (seed, epoch, its key), its source's size and the output's; its partner also
        on the other keys of the batch.
        """
        if keys_B.device.type != "cpu" or not draws.available():
            return self.reference_draw(keys_B, sizes_B2, height, width, seed, epoch, mix)
        if len(sizes_B2) != len(keys_B):
            raise ValueError(f"{len(sizes_B2)} sizes for a batch of {len(keys_B)}")
        asked = Asked(keys_B.numpy(), seed, epoch, height, width, sizes_B2.numpy(), mix)
        return draw_plan(self._program, Look(height, width, self.mean, self.std, self.filter), asked)

    def extras(self, keys_B: Tensor, seed: int, epoch: int) -> Extras | None:
        """What `apply_extras` does to the batch between geometry and colours; None when the recipe asks for nothing."""
        if keys_B.device.type != "cpu" or not draws.available():
            return self.reference_extras(keys_B, seed, epoch)
        if not self._program.extras:
            return None
        return draw_extras(self._program, Asked(keys_B.numpy(), seed, epoch))

    def reference_draw(
        self,
        keys_B: Tensor,
        sizes_B2: Tensor,
        height: int,
        width: int,
        seed: int,
        epoch: int,
        mix: MixSection | None = None,
    ) -> Plan:
        """What `draw` draws, defined in torch."""
        sizes_B2 = sizes_B2.to(keys_B.device)
        draws = uniforms(seed, epoch, keys_B, self._streams)
        chosen = choose(self.section.policy, draws)
        matrix_B33, padded_B = self._geometry(draws, sizes_B2, height, width)
        steps: Steps = []
        if chosen is not None:
            matrix_B33 = matrix_B33 @ chosen.matrix(height, width)
            steps += zip(chosen.color_BS.unbind(1), chosen.arg_BS.unbind(1), strict=True)
        steps += color_steps(self.section, draws)
        plan = Plan(
            height=height,
            width=width,
            matrix_B33=matrix_B33.float(),
            mean=self.mean,
            std=self.std,
            filter=self.filter,
            border_B=torch.where(padded_B, int(Border.CONSTANT), int(Border[self.section.border.upper()])).int(),
            border_color_B3=matrix_B33.new_tensor(self.mean, dtype=torch.float32).repeat(len(keys_B), 1),
            color_op_BK=torch.stack([op for op, _ in steps], dim=1) if steps else None,
            color_arg_BK=torch.stack([arg for _, arg in steps], dim=1) if steps else None,
        )
        plan = with_rects(plan, self.section, draws, hashes(seed, epoch, keys_B, "rects/noise"))
        return plan if mix is None else with_mix(plan, mix, keys_B, seed, epoch)

    def reference_extras(self, keys_B: Tensor, seed: int, epoch: int) -> Extras | None:
        """What `extras` draws, defined in torch."""
        if not self._extra_streams:
            return None
        draws = uniforms(seed, epoch, keys_B, self._extra_streams)
        chosen = choose(self.section.policy, draws)
        steps = extra_steps(self.section.extras, draws)
        if chosen is not None:
            steps = [*zip(chosen.extra_BS.unbind(1), chosen.arg_BS.unbind(1), strict=True), *steps]
        if not steps:
            return None
        ops_BE, args_BE = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
        return Extras(ops_BE, args_BE, hashes(seed, epoch, keys_B, "extras/noise"))

    def _geometry(self, draws: Draws, sizes_B2: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The composed matrices, float64, and who is letterboxed."""
        section = self.section
        turn_B33: Tensor | None = None
        if section.quarter_turn:
            chance_B, which_B = draws["quarter_turn"].unbind(1)
            turns_B = torch.where(chance_B < section.quarter_turn, 1 + (which_B * 3).long(), 0)
            turn_B33, sizes_B2 = geometry.quarter_turns(turns_B, sizes_B2)
        box_B4, letterboxed_B = self._crop(draws, sizes_B2, height, width)
        matrix_B33 = geometry.box_matrix(box_B4, height, width)
        if turn_B33 is not None:
            matrix_B33 = turn_B33 @ matrix_B33
        if section.flip or section.vertical_flip:
            horizontal_B = draws["flip"][:, 0] < section.flip
            vertical_B = draws["vertical_flip"][:, 0] < section.vertical_flip
            matrix_B33 = matrix_B33 @ geometry.flips(horizontal_B, vertical_B, height, width)
        if section.affine.p:
            matrix_B33 = matrix_B33 @ _affine(section, draws["affine"], height, width)
        if section.perspective.p:
            matrix_B33 = matrix_B33 @ _perspective(section, draws["perspective"], height, width)
        return matrix_B33, letterboxed_B

    def _crop(self, draws: Draws, sizes_B2: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The part of each (turned) source that is shown, x, y, width, height; and who is letterboxed."""
        crop = self.section.crop
        whole_B4 = geometry.fit_box("letterbox", 1.0, sizes_B2, height, width)
        letterboxed_B = draws["letterbox"][:, 0] < (1.0 if crop.kind == "letterbox" else crop.letterbox_p)
        if crop.kind == "letterbox":
            return whole_B4, letterboxed_B
        left_B = torch.zeros(len(sizes_B2), dtype=torch.float64, device=sizes_B2.device)
        sizes_B2 = sizes_B2.double()
        if crop.half_p:
            half_B = draws["half"][:, 0] < crop.half_p
            halved_B2 = sizes_B2 * sizes_B2.new_tensor([1.0, 0.5])
            left_B = torch.where(half_B & (draws["half"][:, 1] < 0.5), halved_B2[:, 1], left_B)
            sizes_B2 = torch.where(half_B[:, None], halved_B2, sizes_B2)
        if crop.kind == "random_resized":
            box_B4 = geometry.random_box(draws["crop"], sizes_B2, crop.scale, crop.ratio)
        else:
            box_B4 = geometry.fit_box(crop.kind, 1.0, sizes_B2, height, width)
        box_B4[:, 0] += left_B
        return torch.where(letterboxed_B[:, None], whole_B4, box_B4), letterboxed_B


def _streams(section: AugmentSection) -> dict[str, int]:
    """How many uniform numbers each operation in use draws for a sample."""
    wanted = {
        "letterbox": (1, True),
        "crop": (geometry.CROP_DRAWS, section.crop.kind == "random_resized"),
        "half": (2, section.crop.half_p),
        "flip": (1, True),
        "vertical_flip": (1, True),
        "quarter_turn": (2, section.quarter_turn),
        "affine": (7, section.affine.p),
        "perspective": (9, section.perspective.p),
    }
    streams = {name: count for name, (count, used) in wanted.items() if used}
    streams |= color_streams(section) | rect_streams(section)
    return streams | policy_streams(section.policy) | extra_streams(section.extras)


def _affine(section: AugmentSection, draws_B7: Tensor, height: int, width: int) -> Tensor:
    affine = section.affine
    applied_B1 = (draws_B7[:, :1] < affine.p).double()
    signed_B6 = (2 * draws_B7[:, 1:].double() - 1) * applied_B1
    scale_B = 1 + affine.scale * signed_B6[:, 0]
    angle_B = torch.deg2rad(affine.rotate * signed_B6[:, 1])
    shear_B2 = torch.tan(torch.deg2rad(affine.shear * signed_B6[:, 2:4]))
    shift_B2 = affine.shift * signed_B6[:, 4:] * signed_B6.new_tensor([width, height])
    return geometry.affine(geometry.linear(scale_B, angle_B, shear_B2), shift_B2, height, width)


def _perspective(section: AugmentSection, draws_B9: Tensor, height: int, width: int) -> Tensor:
    applied_B11 = (draws_B9[:, :1] < section.perspective.p).double()[:, None]
    moves_B42 = (draws_B9[:, 1:].double().view(-1, 4, 2) - 0.5) * section.perspective.distortion * applied_B11
    corners_42 = moves_B42.new_tensor([[0, 0], [1, 0], [1, 1], [0, 1]])
    size_2 = moves_B42.new_tensor([width, height])
    return geometry.perspective((corners_42 + moves_B42) * size_2, height, width)
