"""What a training step asks of a GPU, the learner's part with it, as `benchmarks/step_counts.py` counts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import step_counts
from engine.kernels import jpeg

OPTIONS = argparse.Namespace(batch=8, steps=2, size=32)


@pytest.mark.parametrize("decoded", ["gpu", "cpu"])
@pytest.mark.parametrize("extras", step_counts.EXTRAS)
def test_a_step_keeps_to_its_budget(decoded: str, extras: str) -> None:
    """Whatever extras the images drew: two copies, one of them the pixels where the CPU decodes, 40 launches beside the
    model's and the optimiser's, and nobody waits."""
    if decoded == "cpu" and not jpeg.available():
        pytest.skip(jpeg.why_not())
    samples = step_counts.photos(16)
    row = step_counts.train(step_counts.Case(decoded, extras), samples, OPTIONS)
    assert row["uploads"] == (1 if decoded == "gpu" else 2)
    assert (row["blocking_uploads"], row["pageable_uploads"]) == (0, 0)
    assert row["waits_in_steps"] == 0
    assert row["waits"] <= 1.5  # of an epoch of two steps, when it ends
    assert row["launches"] <= 40
    if extras == "none":
        assert row["launches"] == 2
    assert row["model_launches"] > 100


def test_scoring_waits_when_it_ends() -> None:
    row = step_counts.validate("gpu", step_counts.photos(16), OPTIONS)
    assert row["blocking_uploads"] == 0
    assert row["waits"] == 3.5  # of two batches: answers fetched twice, photos waited for, and a new network tried
