"""What no rule for a single pixel can express: blur, noise, JPEG artefacts, CLAHE, equalise, elastic, sharpness.

Drawn here, as numbers with an address like all others; `engine.loader.neighbourhood` does it to pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from engine.kernels.extras import Extra as Extra
from engine.recipe.sections.augment import ExtrasSection


@dataclasses.dataclass(frozen=True)
class Extras:
    """Up to E operations for each sample, in the order of application. On any device; `apply_extras` reads them on the
    host, so they are best drawn there."""

    op_BE: Tensor  # int32 of Extra
    arg_BE: Tensor  # float32
    seed_B: Tensor  # int64, for noise, elastic shifts and the direction of motion

    def to(self, device: torch.device | str) -> Extras:
        return Extras(self.op_BE.to(device), self.arg_BE.to(device), self.seed_B.to(device))


def extra_streams(section: ExtrasSection) -> dict[str, int]:
    """How many uniform numbers each operation in use draws for a sample: whether, when, how strongly."""
    return {f"extras/{name}": 3 for _, name, _ in in_use(section)}


def extra_steps(section: ExtrasSection, draws: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Codes and arguments, (B,) each, of at most `section.most` operations; those not drawn are NONE."""
    used = in_use(section)
    if not used:
        return []
    draws_BN3 = torch.stack([draws[f"extras/{name}"] for _, name, _ in used], dim=1)
    codes_N = torch.tensor([op for op, _, _ in used], dtype=torch.int32, device=draws_BN3.device)
    chances_N = draws_BN3.new_tensor([getattr(section, name) for _, name, _ in used])
    low_N, high_N = draws_BN3.new_tensor([limits for _, _, limits in used]).unbind(1)
    drawn_BN = draws_BN3[..., 0] < chances_N
    order_BN = torch.where(drawn_BN, draws_BN3[..., 1], 2.0).argsort(dim=1)[:, : section.most]
    ops_BN = torch.where(drawn_BN, codes_N, int(Extra.NONE)).gather(1, order_BN)
    args_BN = (low_N + (high_N - low_N) * draws_BN3[..., 2]).gather(1, order_BN)
    return list(zip(ops_BN.unbind(1), args_BN.unbind(1), strict=True))


def in_use(section: ExtrasSection) -> list[tuple[Extra, str, tuple[float, float]]]:
    """Code, name and range of the argument of each operation that has a chance."""
    every = [
        (Extra.BLUR, "blur", section.blur_sigma),
        (Extra.MOTION, "motion", section.motion_length),
        (Extra.NOISE, "noise", section.noise_std),
        (Extra.JPEG, "jpeg", section.jpeg_quality),
        (Extra.CLAHE, "clahe", section.clahe_clip),
        (Extra.EQUALIZE, "equalize", (0.0, 0.0)),
        (Extra.ELASTIC, "elastic", section.elastic_shift),
    ]
    return [entry for entry in every if getattr(section, entry[1]) > 0]
