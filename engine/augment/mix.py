"""MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019) as three numbers a sample: a partner, a weight, a box.

The pass samples the partner too, so mixing costs no second look at the batch; and each sample may have its own kind and
weight, where the usual code has one for the whole batch. A partner must be in the same batch: it is the one thing about
a sample that depends on the batch it landed in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.augment.rng import beta_quantile, hashes, uniforms
from engine.kernels import Plan, draws
from engine.recipe.sections.augment import MixSection


class MixedLabels(NamedTuple):
    """Two classes a sample and the share of the first: what MixUp and CutMix make of labels."""

    own_B: Tensor  # int64
    partner_B: Tensor  # int64; the own class where nothing is mixed
    share_B: Tensor  # float32 in [0, 1], of own_B


class TaughtLabels(NamedTuple):
    """The same where a teacher's answers are learnt as well: what remains to the classes, and what the teacher says."""

    own_B: Tensor  # int64
    partner_B: Tensor  # int64
    own_share_B: Tensor  # float32; with the partner's and the teacher's it sums to 1
    partner_share_B: Tensor
    answer_BC: Tensor  # float32, the mixed answer of the teacher times its share
    temperature: float  # of the answer


Labels = MixedLabels | TaughtLabels


class Taught(NamedTuple):
    """What a teacher says of B images: probabilities at a temperature, and how much they count, the label having the
    rest."""

    answers_BC: Tensor  # float32
    weight_B: Tensor  # float32 in [0, 1]
    temperature: float

    def take(self, rows: NDArray[np.int64]) -> Taught:
        """Of these of the images."""
        rows_B = torch.from_numpy(rows)
        return Taught(self.answers_BC[rows_B], self.weight_B[rows_B], self.temperature)


def mix_at(sections: Sequence[MixSection], epoch: int) -> MixSection | None:
    """The first section that covers `epoch` (counted from 0 over the run), or None."""
    for section in sections:
        if section.epochs is None or section.epochs[0] <= epoch <= section.epochs[1]:
            return section
    return None


MIX_STREAMS = {"mix": 1, "mix/kind": 1, "mix/weight": 1, "mix/box": 2}
"""How many uniform numbers mixing draws for a sample, or for a batch."""


def cutmix_share(section: MixSection) -> float:
    """The share of mixed images that get CutMix."""
    return 0.0 if section.cutmix == 0 else 1.0 if section.mixup == 0 else section.cutmix_share


def with_mix(plan: Plan, section: MixSection, keys_B: Tensor, seed: int, epoch: int) -> Plan:
    """The plan with partners, weights and boxes. Who is not mixed is their own partner.

    With one weight for the batch, its address is the set of keys in it, whatever their order. A batch of one mixes
    with itself, which changes nothing: both labels are its own.
    """
    if section.p == 0 or (section.mixup == 0 and section.cutmix == 0):
        return plan
    batch = len(keys_B)
    one_for_all = section.per == "batch"
    addresses_B = hashes(seed, epoch, keys_B, "mix/batch").sum(0, keepdim=True) if one_for_all else keys_B
    draws = uniforms(seed, epoch, addresses_B, MIX_STREAMS)
    draws = {name: values.expand(batch, -1) for name, values in draws.items()}

    mixed_B = draws["mix"][:, 0] < section.p
    share = cutmix_share(section)
    cut_B = mixed_B & (draws["mix/kind"][:, 0] < share)
    p_B = draws["mix/weight"][:, 0]
    weight_B = torch.ones_like(p_B)
    box_B4 = torch.zeros(batch, 4, dtype=torch.int32, device=keys_B.device)
    if share < 1:
        weight_B = torch.where(mixed_B & ~cut_B, beta_quantile(p_B, section.mixup), weight_B)
    if share > 0:
        boxes_B4 = _boxes(beta_quantile(p_B, section.cutmix), draws["mix/box"], plan.height, plan.width)
        box_B4 = torch.where(cut_B[:, None], boxes_B4, box_B4)
    itself_B = torch.arange(batch, device=keys_B.device)
    partner_B = torch.where(mixed_B, _partners(hashes(seed, epoch, keys_B, "mix/partner")), itself_B)
    return dataclasses.replace(plan, partner_B=partner_B, weight_B=weight_B, box_B4=box_B4)


