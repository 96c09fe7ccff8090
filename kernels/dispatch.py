"""Picks who runs the pass. One call for every caller: training, validation, TTA, offline augmentation, the demo.

`auto` takes the fast executor of the device: Triton on CUDA, the compiled kernel on the CPU, and the plain torch
reference where that kernel cannot be built (no compiler). All three answer the same; `tests/kernels` holds them to it.
The arguments are checked here, once for all executors, because two of them read memory by bare address.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import torch
from torch import Tensor

from . import cpu_pass
from .plan import Plan, Ragged
from .reference import reference_pass

Executor = Literal["auto", "reference", "cpu", "triton"]
_OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def one_pass(images: Ragged, plan: Plan, out: Tensor | None = None, executor: Executor = "auto") -> Tensor:
    """Run `plan` on `images` and return the batch: (B, 3, height, width), normalised, channels-last memory.

    `out` is a buffer of that shape to fill and return (float32, bfloat16 or float16, channels-last, on the images'
    device). Reuse one: fresh memory for each batch costs more than the pass itself at large sizes. Without it a new
    float32 batch is made. The plan is moved to the images' device if it lies elsewhere.

    Raises ValueError when the plan, the buffer and the images do not fit together, and RuntimeError when the executor
    asked for cannot run here.
    """
    if executor not in get_args(Executor):
        raise ValueError(f"executor {executor!r}: expected one of {', '.join(get_args(Executor))}")
    check_plan(plan, images)
    if out is None:
        shape = (len(images), 3, plan.height, plan.width)
        out = torch.empty(shape, device=images.device, memory_format=torch.channels_last)
    else:
        _check_out(out, plan, images)
    if executor == "auto":
        executor = fastest(images.device)
    plan = plan.to(images.device)
    if executor == "cpu":
        _run_cpu(images, plan, out)
    elif executor == "triton":
        from .triton_pass import triton_pass  # Triton is imported only where it runs

        triton_pass(images, plan, out)
    else:
        out.copy_(reference_pass(images, plan))
    return out


def fastest(device: torch.device) -> Executor:
    """The executor `auto` means on `device`."""
    if device.type == "cuda":
        return "triton"
    if device.type == "cpu":
        if cpu_pass.available():
            return "cpu"
        warnings.warn(  # Python shows it once
            f"the compiled CPU pass is not available ({cpu_pass.why_not()}): plain torch runs it, many times slower",
            RuntimeWarning,
            stacklevel=2,
        )
    return "reference"


def _run_cpu(images: Ragged, plan: Plan, out: Tensor) -> None:
    if images.device.type != "cpu":
        raise RuntimeError(f"executor 'cpu' reads host memory, the images are on {images.device}; use 'auto'")
    if not cpu_pass.available():
        raise RuntimeError(f"executor 'cpu' is not available: {cpu_pass.why_not()}; use 'auto' or 'reference'")
    cpu_pass.cpu_pass(images, plan, out)


def check_plan(plan: Plan, images: Ragged) -> None:
    """Raise ValueError unless every tensor of `plan` has the documented shape and dtype for this batch.

    Values are checked only where a wrong one would make an executor read foreign memory, and only on the host (on
    the device that would wait for the GPU; there the kernel clamps).
    """
    batch = len(images)
    if batch == 0:
        raise ValueError("the batch holds no images; a pass needs at least one")
    if plan.height < 1 or plan.width < 1:
        raise ValueError(f"plan.height x width: expected at least 1 x 1, got {plan.height} x {plan.width}")
    steps = 0 if plan.color_op_BK is None else plan.color_op_BK.shape[-1]
    rects = 0 if plan.rect_BR4 is None else plan.rect_BR4.shape[1] if plan.rect_BR4.ndim == 3 else 0
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "matrix_B33": ((batch, 3, 3), torch.float32),
        "border_B": ((batch,), torch.int32),
        "border_color_B3": ((batch, 3), torch.float32),
        "color_op_BK": ((batch, steps), torch.int32),
        "color_arg_BK": ((batch, steps), torch.float32),
        "rect_BR4": ((batch, rects, 4), torch.int32),
        "rect_fill_BR": ((batch, rects), torch.int32),
        "rect_color_BR3": ((batch, rects, 3), torch.float32),
        "noise_seed_B": ((batch,), torch.int64),
        "partner_B": ((batch,), torch.int64),
        "weight_B": ((batch,), torch.float32),
        "box_B4": ((batch, 4), torch.int32),
    }
    for name, (shape, dtype) in expected.items():
        value: Tensor | None = getattr(plan, name)
        if value is not None and (value.shape != shape or value.dtype != dtype):
            raise ValueError(
                f"plan.{name}: expected {dtype} {shape} for {batch} images, got {value.dtype} {tuple(value.shape)}"
            )
    for one, other in (("color_op_BK", "color_arg_BK"), ("rect_BR4", "rect_fill_BR")):
        if (getattr(plan, one) is None) != (getattr(plan, other) is None):
            raise ValueError(f"plan.{one} and plan.{other} belong together: give both or neither")
    partner_B = plan.partner_B
    if partner_B is not None and not partner_B.is_cuda and not bool(((partner_B >= 0) & (partner_B < batch)).all()):
        raise ValueError(f"plan.partner_B: expected indices 0..{batch - 1} into the batch, got {partner_B.tolist()}")


def _check_out(out: Tensor, plan: Plan, images: Ragged) -> None:
    shape = (len(images), 3, plan.height, plan.width)
    if tuple(out.shape) != shape:
        raise ValueError(f"out: expected shape {shape} for this plan and batch, got {tuple(out.shape)}")
    if out.dtype not in _OUT_DTYPES:
        raise ValueError(f"out: expected dtype float32, bfloat16 or float16, got {out.dtype}")
    if out.device != images.device:
        raise ValueError(f"out is on {out.device}, the images on {images.device}; use one device")
    if not out.permute(0, 2, 3, 1).is_contiguous():
        raise ValueError(
            "out: expected channels-last memory, got strides "
            f"{out.stride()}; make it with torch.empty(shape, memory_format=torch.channels_last)"
        )
