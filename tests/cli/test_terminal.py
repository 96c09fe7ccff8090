"""What a command is started in (locale, streams, width) changes how its output looks, and nothing else."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from engine.cli import common, terminal

ROOT = Path(__file__).resolve().parents[2]
PLAIN_C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def photos(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    for number, name in enumerate(("드레스", "b")):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray(picture(number)).save(tmp_path / "d" / name / "é.jpg")
    return tmp_path / "d"


def engine(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`engine COMMAND`, by a shell in `folder`."""
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONIOENCODING")}
    everything = own | {"PYTHONPATH": str(ROOT)} | environment
    program = f'"{sys.executable}" -m engine.cli.main'
    line = f"{program} {command}".replace("{ENGINE}", program)
    return subprocess.run(line, shell=True, cwd=folder, env=everything, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, PLAIN_C], ids=["ascii output", "C locale"])
def test_a_terminal_that_is_not_utf8_is_written_to_in_its_own_letters(
    photos: Path, environment: dict[str, str]
) -> None:
    done = engine("data index d", photos.parent, **environment)
    assert done.returncode == 0, done.stderr
    assert "???" in done.stdout.decode("ascii") and b"Traceback" not in done.stderr


def test_json_has_escapes_where_the_terminal_has_no_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, written in (("utf-8", '{"차": 1}'), (terminal.ASCII, '{"\\ucc28": 1}'), ("cp949", '{"차": 1}')):
        file = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding, errors="replace"))
        common.echo_json({"차": 1})
        sys.stdout.flush()
        assert file.getvalue().decode(encoding) == written + "\n"


def test_an_error_about_a_name_is_readable_under_any_locale(photos: Path) -> None:
    done = engine("data index d/드레스/없다", photos.parent, **PLAIN_C)
    assert done.returncode == 1
    assert "d/???/??: no such folder" in done.stderr.decode("ascii")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>&-"])
def test_streams_may_be_closed(photos: Path, closed: str) -> None:
    both = f"data names d names.csv {closed}; test $? = 0 && {{ENGINE}} data index nothing {closed}"
    assert engine(both, photos.parent).returncode == 1
    assert (photos.parent / "names.csv").read_text("utf-8").splitlines()[:2] == ["label,name", "b,b"]


def test_a_reader_that_leaves_ends_the_command_without_a_word(photos: Path) -> None:
    done = engine("data index d | true", photos.parent)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


def test_a_full_disk_behind_stdout_is_told(photos: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = engine("data index d --json > /dev/full", photos.parent)
    assert done.returncode == 1 and done.stderr.decode().strip() == "No space left on device"


@pytest.mark.parametrize("columns", ["0", "1", "7", "abc", "-3", ""])
def test_a_width_that_shows_nothing_is_not_believed(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    common.console.cache_clear()
    assert common.console().width >= 40
    common.console.cache_clear()
    common.table("class", "images", rows=[("a", 12345)])
    assert "12,345" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_no_colour_where_none_is_wanted(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "dumb")
    console: Console = common.console_for()
    console.print("text", style="bold red")
    assert capsys.readouterr().out == "text\n"
