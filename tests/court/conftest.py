"""A court over a copy of a finished run, some of whose labels were swapped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.court.court import Court
from engine.store.run_folder import RunFolder


@pytest.fixture(scope="session")
def opened(finished_run: Path) -> Court:
    """The court of the finished run. Read only."""
    return Court.open(RunFolder(finished_run))


@pytest.fixture
def court(opened: Court, tmp_path: Path) -> Court:
    """The same, whose decisions lie in a folder of their own."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("run.json", "samples.parquet", "oof.parquet", "ensemble.json"):
        shutil.copy(opened.run.path / name, folder / name)
    return Court(RunFolder(folder), opened.ranking, opened.photos, opened.alike)
