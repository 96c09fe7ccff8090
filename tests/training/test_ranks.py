"""Two processes train as one does on twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine.predictions import Predictions
from engine.recipe.load import dump_recipe
from engine.recipe.sections import Recipe
from engine.store.epochs import EpochAnswers
from engine.store.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]


def torchrun(recipe: Path, processes: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, "-m", "engine.cli.main", "train", str(recipe)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


def test_two_processes_answer_as_one_does(recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path) -> None:
    """Photos stay decoded: the one's in memory, those of the two in files that they share."""

    def made(name: str, batch: int, **decode: str) -> Recipe:
        second = make_stage(batch=batch // 2, accumulate=2, epochs=2, size=(40, 32), head_only=1)
        stages = [make_stage(batch=batch, epochs=1), second]
        train = {"ema": 0.8, "precision": "fp32"}
        return recipe(output=str(tmp_path / name), stage=stages, train=train, decode=decode)

    run(made("one", 8, cache="host"))
    path, kept = tmp_path / "recipe.toml", tmp_path / "kept"
    path.write_text(dump_recipe(made("two", 4, cache="disk", cache_dir=str(kept))), "utf-8")
    done = torchrun(path, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("log loss of the class shares") == 1  # one of them speaks
    assert kept.is_dir() and not [*kept.iterdir()]

    one, two = tmp_path / "one", tmp_path / "two"
    table = pq.read_table(one / "oof.parquet")
    assert pq.read_table(two / "oof.parquet").select(["id", "fold", "label"]) == table.select(["id", "fold", "label"])
    expected, found = (Predictions.read(folder / "oof.parquet") for folder in (one, two))
    np.testing.assert_allclose(found.probabilities_NC, expected.probabilities_NC, atol=2e-3)
    logs = [[json.loads(line) for line in (f / "log.jsonl").read_text("utf-8").splitlines()] for f in (one, two)]
    for alone, together in zip(*logs, strict=True):
        assert alone["images"] == together["images"]
        np.testing.assert_allclose(together["train_loss"], alone["train_loss"], rtol=2e-3)
    by_epoch = [EpochAnswers.read(RunFolder(folder).fold(0).epoch_answers) for folder in (one, two)]
    assert by_epoch[1].epochs == (0, 1, 2) and sorted(by_epoch[0].ids) == sorted(by_epoch[1].ids)
    np.testing.assert_allclose(by_epoch[1].of_ids(by_epoch[0].ids).own_NE, by_epoch[0].own_NE, atol=2e-3)
