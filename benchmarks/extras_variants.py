"""Launches of the extras' kernels for `count_instructions.py`: each operation in each stage that it takes part in.

A pixel has three values. What a stage costs depends on the operation and, for blurs and motion, on their radius; the
strengths here are the middle of a recipe's default ranges. What the pixels hold changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

# The tool's own file, which names this one.
from count_instructions import Launch, Variant, launches  # type: ignore[import-not-found,unused-ignore]
from engine.kernels import triton_extras
from engine.kernels.extras import Extra, jobs_of

SIZE = 256  # of the images
STRENGTHS = {
    Extra.BLUR: 1.25,
    Extra.MOTION: 7.0,
    Extra.NOISE: 0.035,
    Extra.JPEG: 45.0,
    Extra.CLAHE: 2.5,
    Extra.EQUALIZE: 0.0,
    Extra.ELASTIC: 0.008,
    Extra.SHARPNESS: 1.5,
    Extra.AUTO_CONTRAST: 0.0,
}
# Registers that a thread may take; spilled is nothing.
REGISTERS = {"count": 64, "table": 96, "shift": 64, "smooth": 96, "change": 128, "chroma": 168, "block": 168}


def variants() -> Iterator[Variant]:
    for op in STRENGTHS:
        for launch in launches_of(op):
            stage = launch.kernel.__name__.strip("_").removesuffix("_kernel")
            name = f"{op.name.lower()}: {stage}" + (" down" if launch.arguments.get("DOWN") else "")
            blocks, pixels = followed(stage)
            yield Variant(name, launch, blocks, pixels, most_registers=REGISTERS[stage])


def launches_of(op: Extra) -> Sequence[Launch]:
    """All that one image needs."""
    ops, args = torch.tensor([[op]], dtype=torch.int32), torch.tensor([[STRENGTHS[op]]])
    jobs = jobs_of(ops, args, torch.tensor([12345]), SIZE, SIZE)
    seeded = torch.Generator().manual_seed(0)
    places = torch.rand((jobs.places, SIZE, SIZE, 3), generator=seeded)
    pixels = torch.empty((1, SIZE, SIZE, 3), dtype=torch.uint8)
    found: Sequence[Launch] = launches(partial(triton_extras.triton_extras, jobs, jobs.tensors, places, pixels))
    return found


def followed(stage: str) -> tuple[list[tuple[int, int, int]], int]:
    """Places in the grid, and how many pixels they make together: rows from edge to edge in the middle of the image."""
    if stage in ("count", "table"):
        return [(27, channel, 0) for channel in range(3)], 1024  # a tile of 32 x 32
    if stage == "chroma":
        return [(32 + i, 0, 0) for i in range(8)], 32 * SIZE
    if stage == "block":
        return [(112 + i, 0, 0) for i in range(16)], 16 * SIZE
    tiles = 3 * SIZE // triton_extras._TILE_V
    return [(16 * tiles + i, 0, 0) for i in range(tiles)], triton_extras._TILE_Y * SIZE
