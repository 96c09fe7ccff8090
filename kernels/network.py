"""Pieces of a network that a GPU does in one kernel where torch takes several, by name; and what each of them is.

The references are the definitions, in plain torch, and what runs where Triton does not. They answer in the type that
is asked for and compute in float32, which autocast does of norms and of nothing else here: so the fast versions are at
least as exact as what they stand for. Gradients come by autograd either way.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional

_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "on", "true", "y", "yes")  # once, as Triton does


def runs_on(device: torch.device) -> bool:
    """Whether the kernels run there: on CUDA devices, and anywhere in Triton's interpreter."""
    return device.type == "cuda" or _INTERPRETED


def depthwise(images_BCHW: Tensor, weight_C177: Tensor, bias_C: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Each channel convolved with its own 7 x 7 kernel, zeros beyond the edges: (B, C, H, W) of `dtype`, channels-last.

    Images of any memory format; what is not channels-last is copied.
    """
    if not runs_on(images_BCHW.device):
        return depthwise_reference(images_BCHW, weight_C177, bias_C, dtype)
    from .triton_depthwise import depthwise as fast  # Triton is imported only where it runs

    found: Tensor = fast(images_BCHW, weight_C177, bias_C, dtype)
    return found


def layer_norm(maps: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension of `maps` (..., C), as `dtype`."""
    if not runs_on(maps.device):
        return layer_norm_reference(maps, weight_C, bias_C, eps, dtype)
    from .triton_norm import layer_norm as fast

    return fast(maps, weight_C, bias_C, eps, dtype)


def bias_gelu(maps: Tensor, bias_C: Tensor) -> Tensor:
    """gelu(map + bias), exact, in the type of `maps` (..., C)."""
    if not runs_on(maps.device):
        return bias_gelu_reference(maps, bias_C)
    from .triton_norm import bias_gelu as fast

    found: Tensor = fast(maps, bias_C)
    return found


def scale_add(
    maps: Tensor, bias_C: Tensor, scale_C: Tensor, keep_B: Tensor | None, shortcut: Tensor, dtype: torch.dtype
) -> Tensor:
    """shortcut + keep * scale * (map + bias), as `dtype`: a block's end, with its LayerScale. `maps` and `shortcut` are
    (B, ..., C); `keep_B` is each image's factor (0 where stochastic depth drops the block), None: 1."""
    if not runs_on(maps.device):
        return scale_add_reference(maps, bias_C, scale_C, keep_B, shortcut, dtype)
    from .triton_norm import scale_add as fast

    found: Tensor = fast(maps, bias_C, scale_C, keep_B, shortcut, dtype)
    return found


# --- what they are --------------------------------------------------------------------------------------------------


def depthwise_reference(images_BCHW: Tensor, weight_C177: Tensor, bias_C: Tensor | None, dtype: torch.dtype) -> Tensor:
    """`depthwise` in plain torch."""
    bias = None if bias_C is None else bias_C.float()
    with torch.autocast(images_BCHW.device.type, enabled=False):
        maps_BCHW = functional.conv2d(
            images_BCHW.float(), weight_C177.float(), bias, padding=3, groups=len(weight_C177)
        )
    return maps_BCHW.to(dtype, memory_format=torch.channels_last)


def layer_norm_reference(maps: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`layer_norm` in plain torch."""
    return functional.layer_norm(maps.float(), weight_C.shape, weight_C.float(), bias_C.float(), eps).to(dtype)


def bias_gelu_reference(maps: Tensor, bias_C: Tensor) -> Tensor:
    """`bias_gelu` in plain torch."""
    return functional.gelu(maps.float() + bias_C.float()).to(maps.dtype)


def scale_add_reference(
    maps: Tensor, bias_C: Tensor, scale_C: Tensor, keep_B: Tensor | None, shortcut: Tensor, dtype: torch.dtype
) -> Tensor:
    """`scale_add` in plain torch."""
    branch = scale_C.float() * (maps.float() + bias_C.float())
    if keep_B is not None:
        branch = branch * keep_B.float().view(-1, *[1] * (maps.ndim - 1))
    return (shortcut.float() + branch).to(dtype)
