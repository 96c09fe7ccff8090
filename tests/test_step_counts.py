"""What a training step asks of a GPU, the learner's part with it, as `benchmarks/step_counts.py` counts it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import step_counts

OPTIONS = argparse.Namespace(batch=8, steps=2, size=32)


@pytest.mark.parametrize("extras", ["none", "blur, noise"])
def test_a_step_has_few_uploads_and_nothing_blocks(extras: str) -> None:
    samples = step_counts.photos(16)
    row = step_counts.train(step_counts.Case("gpu", extras), samples, OPTIONS)
    assert row["blocking_uploads"] == 0
    assert row["waits"] == 0.5  # one, when the epoch ends
    if extras == "none":
        assert (row["uploads"], row["pageable_uploads"], row["launches"]) == (2, 0, 2)
    assert row["model_launches"] > 100


def test_scoring_waits_when_it_ends() -> None:
    row = step_counts.validate("gpu", step_counts.photos(16), OPTIONS)
    assert row["blocking_uploads"] == 0
    assert row["waits"] == 3.5  # of two batches: answers fetched twice, photos waited for, and a new network tried