def mixed_labels(plan: Plan, own_B: Tensor) -> MixedLabels:
    """What `plan` makes of the classes `own_B` (int64), which lie where the plan does. By C++ where it is built and
    they are on the host."""
    if own_B.device.type != "cpu" or plan.device.type != "cpu" or not draws.available():
        return reference_labels(plan, own_B)
    if own_B.shape != (plan.batch,) or own_B.dtype != torch.int64:
        raise ValueError(f"labels {own_B.dtype} {tuple(own_B.shape)} of a plan for {plan.batch}: expected int64")
    own_B = own_B.contiguous()
    mix = [None if part is None else part.contiguous() for part in (plan.partner_B, plan.weight_B, plan.box_B4)]
    partner_B = mix[0]
    if partner_B is not None and len(own_B) and not 0 <= int(partner_B.min()) <= int(partner_B.max()) < len(own_B):
        raise IndexError(f"a plan's partners are not among the {len(own_B)} images of its batch")
    labels = MixedLabels(torch.empty_like(own_B), torch.empty_like(own_B), torch.empty(len(own_B)))
    call = draws.Call(batch=len(own_B), height=plan.height, width=plan.width, label_B=own_B.data_ptr())
    for name, part in zip(("partner_B", "weight_B", "box_B4"), mix, strict=True):
        setattr(call, name, None if part is None else part.data_ptr())
    call.own_B, call.partner_label_B, call.share_B = (label_B.data_ptr() for label_B in labels)
    draws.mix_labels(call)
    return labels


def reference_labels(plan: Plan, own_B: Tensor) -> MixedLabels:
    """What `mixed_labels` answers, defined in torch."""
    # A tensor of its own where nothing is mixed, too: one that came twice would be compiled for anew.
    partner_B = own_B.clone() if plan.partner_B is None else own_B[plan.partner_B]
    return MixedLabels(own_B, partner_B, plan.own_share_B())


def taught_labels(plan: Plan, own_B: Tensor, taught: Taught) -> TaughtLabels:
    """What `plan` makes of the classes `own_B` and of what a teacher says of their images: an answer is mixed as a
    label is."""
    own_B, partner_B, share_B = mixed_labels(plan, own_B)
    place_B = torch.arange(len(own_B)) if plan.partner_B is None else plan.partner_B
    weight_B, answers_BC = taught.weight_B, taught.answers_BC * taught.weight_B[:, None]
    rest_B = 1 - share_B
    answer_BC = share_B[:, None] * answers_BC + rest_B[:, None] * answers_BC[place_B]
    shares = share_B * (1 - weight_B), rest_B * (1 - weight_B[place_B])
    return TaughtLabels(own_B, partner_B, *shares, answer_BC, taught.temperature)


def _partners(hashes_B: Tensor) -> Tensor:
    """Everyone in a ring in the order of their hashes: the partner is the next one, so never oneself in a batch of two
    or more, and everybody is one partner."""
    ring_B = torch.argsort(hashes_B, stable=True)
    partner_B = torch.empty_like(ring_B)
    partner_B[ring_B] = ring_B.roll(-1)
    return partner_B


def _boxes(own_B: Tensor, center_B2: Tensor, height: int, width: int) -> Tensor:
    """CutMix's boxes: sides the share sqrt(1 - own) of the image's, centre anywhere in it, clipped by its edges."""
    size_2 = torch.tensor([width, height], dtype=torch.float32, device=own_B.device)
    # By way of float64, and rounded once: how torch's root of a float32 rounds is up to the processor, and where `own`
    # is next to nothing a box is a pixel wider for it.
    side_B = (1 - own_B).double().sqrt().float()
    half_B2 = (side_B[:, None] * size_2).floor() / 2
    center_B2 = (center_B2 * size_2).floor()
    corners_B4 = torch.cat([(center_B2 - half_B2).floor(), (center_B2 + half_B2).floor()], dim=1)
    return torch.minimum(corners_B4.clamp(min=0), size_2.repeat(2)).to(torch.int32)
