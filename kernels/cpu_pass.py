"""The pass on the CPU: C++ behind ctypes.

Why C++ and not torch.compile or numba: the speed comes from loading a pixel's taps in all channels at once and
multiplying bytes with byte dot products, which neither can express; `benchmarks/bench_augment.py` measures all three.
Why ctypes and not a Python extension: the call is one function of one struct, ctypes lets go of the GIL around it, and
a library that knows nothing of Python or torch needs neither to be built.

The library is the optional setuptools extension `engine.kernels._cpu_pass`. A machine without a compiler installs
without it; `available()` is then False, `why_not()` says why, and `dispatch` uses the reference. `ENGINE_CPU_SIMD`
(avx512, avx2, generic, or off) forces a level or refuses the kernel, for tests and for bug reports.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .library import load
from .plan import Plan, Ragged

LEVELS = ("generic", "avx2", "avx512")  # slowest first
_LEVEL_VARIABLE = "ENGINE_CPU_SIMD"
_VERSION = 1  # of struct Arguments
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_TENSORS = (
    "border_B",
    "border_color_B3",
    "color_op_BK",
    "color_arg_BK",
    "rect_BR4",
    "rect_fill_BR",
    "rect_color_BR3",
    "noise_seed_B",
    "partner_B",
    "weight_B",
    "box_B4",
)


class _Arguments(ctypes.Structure):
    """struct Arguments of cpu_pass.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("image_B", "size_B2", "matrix_B33", *_TENSORS, "out_BHW3")),
        ("mean", ctypes.c_float * 3),
        ("std", ctypes.c_float * 3),
        *(
            (name, ctypes.c_int32)
            for name in ("batch", "height", "width", "steps", "rects", "filter", "antialias", "dtype", "level")
        ),
    ]


class _Library(NamedTuple):
    run: Callable[[ctypes._Pointer[_Arguments]], int]
    set_threads: Callable[[int], None]
    best_level: int


def available() -> bool:
    """Whether the compiled kernel can run here."""
    return not why_not()


def why_not() -> str:
    """Why the compiled kernel cannot run here; empty when it can."""
    if _forced_level() == "off":
        return f"{_LEVEL_VARIABLE}=off"
    library = _load()
    if isinstance(library, str):
        return library
    level = _forced_level()
    if level and LEVELS.index(level) > library.best_level:
        return f"{_LEVEL_VARIABLE}={level}, but this processor has {LEVELS[library.best_level]} at best"
    return ""


def simd_level() -> str:
    """The instruction set the kernel uses here: "avx512", "avx2" or "generic".

    Raises RuntimeError when the kernel is not available.
    """
    return LEVELS[_level(_library())]


def set_threads(threads: int | None = None) -> None:
    """Use this many threads, the calling one among them; None: as many as the process may use cores.

    Raises ValueError when `threads` is not positive and RuntimeError when the kernel is not available.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    _library().set_threads(threads or _cores())


def cpu_pass(images: Ragged, plan: Plan, out: Tensor) -> None:
    """Run `plan` on `images` into `out`: (B, 3, height, width), channels-last, float32, bfloat16 or float16.

    All on the host, shapes as `dispatch.one_pass` checks them. Colours before normalisation agree with the reference
    within 1e-3 where no step of the colour program jumps (POSTERIZE and SOLARIZE do): weights are numbers of 13 bits or
    more. One batch runs at a time, on all threads; other Python threads go on meanwhile. After the first batch of a
    size nothing is allocated.

    Raises ValueError for images too large to address and RuntimeError when the kernel is not available.
    """
    library = _library()
    for i, (height, width) in enumerate(images.sizes_B2.tolist()):
        if not 0 < height * width * 3 < 2**31:
            raise ValueError(f"image {i} is {width} x {height} pixels: expected at least one and less than 2 GiB")
    plan = plan.to("cpu")  # contiguous, as the kernel reads it
    arguments = _Arguments(
        image_B=images.pointers_B.data_ptr(),
        size_B2=images.sizes_B2.data_ptr(),
        matrix_B33=plan.matrix_B33.data_ptr(),
        out_BHW3=out.data_ptr(),
        mean=plan.mean,
        std=plan.std,
        batch=plan.batch,
        height=plan.height,
        width=plan.width,
        steps=0 if plan.color_op_BK is None else plan.color_op_BK.shape[1],
        rects=0 if plan.rect_BR4 is None else plan.rect_BR4.shape[1],
        filter=int(plan.filter),
        antialias=int(plan.antialias),
        dtype=_DTYPES[out.dtype],
        level=_level(library),
    )
    for name in _TENSORS:
        value: Tensor | None = getattr(plan, name)
        if value is not None:
            setattr(arguments, name, value.data_ptr())
    if library.run(ctypes.byref(arguments)):  # type: ignore[arg-type]  # ctypes has no public type of a reference
        raise MemoryError(f"the pass has no memory for its scratch rows ({plan.batch} x {plan.width} pixels)")


def _level(library: _Library) -> int:
    forced = _forced_level()
    return LEVELS.index(forced) if forced else library.best_level


def _forced_level() -> str:
    level = os.environ.get(_LEVEL_VARIABLE, "")
    if level not in ("", "off", *LEVELS):
        raise ValueError(f"{_LEVEL_VARIABLE}={level}: expected off, {', '.join(LEVELS)}, or nothing for the best")
    return level


def _library() -> _Library:
    if reason := why_not():
        raise RuntimeError(f"the compiled CPU pass is not available: {reason}")
    library = _load()
    assert not isinstance(library, str)  # why_not() would have said so
    return library


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _load() -> _Library | str:
    """The library, or why there is none."""
    library = load("cpu_pass", _VERSION)
    if isinstance(library, str):
        return library
    library.engine_cpu_pass.argtypes = [ctypes.POINTER(_Arguments)]
    library.engine_cpu_pass_set_threads.restype = None
    library.engine_cpu_pass_set_threads(_cores())
    return _Library(library.engine_cpu_pass, library.engine_cpu_pass_set_threads, library.engine_cpu_pass_best_level())
