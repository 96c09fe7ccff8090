"""The benchmark of the court: what it swaps, and what its table says of the results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from engine.bench.envelope import read
from engine.predictions import LabelledPredictions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_court  # noqa: E402
import tables  # noqa: E402


def test_a_twentieth_of_the_labels_is_swapped_whatever_the_order_of_the_photos() -> None:
    random = np.random.default_rng(0)
    p_NC = random.dirichlet(np.ones(4), 200)
    labels = tuple("abcd"[one] for one in random.integers(4, size=200))
    ids = tuple(f"{row:03d}" for row in range(200))
    answers = LabelledPredictions(ids, ("a", "b", "c", "d"), p_NC, labels, np.zeros(200, np.int64))
    given = dict(zip(ids, labels, strict=True))
    for way in ("uniform", "confused"):
        found = bench_court.swapped(answers, way, 1)
        assert len(found) == 10 and all(given[id_] != label for id_, label in found.items())
        assert bench_court.swapped(answers.take(random.permutation(200)), way, 1) == found
        assert bench_court.swapped(answers, way, 2) != found
    likely = bench_court.mistaken_for(answers)
    assert all(label == likely[given[id_]] for id_, label in bench_court.swapped(answers, "confused", 1).items())


def test_the_court_is_ahead_of_cleanlab_in_the_results_kept() -> None:
    result = read(BENCHMARKS / "results" / "court_cpu.json")
    for way in ("uniform", "confused"):
        for seed in result.settings["seeds"]:
            rows = [row for row in result.rows if (row["way"], row["seed"]) == (way, seed)]
            (court,) = (row["average_precision"] for row in rows if row["row"] == "court")
            assert court > max(row["average_precision"] for row in rows if row["row"].startswith("cleanlab"))
    assert tables.court_table(result).count("\n") >= 8
