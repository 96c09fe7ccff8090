"""docs/performance.md says what the results say, and what no result says it owns up to."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import performance  # noqa: E402


def test_the_page_is_made_from_the_results() -> None:
    assert performance.PAGE.read_text("utf-8") == performance.page(), "run python docs/performance.py"


def test_pictures_are_of_the_results_that_are_there() -> None:
    shown = re.findall(r"\(performance/(\w+)\.svg\)", performance.page())
    assert sorted(shown) == sorted(performance.pictures()), "a picture is shown where its result is there"
    for name in performance.pictures():
        drawn = (performance.PICTURES / f"{name}.svg").read_text("utf-8")
        assert performance.digest(name) in drawn, f"{name}.svg is of older rows: run python docs/performance.py"


def test_commands_of_the_page_name_programs_that_exist() -> None:
    programs = re.findall(r"python ((?:benchmarks|docs)/\w+\.py)", performance.page())
    assert programs and all((ROOT / program).is_file() for program in programs)


def test_without_results_every_section_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(performance.frame, "RESULTS", tmp_path)
    page = performance.page()
    assert page.count(performance.NOT_YET) >= len(performance.SECTIONS) and "| " not in page
    assert performance.pictures() == {}


def test_a_section_shows_a_new_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = (performance.frame.RESULTS / "step_counts.json",)
    shutil.copy(source, tmp_path / "gpu_checks.json")
    monkeypatch.setattr(performance.frame, "RESULTS", tmp_path)
    checks = "\n".join(performance.right())
    assert "model launches" in checks and performance.NOT_YET not in checks
