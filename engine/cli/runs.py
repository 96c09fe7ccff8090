"""`engine runs`: the experiment log."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, console_for, echo_json
from engine.files import write_text
from engine.track.runs import SORTS, PastRun, commonest, differences, find_runs, sort_runs

if TYPE_CHECKING:
    from engine.track.tracker import Scalar

_MOST_COLUMNS = 8  # of keys; more are listed below the table
_LONGEST_VALUE = 48  # of one, in characters
_NUMBER = re.compile(r"[0-9.,:/e+-]+[*%]?")  # also a share, a time, and "-" for none


@click.command(
    epilog="""\b
Examples:
  engine runs
  engine runs models/ experiments/ --sort log_loss
  engine runs --csv runs.csv
  engine runs --json | jq '.[] | {name, log_loss}'
"""
)
@click.argument("folders", nargs=-1, type=FilePath())
@click.option("--sort", type=click.Choice(SORTS), default="when", show_default=True, help="What comes first.")
@click.option("--csv", "csv_file", type=FilePath(dir_okay=False), help="Write the table there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, whole values of all keys that differ.")
def runs(folders: tuple[Path, ...], sort: str, csv_file: Path | None, as_json: bool) -> None:
    """List the runs in FOLDERS and below, their scores and what differs between their recipes.

    Without FOLDERS, those in the current folder. Scores are out of fold; those marked * are of a run that is not
    finished, the mean of each fold's best epoch so far.
    """
    found = sort_runs(find_runs(folders or (Path(),)), sort)
    differing = differences(found)
    if csv_file is not None:
        write_text(csv_file, _csv(found, differing))
    if as_json:
        values = [{key: of_runs[i] for key, of_runs in differing.items()} for i in range(len(found))]
        rows = [run.to_dict() | {"differs": own} for run, own in zip(found, values, strict=True)]
        echo_json(rows, indent=1)
    elif csv_file is not None:
        click.echo(f"{csv_file}: {len(found)} runs")
    elif not found:
        click.echo(f"There is no run in {', '.join(map(str, folders)) or 'this folder'}, nor in the folders below.")
    else:
        _print(found, differing)


def _csv(found: Sequence[PastRun], differing: dict[str, list[Scalar]]) -> str:
    text = io.StringIO()
    rows = [run.to_dict() | {key: of_runs[i] for key, of_runs in differing.items()} for i, run in enumerate(found)]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["folder", "name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _print(found: Sequence[PastRun], differing: dict[str, list[Scalar]]) -> None:
    """The table, with the keys that differ as columns when the terminal is wide enough for them, else below it. What is
    piped is as wide as it needs to be."""
    from rich.cells import cell_len

    console = console_for()
    columns = _columns(found)
    with_keys = columns | {key: [_short(value) for value in of_runs] for key, of_runs in differing.items()}
    fits = not console.is_terminal or _width(with_keys) <= console.width
    if as_columns := len(differing) <= _MOST_COLUMNS and fits:
        columns = with_keys
    lines = [_line(cells, columns) for cells in [list(columns), *map(list, zip(*columns.values(), strict=True))]]
    width = max(map(cell_len, lines))
    if not console.is_terminal:
        console.width = width
    console.print(lines[0], markup=False, style="bold", soft_wrap=True)
    for line in lines[1:]:
        console.print(line, markup=False, soft_wrap=True)
    if not all(run.finished for run in found):
        click.echo("\n* not finished: the mean of each fold's best epoch so far")
    if not as_columns:
        _print_keys(found, differing)


def _columns(found: Sequence[PastRun]) -> dict[str, list[str]]:
    """Column name -> cell of each run."""
    return {
        "#": [str(i) for i in range(1, len(found) + 1)],
        "name": [run.name for run in found],
        "when": [f"{run.when:%Y-%m-%d %H:%M}" for run in found],
        "folds": [f"{run.folds_done}/{run.folds}" for run in found],
        "epochs": [str(run.epochs) if run.finished else f"{run.epochs}/{run.epochs_planned}" for run in found],
        "log loss": [_score(run, "log_loss") for run in found],
        "accuracy": [_score(run, "accuracy") for run in found],
        "macro F1": [_score(run, "macro_f1") for run in found],
        "trained": [str(timedelta(seconds=round(run.seconds))) for run in found],
        "images/s": [f"{run.images_per_second:,.0f}" for run in found],
        "waited": ["-" if run.waited is None else f"{run.waited:.0%}" for run in found],
        "folder": [str(run.folder) for run in found],
    }


def _score(run: PastRun, metric: str) -> str:
    value = run.metrics.get(metric)
    return "-" if value is None else f"{value:.4f}{'' if run.finished else '*'}"


def _short(value: Scalar) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _width(columns: dict[str, list[str]]) -> int:
    from rich.cells import cell_len

    return sum(max(map(cell_len, (name, *cells))) + 2 for name, cells in columns.items())


def _line(cells: Sequence[str], columns: dict[str, list[str]]) -> str:
    """Cells set to the right where a column holds numbers. Hangul takes two columns of a terminal, so no str.ljust."""
    from rich.cells import cell_len

    parts = []
    for cell, (name, of_runs) in zip(cells, columns.items(), strict=True):
        gap = " " * (max(map(cell_len, (name, *of_runs))) - cell_len(cell))
        numbers = all(_NUMBER.fullmatch(text) for text in of_runs)
        parts.append(gap + cell if numbers else cell + gap)
    return "  ".join(parts).rstrip()


def _print_keys(found: Sequence[PastRun], differing: dict[str, list[Scalar]]) -> None:
    """What most runs have, then of each run what is its own."""
    usual = {key: commonest(of_runs) for key, of_runs in differing.items()}
    click.echo("\nusual values of the keys that differ")
    for key, value in usual.items():
        click.echo(f"  {key}: {_short(value)}")
    for i, run in enumerate(found):
        own = [f"  {key}: {_short(of_runs[i])}" for key, of_runs in differing.items() if of_runs[i] != usual[key]]
        click.echo("\n".join(["", f"{i + 1} {run.name} ({run.folder})", *(own or ["  all of them as usual"])]))
