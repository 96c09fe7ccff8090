"""The network's kernels, for `count_instructions.py`: launches small enough to be followed, of the shapes of a block.

A "pixel" is here one number of the map that a kernel makes, or, where it makes a gradient, of the map that this is of.
Maps are bf16, and scales, biases and residuals float32, as under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from engine.kernels import triton_depthwise, triton_norm

LOW = torch.bfloat16
CHANNELS = (128, 1024)  # convnext_base's in its first and in its last stage
# By kernel: the registers that it may take, the instructions a number, and the bytes that are read and written for one.
LIMITS = {
    "depthwise": (168, 110, 4),
    "depthwise, weights' gradient": (168, 170, 4),
    "norm": (64, 60, 4),
    "norm, backward": (128, 80, 6),
    "bias and GELU": (64, 60, 4),
    "bias and GELU, backward": (96, 90, 6),
    "scale and residual": (64, 30, 10),
    "scale and residual, backward": (128, 60, 8),
}


def network(every: bool, launches: Callable[[Callable[[], object]], list[Any]]) -> Iterator[dict[str, Any]]:
    """The fields of a `Variant` for each kernel, forward and backward; with `every` for the last stage, too. `launches`
    tells what would be launched."""
    runs = [("", name, *run) for name, run in _calls().items()]
    runs += [(f" of {c}", name, *run) for c in (CHANNELS if every else CHANNELS[:1]) for name, run in _norms(c).items()]
    for channels, name, run, numbers in runs:
        (launch,) = launches(run)
        registers, instructions, moved = LIMITS[name]
        yield {
            "name": name + channels,
            "launch": launch,
            "blocks": [(0, 0, 0)],
            "pixels": numbers,
            "most_registers": registers,
            "most_instructions": instructions,
            "bytes_a_pixel": moved,
        }


Calls = dict[str, tuple[Callable[[], object], int]]  # a call, and the numbers of its map


def _calls() -> Calls:
    """Kernels that see a tile, or a strip: here as high as a map of the third stage at 256 px, one of those that a
    program walks."""
    across, deep = triton_depthwise._TILE_X, triton_depthwise._TILE_C
    images_BCHW = _maps(deep, 16, across).permute(0, 3, 1, 2)
    weight_C49, bias_C = torch.zeros(deep, 49), torch.zeros(deep)
    maps, vector_C, keep_B = _maps(64, 4, 8), torch.zeros(64), torch.ones(1)
    strip, tile = images_BCHW.numel(), maps.numel()
    high = maps.float()
    return {
        "depthwise": (lambda: triton_depthwise._convolve(images_BCHW, weight_C49, bias_C, LOW), strip),
        "depthwise, weights' gradient": (lambda: triton_depthwise._weight_gradient(images_BCHW, images_BCHW), strip),
        "bias and GELU": (lambda: triton_norm.bias_gelu(maps, vector_C), tile),
        "bias and GELU, backward": (lambda: triton_norm._bias_gelu_backward(maps, maps, vector_C), tile),
        "scale and residual": (
            lambda: triton_norm.scale_add(maps, vector_C, vector_C, keep_B, high, torch.float32),
            tile,
        ),
        "scale and residual, backward": (
            lambda: triton_norm._scale_add_backward(high, maps, vector_C, vector_C, keep_B),
            tile,
        ),
    }


def _norms(channels: int) -> Calls:
    """Kernels that see whole rows."""
    rows = triton_norm._whole_rows(channels)["TILE_R"]
    maps, vector_C, numbers_N = _maps(channels, 1, rows), torch.zeros(channels), torch.zeros(rows)
    return {
        "norm": (lambda: triton_norm._layer_norm(maps, vector_C, vector_C, 1e-6, LOW), maps.numel()),
        "norm, backward": (
            lambda: triton_norm._layer_norm_backward(maps, maps, vector_C, numbers_N, numbers_N),
            maps.numel(),
        ),
    }


def _maps(channels: int, height: int, width: int) -> Tensor:
    return torch.ones(1, height, width, channels, dtype=LOW)
