"""Answers that are the same to the last bit: what they cost on the CPU.

    python benchmarks/bench_answers.py [--backbones a,b] [--sizes 96,224] [--json FILE]

Two ways of asking the same model about the same images take turns: "batch", all images at once by all threads of torch,
as is usual; and "parts", as `engine/inference/parts.py` does it. "differ" are the answers of 64 that get other bits
when the same images come in batches of 7. "one photo" is the time to answer about one, in ms: the least of its turns.

Machines are shared: of each way it is the fastest turn that counts, which a neighbour disturbed least.
"""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from torch import Tensor

import frame
from engine.bench.envelope import Row
from engine.inference.parts import InParts
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection

CLASSES, COUNT, OTHER = 17, 64, 7
BACKBONES = ("tf_efficientnet_lite0", "convnext_atto")
HEADINGS = ("backbone", "size", "way", "images/s", "one photo, ms", "differ")


def ways(model: Classifier) -> dict[str, object]:
    """By name, what answers about images (B, 3, H, W) with logits (B, C)."""
    runtime = Runtime(frame.CPU, bf16=False, channels_last=True, compile=False)
    parts = InParts(lambda images_BCHW: (model(images_BCHW),), runtime)
    return {"batch": torch.no_grad()(model), "parts": lambda images_BCHW: parts(images_BCHW)[0]}


def measured(backbone: str, size: int, repeats: int) -> list[Row]:
    torch.manual_seed(0)
    model = build_model(ModelSection(backbone=backbone, pretrained=False), CLASSES, (size, size)).eval()
    model = model.to(memory_format=torch.channels_last)
    images_BCHW = torch.randn(COUNT, 3, size, size).contiguous(memory_format=torch.channels_last)
    asks = ways(model)
    many = [frame.Contender(name, lambda ask=ask: ask(images_BCHW), COUNT) for name, ask in asks.items()]
    single = [frame.Contender(name, lambda ask=ask: ask(images_BCHW[:1]), 1) for name, ask in asks.items()]
    frame.take_turns(many, repeats)
    frame.take_turns(single, 4 * repeats)
    rows = []
    for (name, ask), whole, one in zip(asks.items(), many, single, strict=True):
        differ = _differ(ask(images_BCHW), torch.cat([ask(some) for some in images_BCHW.split(OTHER)]))
        rows.append(
            Row(
                f"{backbone} {size} {name}",
                {"images_per_s": max(whole.windows), "one_ms": 1000 * min(one.seconds), "differ": differ},
            )
        )
    return rows


def _differ(a_BC: Tensor, b_BC: Tensor) -> int:
    return int((a_BC != b_BC).any(1).sum())
