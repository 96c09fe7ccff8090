"""AutoAugment, RandAugment and TrivialAugment as tables: each image draws rows of them, and rows are plan entries.

The published code applies one operation after another to the pixels. Here their geometry joins the matrix, their
colours the colour program, and the three that look at neighbours or at the whole image (sharpness, auto-contrast,
equalise) the extras; so geometry comes first, then extras, then colours, in the drawn order within each. Magnitudes,
operations and the ImageNet policy are the papers' as torchvision has them; shears and turns are about the centre, and
what torchvision shifts by 32 pixels is shifted by 32 / 224 of the side.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from engine.augment import geometry
from engine.augment.extras import Extra
from engine.kernels import Color
from engine.recipe.sections.augment import PolicySection

BINS = 31  # steps of strength; AutoAugment has 10


class Geometry(enum.IntEnum):
    """Arguments: tangent, tangent, share of the width, share of the height, degrees."""

    NONE = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    SHIFT_X = 3
    SHIFT_Y = 4
    ROTATE = 5


@dataclasses.dataclass(frozen=True)
class Operation:
    """What a row of a policy does, and how its argument grows from `weakest` to `strongest` over the steps."""

    does: Geometry | Color | Extra
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False  # the difference from the weakest goes either way
    whole: bool = False  # rounded

    def arg(self, strength: float) -> float:
        value = self.weakest + (self.strongest - self.weakest) * strength
        return float(round(value)) if self.whole else value


_NOTHING = Operation(Geometry.NONE)


def _operations(shear: float, shift: float, degrees: float, factor: float, bits: int) -> dict[str, Operation]:
    """Every operation's name in the papers, at the strongest of its policy."""
    return {
        "identity": _NOTHING,
        "shear_x": Operation(Geometry.SHEAR_X, 0, shear, signed=True),
        "shear_y": Operation(Geometry.SHEAR_Y, 0, shear, signed=True),
        "translate_x": Operation(Geometry.SHIFT_X, 0, shift, signed=True),
        "translate_y": Operation(Geometry.SHIFT_Y, 0, shift, signed=True),
        "rotate": Operation(Geometry.ROTATE, 0, degrees, signed=True),
        "brightness": Operation(Color.BRIGHTNESS, 1, 1 + factor, signed=True),
        "color": Operation(Color.SATURATION, 1, 1 + factor, signed=True),
        "contrast": Operation(Color.CONTRAST, 1, 1 + factor, signed=True),
        "sharpness": Operation(Extra.SHARPNESS, 1, 1 + factor, signed=True),
        "posterize": Operation(Color.POSTERIZE, 8, bits, whole=True),
        "solarize": Operation(Color.SOLARIZE, 1, 0),
        "auto_contrast": Operation(Extra.AUTO_CONTRAST),
        "equalize": Operation(Extra.EQUALIZE),
        "invert": Operation(Color.INVERT),
    }


_STANDARD = _operations(shear=0.3, shift=150 / 331, degrees=30, factor=0.9, bits=4)
_WIDE = _operations(shear=0.99, shift=32 / 224, degrees=135, factor=0.99, bits=2)

# Cubuk et al. 2019, table 9: (operation, chance, strength of 0 to 9) twice; every image draws one row.
_IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What each sample drew, S slots in the order of application. Codes of other kinds are NONE in each field."""

    geometry_BS: Tensor  # int64 of Geometry
    color_BS: Tensor  # int32 of Color
    extra_BS: Tensor  # int32 of Extra
    arg_BS: Tensor  # float32

    def matrix(self, height: int, width: int) -> Tensor:
        """The slots' geometry composed, (B, 3, 3) float64, from output points to canvas points."""
        matrix_B33 = torch.eye(3, dtype=torch.float64, device=self.arg_BS.device).expand(len(self.arg_BS), 3, 3)
        for op_B, arg_B in zip(self.geometry_BS.unbind(1), self.arg_BS.double().unbind(1), strict=True):
            args_B6 = torch.where(op_B[:, None] == torch.arange(6, device=op_B.device), arg_B[:, None], 0.0)
            linear_B22 = geometry.linear(torch.ones_like(arg_B), torch.deg2rad(args_B6[:, 5]), args_B6[:, 1:3])
            shift_B2 = args_B6[:, 3:5] * args_B6.new_tensor([width, height])
            matrix_B33 = matrix_B33 @ geometry.affine(linear_B22, shift_B2, height, width)
        return matrix_B33


