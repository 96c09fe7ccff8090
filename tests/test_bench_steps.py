"""The benchmark of ways of taking a step: each way is a recipe, and what it measures is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.recipe.load import parse_recipe

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_steps


@pytest.mark.parametrize("name", bench_steps.WAYS)
def test_each_way_can_be_written_in_a_recipe(name: str) -> None:
    keys = bench_steps.WAYS[name]
    stage = {"size": 32, "batch": 2, "epochs": 1, "lr": 1e-4} | keys.get("stage", {})
    parse_recipe({section: keys[section] for section in ("model", "train") if section in keys} | {"stage": [stage]})


def test_ways_take_turns_and_the_host_is_told_apart() -> None:
    rows = bench_steps.measured(bench_steps.ON_CPU, "test_convnext", 32, 2, repeats=1, steps=1)
    assert [row["way"] for row in rows] == list(bench_steps.ON_CPU)
    assert rows[0]["over_plain"] == 1.0 and all(row["images_per_second"] > 0 for row in rows)
    assert all(row["peak_mib"] > 0 and row["peak_is"] == "estimated" for row in rows)
    host = bench_steps.host_rows("test_convnext", repeats=1)
    assert [row["host"] for row in host] == ["clipping", "optimiser", "average"]
    assert len({row["tensors"] for row in host}) == 1 and all(row["ms"] > 0 for row in host)
