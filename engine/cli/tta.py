"""`engine tta`: which views help, measured on what each fold held out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, ViewNames, progress, set_option, table, tell
from engine.cli.screen import Screen, stop_on_signals

if TYPE_CHECKING:  # they import torch
    from engine.intervals import Difference
    from engine.tune.views import Measured, Row, Selection

_WORTH = 0.1


@click.command(
    epilog="""\b
Examples:
  engine tta models/
  engine tta models/ --dry-run --views plain,flip,zoom_in,scale_1.25,scale_1.25_flip
  engine tta models/ --keep 3

\b
Each fold's models are shown what they held out, once, in every candidate view. Views are then compared alone, added to
the plain one, and put together one by one for as long as each pays for its time. The list is judged by images that it
was not chosen on. Only if it is better than what the run answers with now is it written into the run, whose
out-of-fold predictions and all that is fitted on them are then made again. `engine infer` does as the run does.
"""
)
@click.argument("models", type=FilePath(file_okay=False), default="models")
@set_option
@click.option("--views", type=ViewNames(), help="Candidates, by name.  [default: all views there are]")
@click.option("--keep", type=click.IntRange(1), default=5, show_default=True, help="Views in the list, at most.")
@click.option(
    "--worth",
    type=click.FloatRange(0, 100),
    default=_WORTH,
    show_default=True,
    help="By how many percent a view has to lower the log loss for each time that the plain one takes.",
)
@click.option("--dry-run", is_flag=True, help="Only show; change nothing.")
def tta(
    models: Path, sets: tuple[str, ...], views: tuple[str, ...] | None, keep: int, worth: float, dry_run: bool
) -> None:
    """Measure which views of images are worth their time to the run in MODELS, and have it answer with them."""
    from engine.ranks import alone
    from engine.training.run import train
    from engine.tune.views import measure, open_run, select, with_views

    with alone() as ranks:
        with progress(title="indexing") as meter:
            prepared = open_run(models, sets, meter)
        present = prepared.recipe.predict.names
        with stop_on_signals() as stop, Screen() as screen:
            measured = measure(prepared, views or (), ranks, screen, stop)
        selection = select(measured, present, views or (), keep, worth / 100)
        _print(measured, selection)
        if not _told(selection, dry_run):
            return
        with stop_on_signals() as stop, Screen() as screen:
            result = train(with_views(prepared, selection.chosen), ranks, screen, stop)
    scores = f"log loss {result.metrics['log_loss']:.4f}, accuracy {result.metrics['accuracy']:.4f}"
    click.echo(f"{models} answers with {_listed(selection.chosen)}: out of fold {scores}")
    value = shlex.quote(f"predict.views={json.dumps(selection.chosen)}")
    click.echo(f"To have `engine train` on this recipe keep them: --set {value}")


def _told(selection: Selection, dry_run: bool) -> bool:
    """Say what becomes of the list; whether it is taken."""
    chosen, present = _listed(selection.chosen), _listed(selection.present.names)
    if set(selection.chosen) == set(selection.present.names):
        click.echo(f"the run answers with the best list already: {present}")
    elif not selection.is_taken:
        click.echo(f"{chosen} is not better than what the run answers with now, which stays: {present}")
    elif dry_run:
        click.echo(f"better than {present}: {chosen}; nothing is changed (--dry-run)")
    return selection.is_taken and not dry_run


def _print(measured: Measured, selection: Selection) -> None:
    tell(*(f"not asked: {name}: {reason}" for name, reason in measured.left_out.items()))
    images = len(next(iter(measured.answers.values())))
    columns = ("views", "log loss", "over plain", "", "time")
    lists = (
        (f"each view alone, on {images:,} images that were held out", selection.alone),
        ("plain and another one", selection.added),
        ("one after the other, as long as each pays for its time", selection.steps),
        ("what the run answers with now", (selection.present,)),
    )
    for title, rows in lists:
        table(*columns, rows=[_cells(row) for row in _sorted(rows, title)], title=title)
    click.echo(f"A time of 1 is that of the plain view: {1000 * measured.seconds_each:.1f} ms an image here")
    judged: list[tuple[str, ...]] = [
        ("than plain", *_judged(selection.over_plain)),
        ("than now", *_judged(selection.nested)),
    ]
    title = "the selection, each image answered by views that were chosen without it"
    table("", "log loss", "difference", "verdict", rows=judged, title=title)


def _sorted(rows: Sequence[Row], title: str) -> Sequence[Row]:
    """Steps in their order, others with the best one first."""
    return rows if title.startswith("one after") else sorted(rows, key=lambda row: row.log_loss)


def _cells(row: Row) -> tuple[str, ...]:
    loss, difference, verdict = _judged(row.difference)
    if row.names == ("plain",):
        difference = ""
    told = verdict if verdict in ("better", "worse") else ""
    return " + ".join(row.names), loss, difference, told, f"{row.cost:.2f}"


def _judged(difference: Difference) -> tuple[str, str, str]:
    low, high = difference.low, difference.high
    between = "" if low is None or high is None else f" ({low:+.4f} to {high:+.4f})"
    return f"{difference.second:.4f}", f"{difference.difference:+.4f}{between}", difference.verdict


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
