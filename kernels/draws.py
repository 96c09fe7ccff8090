"""What is done to each image of a batch, drawn by C++ behind ctypes: a whole plan in one call, outside the GIL.

Drawn by torch, a plan is five hundred operations on tensors of some hundred numbers: 5 ms of a batch of 224, most of it
in the interpreter, which the training thread wants at the same time. The numbers have addresses and no state, so they
can be computed sample by sample instead, each only where something asks for it. `engine.augment` is the definition, in
torch, and holds this to it; it also compiles a recipe's section to the structs here, which know nothing of recipes.

Nothing is global: any number of threads may draw at once. The library is the optional setuptools extension
`engine.kernels._draws`; without it `available()` is False, `why_not()` says why, and torch draws.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_uint8, c_void_p
from functools import cache
from typing import Any, NamedTuple

from .library import load

_VERSION = 1  # of the structs


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Part(ctypes.Structure):
    """The structs of draws.h, field by field; what they mean is said there."""

    _fields_ = [*_fields(c_int32, "op at order"), *_fields(c_float, "low span")]


class Tone(ctypes.Structure):
    _fields_ = [*_fields(c_int32, "op at form"), *_fields(c_float, "chance low span")]


class Extra(ctypes.Structure):
    _fields_ = [*_fields(c_int32, "op at"), *_fields(c_float, "chance low span")]


class Rects(ctypes.Structure):
    _fields_ = [
        *_fields(c_int32, "shape at count fill fewest spread"),
        *_fields(c_float, "chance low span log_ratio log_ratio_span"),
        ("color", c_float * 3),
        ("side", c_double),
    ]


class Table(ctypes.Structure):
    _fields_ = [
        ("codes_O3", POINTER(c_int32)),
        ("args_OM", POINTER(c_float)),
        ("signed_O", POINTER(c_uint8)),
        ("op_PS", POINTER(c_int32)),
        ("chance_PS", POINTER(c_float)),
        ("bin_PS", POINTER(c_int32)),
        *_fields(c_int32, "kind slots operations bins rows magnitude at_operation at_strength at_sign at_chance"),
    ]


class Program(ctypes.Structure):
    _fields_ = [
        ("columns", POINTER(c_int64)),
        ("parts", POINTER(Part)),
        ("tones", POINTER(Tone)),
        ("extras", POINTER(Extra)),
        ("rects", POINTER(Rects)),
        ("policy", Table),
        *_fields(c_int64, "rect_noise extra_noise"),
        *_fields(c_double, "scale scale_span log_ratio log_ratio_span ratio_low ratio_high"),
        *_fields(c_double, "affine_shift affine_scale affine_rotate affine_shear distortion"),
        *_fields(c_int32, "at_letterbox at_crop at_half at_flip at_vertical_flip at_quarter_turn at_affine"),
        *_fields(c_int32, "at_perspective at_color"),
        *_fields(c_float, "letterbox_p half_p flip_p vertical_flip_p quarter_turn_p affine_p perspective_p color_p"),
        ("mean", c_float * 3),
        *_fields(c_int32, "crop border part_count tone_count extra_count most rect_count"),
    ]


class Mixing(ctypes.Structure):
    _fields_ = [
        ("mixup_table", POINTER(c_double)),
        ("cutmix_table", POINTER(c_double)),
        ("columns", c_int64 * 5),
        *_fields(c_int64, "batch_address partner_address"),
        *_fields(c_double, "mixup_exponent cutmix_exponent"),
        *_fields(c_float, "p cutmix_share"),
        *_fields(c_int32, "intervals per_batch"),
    ]


class Call(ctypes.Structure):
    """Addresses of the host, valid while the call runs; what is left out is not made."""

    _fields_ = [
        ("program", POINTER(Program)),
        ("mixing", POINTER(Mixing)),
        *_fields(c_void_p, "key_B size_B2 label_B"),
        ("epoch_address", c_int64),
        *_fields(c_void_p, "matrix_B33 border_B border_color_B3 color_op_BK color_arg_BK rect_BR4 rect_fill_BR"),
        *_fields(c_void_p, "rect_color_BR3 noise_seed_B partner_B weight_B box_B4 own_B partner_label_B share_B"),
        *_fields(c_void_p, "extra_op_BE extra_arg_BE extra_seed_B"),
        *_fields(c_int32, "batch height width"),
    ]


class Look(ctypes.Structure):
    _fields_ = [
        *_fields(c_void_p, "matrix_B33 border_B size_B2 region_B5"),
        *_fields(c_int32, "batch height width filter antialias reduce"),
    ]


_NUMBERS = {"int32": c_int32, "int64": c_int64, "uint8": c_uint8, "float32": c_float, "float64": c_double}


def array(kind: Any, values: Iterable[Any]) -> Any:
    """For a pointer in a struct, which keeps it alive: numbers of the kind that is named, or structs of this one."""
    values = list(values)
    return (_NUMBERS.get(kind, kind) * len(values))(*values)


def pointer(struct: ctypes.Structure) -> Any:
    """For a pointer to it, which keeps it alive."""
    return ctypes.pointer(struct)


_STRUCTS = (Part, Tone, Extra, Rects, Table, Program, Mixing, Call, Look)


def available() -> bool:
    """Whether the library can be used here."""
    return not why_not()


def why_not() -> str:
    """Why it cannot be used here; empty when it can."""
    library = _load()
    return library if isinstance(library, str) else ""


def draw(call: Call) -> None:
    """Fill in a batch. Raises MemoryError, and RuntimeError when the library is not available."""
    if _library().draw(ctypes.byref(call)):
        raise MemoryError(f"no memory to draw what is done to {call.batch} images")


def mix_labels(call: Call) -> None:
    """Labels and shares of the plan that `call` points to. Raises RuntimeError when the library is not available."""
    _library().mix_labels(ctypes.byref(call))


def regions(look: Look) -> None:
    """What a plan reads of each photo. Raises RuntimeError when the library is not available."""
    _library().regions(ctypes.byref(look))


def fit(matrix_B33: int, frame_B5: int, batch: int) -> None:
    """Matrices at this address, for whole photos, become those for the parts of them that were decoded. Raises
    RuntimeError when the library is not available."""
    _library().fit(matrix_B33, frame_B5, batch)


class _Library(NamedTuple):
    draw: Callable[[Any], int]
    mix_labels: Callable[[Any], None]
    regions: Callable[[Any], None]
    fit: Callable[[int, int, int], None]


def _library() -> _Library:
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"the compiled draws are not available: {library}")
    return library


@cache
def _load() -> _Library | str:
    """The library's functions, or why there are none."""
    library = load("draws", _VERSION)
    if isinstance(library, str):
        return library
    library.engine_draws_sizes(sizes := (c_int64 * len(_STRUCTS))())
    if [*sizes] != [ctypes.sizeof(struct) for struct in _STRUCTS]:
        return "the library of draws was built from other sources (its structs have other sizes): build it again"
    found = _Library(
        library.engine_draws_draw,
        library.engine_draws_mix_labels,
        library.engine_draws_regions,
        library.engine_draws_fit,
    )
    library.engine_draws_draw.argtypes, library.engine_draws_draw.restype = [c_void_p], c_int32
    for function in (library.engine_draws_mix_labels, library.engine_draws_regions):
        function.argtypes, function.restype = [c_void_p], None
    library.engine_draws_fit.argtypes, library.engine_draws_fit.restype = [c_void_p, c_void_p, c_int32], None
    return found
