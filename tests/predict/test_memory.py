"""The program that measures the memory of predictions, on a few hundred images."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.bench.envelope import read
from engine.predictions import Predictions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_infer  # noqa: E402


@pytest.mark.parametrize("form", ["parquet", "csv", "list"])
def test_every_image_of_every_form_is_listed_and_answered(tmp_path: Path, form: str) -> None:
    row = bench_infer.measure(300, form, tmp_path)
    assert row["images"] == 300 and row["form"] == form and 0 <= row["measured"] < 2**30
    ids = Predictions.read(tmp_path / "answers" / "predictions.parquet").ids
    assert len(set(ids)) == 300 and ids == tuple(sorted(ids, key=lambda id_: (len(id_), id_)))


def test_memory_was_flat_where_it_was_measured() -> None:
    rows = read(BENCHMARKS / "results" / "infer_memory_cpu.json").rows
    measured = {row["images"]: row["measured"] for row in rows if row["form"] == "parquet"}
    assert min(measured) <= 10_000 and max(measured) >= 1_000_000
    assert max(measured.values()) - measured[100_000] < bench_infer.BOUND
