"""What commands show: progress on stderr, tables on stdout, and nobody's file names taken for markup."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from engine.cli import common


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
