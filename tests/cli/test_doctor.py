"""`engine doctor` tries things and says what would mend those that do not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli import doctor
from engine.cli.doctor import Finding
from engine.cli.main import main


def test_the_checks_of_this_machine_come_to_an_end_and_are_all_listed() -> None:
    findings = dict(doctor.examine())
    assert list(findings) == list(doctor.CHECKS)
    for name in ("packages", "decoding on the CPU", "exported files", "cores", "disk"):
        assert findings[name].status != "fail", findings[name]
    assert all(finding.remedy for finding in findings.values() if finding.status != "ok")


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_fails(monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    found: dict[str, Callable[[], Finding]] = {"the [b]fan": lambda: Finding(status, "it [hums]", "oil it")}  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda: ((name, check()) for name, check in found.items()))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == code
    for text in (status, "the [b]fan", "it [hums]", "-> oil it"):
        assert text in result.stdout
    assert ("failed: the [b]fan" in result.stderr) == (status == "fail")


def test_a_check_that_breaks_is_a_failure_and_the_others_go_on() -> None:
    def broken() -> Finding:
        raise RuntimeError("no such symbol")

    findings = dict(doctor.examine({"first": broken, "second": lambda: Finding("ok", "fine")}))
    assert findings["first"].status == "fail" and "no such symbol" in findings["first"].text
    assert findings["second"].status == "ok"


def test_a_cache_folder_that_cannot_be_made_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    (finding,) = (finding for _, finding in doctor.examine({"cache": doctor.CHECKS["cache folder"]}))
    assert finding.status == "fail" and "XDG_CACHE_HOME" in finding.remedy


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    required = ["click>=8", "no-such-package[all]; python_version > '3'", "nor-this-one; extra == 'tune'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required)
    (finding,) = (finding for _, finding in doctor.examine({"packages": doctor.CHECKS["packages"]}))
    assert (finding.status, finding.remedy) == ("fail", "pip install no-such-package")


def test_files_read_without_compiled_code_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.kernels.files.why_not", lambda: "no library")
    (finding,) = (finding for _, finding in doctor.examine({"files": doctor.CHECKS["reading files"]}))
    assert finding.status == "warn" and "no library" in finding.text and "g++" in finding.remedy
