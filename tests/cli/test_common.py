"""What commands show: progress on stderr, tables on stdout, and nobody's file names taken for markup."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from rich.console import Console

from engine.cli import common
from engine.cli.lazy import Door
from engine.cli.main import main


def test_progress_shows_counts_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(common, "console", lambda: terminal)
    with common.progress(unit="pictures", title="Indexing [red]") as meter:
        meter(0, 10)
        meter.advance(3)
        meter(5)
        meter.note("loss [0.5]")
    shown = screen.getvalue()
    for text in ("Indexing [red]", "pictures/s", "loss [0.5]", "5/10"):
        assert text in shown


def test_progress_stays_out_of_logs_and_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    common.console.cache_clear()
    with common.progress(3) as meter:
        meter(3)
    common.console.cache_clear()
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", "")


def test_a_table_is_a_result_and_its_cells_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    common.table("class", "images", rows=[("[b]차[/b]", 12345), ("b", 7)], title="[i]two")
    captured = capsys.readouterr()
    assert captured.out.startswith("[i]two\n")
    assert "[b]차[/b]" in captured.out and "12,345" in captured.out
    assert captured.err == ""


def commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        opened = command.open() if isinstance(command, Door) else command
        if isinstance(opened, click.Group):
            yield from ((f"{name} {below}", one) for below, one in commands(opened))
        else:
            yield name, opened


def test_every_file_of_a_command_line_is_expanded() -> None:
    found = {
        f"{name} {parameter.name}": parameter.type for name, command in commands(main) for parameter in command.params
    }
    words = ("path", "folder", "folders", "file", "source", "out", "data", "truth", "json_file", "csv_file", "page")
    files = {name: kind for name, kind in found.items() if name.split()[-1] in words or isinstance(kind, click.Path)}
    assert len(files) > 10
    assert [name for name, kind in files.items() if not isinstance(kind, common.FilePath)] == []


def test_a_file_is_expanded_where_the_shell_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert common.FilePath().convert("~/x", None, None) == Path("/home/me/x")
    assert common.FilePath(path_type=str).convert("$HOME/x", None, None) == "/home/me/x"
    with pytest.raises(click.BadParameter, match="no variable NOWHERE"):
        common.FilePath().convert("$NOWHERE/x", None, None)
