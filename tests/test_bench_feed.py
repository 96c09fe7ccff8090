"""The benchmark of what the host can feed, on a few photos: what it counts, and that its GPU has nothing to do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

from engine.recipe.load import load_recipe

from .conftest import MakePhoto

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench_feed
from idle_gpu import DEVICE, IdleGpu

OPTIONS = argparse.Namespace(batch=6, steps=2, windows=2, operations=3)


def test_every_step_takes_a_batch_and_its_copies_and_launches(photo: MakePhoto) -> None:
    paths = [photo(f"{i}.jpg", 40 + i, 60) for i in range(8)]
    recipe = load_recipe(bench_feed.RECIPE, ["augment.extras={}"])
    with IdleGpu(0, 0) as gpu:
        rows = {(row["what"], row["decoded"]): row for row in bench_feed.measured(recipe, paths, gpu, OPTIONS)}
    assert len(rows) == 7
    on_gpu, on_cpu = rows["both", "gpu"], rows["both", "cpu"]
    assert on_gpu["launches"] == on_cpu["launches"] == 2  # the look and the pass
    assert 1 <= on_gpu["copies"] <= 2 and on_cpu["copies"] == on_gpu["copies"] + 1  # the slab
    assert all(len(row["windows"]) == 2 for row in rows.values() if "windows" in row)
    assert rows["turnover", "gpu"]["second_s"] > 0


def test_tensors_on_the_idle_gpu_say_that_they_are_there() -> None:
    with IdleGpu(0, 0) as gpu:
        made = torch.empty(6, device=DEVICE)
        moved = torch.ones(3).to(DEVICE, non_blocking=True)
        for tensor in (made, made[:4].view(2, 2), moved, moved.to(DEVICE), moved.view(torch.int32)):
            assert tensor.device == DEVICE and tensor.is_cuda
        assert torch.empty(3, pin_memory=True).device == torch.ones(2).to(torch.float16).device == torch.device("cpu")
        assert gpu.copies == 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.empty(1, device=torch.device("cuda", 99))
