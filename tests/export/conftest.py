"""One export of the finished run, for all who look at such a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.export.write import Wanted, models_of, write


@pytest.fixture(scope="session")
def exported_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`finished_run` as an ONNX file: all folds and epochs, two views, neighbours and calibration. Read only."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    wanted = Wanted("onnx")
    write(models_of(finished_run, wanted)[0], path, wanted)
    return path
