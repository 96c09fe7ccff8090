"""The front door: quick to answer, clear about errors, honest in its exit code."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from engine.cli.common import recipe_argument, set_option
from engine.cli.lazy import Door
from engine.cli.main import main
from engine.errors import DataError, EngineError, Interrupted, RecipeError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "timm", "kornia", "nvidia", "pandas", "pyarrow", "numpy", "pydantic", "rich", "cv2")
DOORS = [command for command in main.commands.values() if isinstance(command, Door)]


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["completion", "bash"], ["trian"], []], ids=str)
def test_the_front_door_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib, json, os, sys\n"
        "from engine.cli.main import main\n"
        "with contextlib.redirect_stdout(open(os.devnull, 'w')), contextlib.redirect_stderr(sys.stdout):\n"
        f"    with contextlib.suppress(SystemExit): main({arguments!r}, prog_name='engine')\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert set(json.loads(python(code))) & set(HEAVY) == set()


def test_help_lists_the_commands_in_order_and_the_exit_codes() -> None:
    text = CliRunner().invoke(main, ["--help"]).output
    listed = [line.split()[0] for line in text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()]
    assert " ".join(listed) == (
        "init train distill ensemble infer score vote preview runs lr-find compare sweep tta bench data "
        "export verify doctor completion"
    )
    for word in ("Examples:", "0  success", "1  the run failed", "2  the command line", "3  interrupted"):
        assert word in text


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_every_command_opens_and_shows_examples(door: Door) -> None:
    command = door.open()
    assert command.name == door.name
    inside = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for one in inside:
        text = CliRunner().invoke(one, ["--help"]).output
        assert "Examples:" in text and f"engine {'data ' if one is not command else ''}{one.name}" in text


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    result = CliRunner().invoke(main, ["trian"])
    assert result.exit_code == 2
    assert "Did you mean 'train'?" in result.stderr


def failing(error: BaseException) -> click.Command:
    """A command that reads a recipe and fails."""

    @click.command("fail")
    @recipe_argument
    @set_option
    def fail(recipe: Path, sets: tuple[str, ...]) -> None:
        raise error

    return fail


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> Result:
    monkeypatch.setitem(main.commands, "fail", failing(error))
    return CliRunner().invoke(main, [*options, "fail", "cars.toml"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EngineError("no room for the checkpoint"), 1, "no room for the checkpoint"),
        (DataError("photos/[bold]a.jpg: unreadable"), 1, "photos/[bold]a.jpg: unreadable"),
        (RecipeError("cars.toml:3: train.ema = 2"), 2, "cars.toml:3: train.ema = 2"),
        (RecipeError("--set train.ema=2: train.ema = 2"), 2, "--set train.ema=2: train.ema = 2"),
        # A room knows keys but not the file they came from.
        (
            RecipeError("data.folds.count = 5: the class 차 has 3"),
            2,
            "cars.toml: data.folds.count = 5: the class 차 has 3",
        ),
        (Interrupted("stopped; the same command goes on"), 3, "stopped; the same command goes on"),
        (KeyboardInterrupt(), 3, "Interrupted."),
        (PermissionError(errno.EACCES, "Permission denied", "/data/a.jpg"), 1, "/data/a.jpg: Permission denied"),
        (OSError(errno.EISDIR, "Is a directory", ".writing-1-page", None, "page"), 1, "page: Is a directory"),
        (FileExistsError(errno.EEXIST, "File exists", "out"), 1, "out: is a file, and should be a folder"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (FileNotFoundError("models/: no fold models here"), 1, "models/: no fold models here"),
        (ModuleNotFoundError("No module named 'timm.x'", name="timm.x"), 1, "The module timm.x is missing"),
    ],
    ids=repr,
)
def test_an_error_becomes_its_message_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    result = run(monkeypatch, error)
    assert result.exit_code == code
    assert result.stderr.startswith(message) and len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_fault_of_the_engine_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (ValueError("x"), ModuleNotFoundError("No module named 'engine.nowhere'", name="engine.nowhere")):
        assert run(monkeypatch, fault).exception is fault


def test_debug_shows_where_an_error_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    error = DataError("unreadable")
    assert run(monkeypatch, error, "--debug").exception is error
    monkeypatch.setenv("ENGINE_DEBUG", "1")
    assert run(monkeypatch, error).exception is error


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_the_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_ENGINE_COMPLETE={shell}_complete" in result.stdout


def test_commands_and_recipe_keys_are_completed() -> None:
    complete = ShellComplete(main, {}, "engine", "_ENGINE_COMPLETE").get_completions
    assert [item.value for item in complete([], "d")] == ["distill", "data", "doctor"]
    assert [item.value for item in complete(["data", "index", "--set"], "stage.0.ba")] == ["stage.0.batch="]