def slots(section: PolicySection) -> int:
    """How many operations a sample draws."""
    return {"none": 0, "autoaugment": 2, "randaugment": section.operations, "trivialaugment": 1}[section.kind]


def policy_streams(section: PolicySection) -> dict[str, int]:
    """How many uniform numbers the policy draws for a sample."""
    count = slots(section)
    names = ("policy/operation", "policy/strength", "policy/sign", "policy/chance")
    return dict.fromkeys(names, count) if count else {}


def choose(section: PolicySection, draws: Mapping[str, Tensor]) -> Chosen | None:
    """The operations of every sample, from the streams of `policy_streams`; None when the recipe has no policy."""
    count = slots(section)
    if count == 0:
        return None
    choice_BS = draws["policy/operation"]
    table = table_of(section.kind, choice_BS.device)
    if section.kind == "autoaugment":
        row_B = (choice_BS[:, 0] * len(_IMAGENET)).long()
        op_BS, bin_BS = table.policy_op_PS[row_B], table.policy_bin_PS[row_B]
        op_BS = torch.where(draws["policy/chance"] < table.policy_chance_PS[row_B], op_BS, 0)
    else:
        op_BS = (choice_BS * len(table.args_OM)).long()
        if section.kind == "randaugment":
            bin_BS = torch.full_like(op_BS, section.magnitude)
        else:
            bin_BS = (draws["policy/strength"] * BINS).long()
    weakest_BS = table.args_OM[op_BS, 0]
    sign_BS = torch.where(table.signed_O[op_BS] & (draws["policy/sign"] < 0.5), -1.0, 1.0)
    arg_BS = weakest_BS + sign_BS * (table.args_OM[op_BS, bin_BS] - weakest_BS)
    codes_BS3 = table.codes_O3[op_BS]
    geometry_BS, color_BS, extra_BS = codes_BS3.unbind(2)
    return Chosen(geometry_BS, color_BS.to(torch.int32), extra_BS.to(torch.int32), arg_BS)


@dataclasses.dataclass(frozen=True)
class Table:
    """O operations, row 0 the identity; M strengths; P sub-policies (AutoAugment's only) of S slots."""

    codes_O3: Tensor  # int64: Geometry, Color, Extra
    args_OM: Tensor  # float32
    signed_O: Tensor  # bool
    policy_op_PS: Tensor
    policy_chance_PS: Tensor
    policy_bin_PS: Tensor


@cache
def table_of(kind: str, device: torch.device) -> Table:
    """Of a policy that there is."""
    named = _WIDE if kind == "trivialaugment" else _STANDARD
    names = [name for name in named if kind == "autoaugment" or name != "invert"]  # the other two have no negative
    operations = [named[name] for name in names]
    kinds = (Geometry, Color, Extra)
    codes = [[int(op.does) if isinstance(op.does, kind) else 0 for kind in kinds] for op in operations]
    bins = 10 if kind == "autoaugment" else BINS
    args = [[op.arg(step / (bins - 1)) for step in range(bins)] for op in operations]
    rows = [[names.index(name) for name, _, _ in row] for row in _IMAGENET] if kind == "autoaugment" else []
    return Table(
        codes_O3=torch.tensor(codes, device=device),
        args_OM=torch.tensor(args, dtype=torch.float32, device=device),
        signed_O=torch.tensor([op.signed for op in operations], device=device),
        policy_op_PS=torch.tensor(rows, dtype=torch.int64, device=device),
        policy_chance_PS=torch.tensor([[chance for _, chance, _ in row] for row in _IMAGENET], device=device),
        policy_bin_PS=torch.tensor([[step for _, _, step in row] for row in _IMAGENET], device=device),
    )
