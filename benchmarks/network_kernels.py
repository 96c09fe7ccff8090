"""The network's kernels, for `count_instructions.py`: launches small enough to be followed, of the shapes of a block.

A "pixel" is here one number of the map that a kernel makes, or, where it makes a gradient, of the map that this is of.
Maps are bf16, and scales, biases and residuals float32, as under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from engine.kernels import triton_depthwise, triton_norm

LOW = torch.bfloat16
CHANNELS = (128, 1024)  # convnext_base's in its first and in its last stage


def network(all_: bool) -> Iterator[Any]:
    """Every kernel, forward and backward; with `all_` for the channels of the last stage, too."""
    from count_instructions import Variant, launches  # which imports this

    def variant(name: str, run: Callable[[], object], numbers: int, registers: int, instructions: float) -> Any:
        (launch,) = launches(run)
        return Variant(name, launch, [(0, 0, 0)], numbers, most_registers=registers, most_instructions=instructions)

    tile = triton_depthwise._TILE_X, triton_depthwise._TILE_C
    # One strip, as high as a map of the third stage at 256 px.
    images_BCHW = _maps(1, tile[1], 16, tile[0]).permute(0, 3, 1, 2)
    weight_C49, bias_C = torch.zeros(tile[1], 49), torch.zeros(tile[1])
    yield variant(
        "depthwise",
        lambda: triton_depthwise._convolve(images_BCHW, weight_C49, bias_C, LOW),
        images_BCHW.numel(),
        168,
        110,
    )
    yield variant(
        "depthwise, weights' gradient",
        lambda: triton_depthwise._weight_gradient(images_BCHW, images_BCHW),
        images_BCHW.numel(),
        168,
        170,
    )
    for channels in CHANNELS if all_ else CHANNELS[:1]:
        yield from _between_products(channels, variant)


def _between_products(channels: int, variant: Callable[..., Any]) -> Iterator[Any]:
    tile = triton_norm._whole_rows(channels)
    maps = _maps(1, channels, 1, tile["TILE_R"])
    vector_C, numbers_N = torch.zeros(channels), torch.zeros(tile["TILE_R"])
    yield variant(
        f"norm of {channels}",
        lambda: triton_norm._layer_norm(maps, vector_C, vector_C, 1e-6, LOW),
        maps.numel(),
        64,
        40,
    )
    yield variant(
        f"norm of {channels}, backward",
        lambda: triton_norm._layer_norm_backward(maps, maps, vector_C, numbers_N, numbers_N),
        maps.numel(),
        128,
        80,
    )
    maps = _maps(1, 64, 4, 8)  # a tile, of which there are as many as channels ask for
    vector_C, keep_B = torch.zeros(64), torch.ones(1)
    if channels != CHANNELS[0]:
        return
    yield variant("bias and GELU", lambda: triton_norm.bias_gelu(maps, vector_C), maps.numel(), 64, 60)
    yield variant(
        "bias and GELU, backward", lambda: triton_norm._bias_gelu_backward(maps, maps, vector_C), maps.numel(), 96, 90
    )
    yield variant(
        "scale and residual",
        lambda: triton_norm.scale_add(maps, vector_C, vector_C, keep_B, maps.float(), torch.float32),
        maps.numel(),
        64,
        30,
    )
    yield variant(
        "scale and residual, backward",
        lambda: triton_norm._scale_add_backward(maps.float(), maps, vector_C, vector_C, keep_B),
        maps.numel(),
        128,
        60,
    )


def _maps(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.ones(batch, height, width, channels, dtype=LOW)
