"""The programs in examples/ do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine import Predictor
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]


def test_ray_answers_as_the_predictor_does(
    tmp_path: Path, fold: Callable[..., Checkpoint], picture: Callable[..., np.ndarray]
) -> None:
    pytest.importorskip("ray.data")
    for number in (0, 1):
        checkpoint.save(tmp_path / "models" / str(number), fold(number))
    paths = [str(tmp_path / f"{number}.png") for number in range(12)]
    for number, path in enumerate(paths[:-1]):
        Image.fromarray(picture(number)).save(path)
    pq.write_table(pa.table({"id": [f"id-{i}" for i in range(12)], "path": paths}), tmp_path / "images.parquet")
    program = [sys.executable, ROOT / "examples" / "ray_map_batches.py"]
    arguments = [tmp_path / "models", tmp_path / "images.parquet", tmp_path / "answers", "--batch", "5"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}  # no less than others get
    command = [*map(str, program + arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "answers").to_pandas().set_index("id")
    assert sorted(table.index) == sorted(f"id-{i}" for i in range(12))
    assert "cannot be read" in table.loc["id-11", "status"] and (table["status"] == "ok").sum() == 11
    predictor = Predictor(tmp_path / "models")
    alone = predictor(paths[:-1])
    found = table.loc[[f"id-{i}" for i in range(11)], [f"p:{name}" for name in predictor.classes]]
    np.testing.assert_allclose(found, alone.probabilities_NC, atol=1e-5)
