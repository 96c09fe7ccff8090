"""Many small tensors from the host to a GPU as one block: one copy that nobody waits for.

A copy costs some ten microseconds of the host whatever its size, and one from pageable memory can make it wait until
the GPU has come so far. A plan with its labels is a dozen tensors of some kilobytes, so they travel together, as one
block of pinned memory. It may be let go of at once: torch hands pinned memory out again only when the copies from it
are done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LINE = 64  # bytes: where a tensor of the block may begin, aligned for any dtype and for compiled kernels


def upload(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """The tensors on `device`, contiguous; on a GPU by one copy, on the current stream, of what lies on the host."""
    device = torch.device(device)
    if device.type != "cuda":
        return [tensor.to(device).contiguous() for tensor in tensors]
    here = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    moved = iter(_as_one(here, device) if here else [])
    return [next(moved) if tensor.device.type == "cpu" else tensor.to(device).contiguous() for tensor in tensors]


def _as_one(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.numel() * tensor.element_size() // _LINE) * _LINE
    block = torch.empty(end, dtype=torch.uint8, pin_memory=True)
    torch._foreach_copy_(_parts(block, starts, tensors), list(tensors))
    return _parts(block.to(device, non_blocking=True), starts, tensors)


def _parts(block: Tensor, starts: Sequence[int], like: Sequence[Tensor]) -> list[Tensor]:
    """Of a block of bytes the tensors that begin at `starts`, contiguous, in the dtypes and shapes of `like`."""
    typed = {dtype: block.view(dtype) for dtype in {tensor.dtype for tensor in like}}
    return [
        typed[tensor.dtype].as_strided(tensor.shape, _steps(tensor.shape), start // tensor.element_size())
        for start, tensor in zip(starts, like, strict=True)
    ]


def _steps(shape: Sequence[int]) -> list[int]:
    """Strides of a contiguous tensor."""
    steps = [1]
    for size in reversed(shape[1:]):
        steps.append(steps[-1] * size)
    return steps[::-1] if len(shape) else []
