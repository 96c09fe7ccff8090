"""A recipe's section as the flat structs by which `engine.kernels.draws` draws: names become columns, ranges spans.

Whatever a struct holds is read off the tables by which torch draws, so that an operation that is added there is drawn
by C++ as well. Numbers that torch rounds to float32 before it computes with them are rounded by the structs' own types.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from engine.augment.auto import slots, table_of
from engine.augment.color import parts, tones
from engine.augment.extras import in_use
from engine.augment.mix import MIX_STREAMS, cutmix_share
from engine.augment.rects import kinds_in_use
from engine.augment.rng import INTERVALS, address, beta_table
from engine.kernels import Border, Fill, draws
from engine.recipe.sections.augment import (
    AugmentSection,
    CutoutSection,
    EraseSection,
    MixSection,
    PolicySection,
    RandomErasingSection,
)

# In the order of the enums of kernels/draws.h.
CROPS = ("random_resized", "center", "letterbox", "stretch")
POLICIES = ("none", "autoaugment", "randaugment", "trivialaugment")
SHAPES = ("erase", "random_erasing", "cutout", "corner")


class Program:
    """What is drawn by `streams` (names and counts of numbers) for `section`; `mean` is the colour of a border.

    `steps`, `rects` and `extras` are how many of each a sample has, `noisy` says whether rectangles need a seed.
    """

    def __init__(self, section: AugmentSection, mean: Sequence[float], streams: Mapping[str, int]) -> None:
        self._made_of = (section, mean, streams)
        struct = draws.Program()
        self.pointer = draws.pointer(struct)
        at = _columns(struct, streams)
        _geometry(struct, section, at)
        _colors(struct, section, at)
        _extras(struct, section, at)
        _rects(struct, section, at)
        _policy(struct.policy, section.policy, at)
        struct.mean = tuple(mean)
        chosen = struct.policy.slots
        self.steps: int = chosen + struct.part_count + struct.tone_count
        self.extras: int = chosen + struct.most
        self.rects = sum(struct.rects[i].count for i in range(struct.rect_count))
        self.noisy = any(struct.rects[i].fill == Fill.NOISE for i in range(struct.rect_count))

    def __reduce__(self) -> tuple[type[Program], tuple[object, ...]]:
        return Program, self._made_of  # its addresses mean nothing to another process


@lru_cache(maxsize=64)
def mixing(section: MixSection) -> draws.Mixing | None:
    """How a batch is mixed; None where it is not."""
    if section.p == 0 or (section.mixup == 0 and section.cutmix == 0):
        return None
    struct = draws.Mixing()
    for name, alpha in (("mixup", section.mixup), ("cutmix", section.cutmix)):
        if alpha:
            setattr(struct, f"{name}_table", draws.array("float64", beta_table(alpha).tolist()))
            setattr(struct, f"{name}_exponent", 1 / alpha)
    columns = [f"{name}/{i}" for name, count in MIX_STREAMS.items() for i in range(count)]
    struct.columns = tuple(map(address, columns))
    struct.batch_address, struct.partner_address = address("mix/batch"), address("mix/partner")
    struct.p, struct.cutmix_share = section.p, cutmix_share(section)
    struct.intervals, struct.per_batch = INTERVALS, section.per == "batch"
    return struct


def _columns(struct: draws.Program, streams: Mapping[str, int]) -> dict[str, int]:
    """Where each stream's numbers begin among the columns."""
    at: dict[str, int] = {}
    names: list[str] = []
    for name, count in streams.items():
        at[name] = len(names)
        names += [f"{name}/{i}" for i in range(count)]
    struct.columns = draws.array("int64", map(address, names))
    return at


