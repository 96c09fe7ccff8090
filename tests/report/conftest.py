"""What tests of pages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.report.result import write_report


@pytest.fixture(scope="session")
def reported(pictured_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the run that is pictured, with heat."""
    return write_report(pictured_run, tmp_path_factory.mktemp("report") / "report.html")