def _geometry(struct: draws.Program, section: AugmentSection, at: Mapping[str, int]) -> None:
    crop, affine = section.crop, section.affine
    for name in ("letterbox", "crop", "half", "flip", "vertical_flip", "quarter_turn", "affine", "perspective"):
        setattr(struct, f"at_{name}", at.get(name, -1))
    struct.crop, struct.border = CROPS.index(crop.kind), Border[section.border.upper()]
    struct.scale, struct.scale_span = _spanned(crop.scale)
    struct.log_ratio, struct.log_ratio_span = _spanned((math.log(crop.ratio[0]), math.log(crop.ratio[1])))
    struct.ratio_low, struct.ratio_high = crop.ratio
    struct.letterbox_p = 1.0 if crop.kind == "letterbox" else crop.letterbox_p
    struct.half_p, struct.flip_p, struct.vertical_flip_p = crop.half_p, section.flip, section.vertical_flip
    struct.quarter_turn_p, struct.affine_p, struct.perspective_p = section.quarter_turn, affine.p, section.perspective.p
    struct.affine_shift, struct.affine_scale = affine.shift, affine.scale
    struct.affine_rotate, struct.affine_shear = affine.rotate, affine.shear
    struct.distortion = section.perspective.distortion


def _colors(struct: draws.Program, section: AugmentSection, at: Mapping[str, int]) -> None:
    struct.at_color, struct.color_p = at.get("color", -1), section.color.p
    jitter = []
    for part in parts(section.color):
        limits = _spanned((part.middle - part.strength, part.middle + part.strength))
        jitter.append(draws.Part(part.op, at[part.stream], at["color/order"] + part.order, *limits))
    steps = [draws.Tone(one.op, at[one.stream], one.form, one.chance, one.low, one.span) for one in tones(section.tone)]
    struct.parts, struct.part_count = draws.array(draws.Part, jitter), len(jitter)
    struct.tones, struct.tone_count = draws.array(draws.Tone, steps), len(steps)


def _extras(struct: draws.Program, section: AugmentSection, at: Mapping[str, int]) -> None:
    rows = []
    for op, name, limits in in_use(section.extras):
        low, high = map(np.float32, limits)
        span = float(high - low)  # in float32, as torch does it
        rows.append(draws.Extra(op, at[f"extras/{name}"], getattr(section.extras, name), float(low), span))
    struct.extras, struct.extra_count = draws.array(draws.Extra, rows), len(rows)
    struct.most = min(section.extras.most, len(rows))
    struct.extra_noise = address("extras/noise")


def _rects(struct: draws.Program, section: AugmentSection, at: Mapping[str, int]) -> None:
    rows = []
    for name, kind in kinds_in_use(section):
        row = draws.Rects(SHAPES.index(name), at[name], 1, Fill[kind.fill.upper()], chance=kind.p)
        row.color = kind.color
        if isinstance(kind, CutoutSection):
            row.side = kind.size
        elif isinstance(kind, RandomErasingSection):
            row.low, row.span = _spanned(kind.area)
            row.log_ratio, row.log_ratio_span = _spanned((math.log(kind.ratio[0]), math.log(kind.ratio[1])))
        else:
            row.low, row.span = _spanned(kind.size)
        if isinstance(kind, EraseSection):
            row.count, row.fewest, row.spread = kind.count[1], kind.count[0], kind.count[1] - kind.count[0] + 1
        rows.append(row)
    struct.rects, struct.rect_count = draws.array(draws.Rects, rows), len(rows)
    struct.rect_noise = address("rects/noise")


def _policy(struct: draws.Table, section: PolicySection, at: Mapping[str, int]) -> None:
    struct.kind, struct.slots = POLICIES.index(section.kind), slots(section)
    if section.kind == "none":
        return
    table = table_of(section.kind, torch.device("cpu"))
    struct.operations, struct.bins = table.args_OM.shape
    struct.rows, struct.magnitude = len(table.policy_op_PS), section.magnitude
    struct.codes_O3 = draws.array("int32", table.codes_O3.flatten().tolist())
    struct.args_OM = draws.array("float32", table.args_OM.flatten().tolist())
    struct.signed_O = draws.array("uint8", table.signed_O.tolist())
    struct.op_PS = draws.array("int32", table.policy_op_PS.flatten().tolist())
    struct.chance_PS = draws.array("float32", table.policy_chance_PS.flatten().tolist())
    struct.bin_PS = draws.array("int32", table.policy_bin_PS.flatten().tolist())
    for name in ("operation", "strength", "sign", "chance"):
        setattr(struct, f"at_{name}", at[f"policy/{name}"])


def _spanned(limits: tuple[float, float]) -> tuple[float, float]:
    """From and to, as from and by how much."""
    return limits[0], limits[1] - limits[0]
