"""`engine sweep`: a search for the best values of a recipe's keys."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from engine.cli.common import FilePath, console, progress, recipe_argument, set_option, table
from engine.cli.screen import Screen, stop_on_signals
from engine.events import Event, RunBegan
from engine.recipe.load import load_recipe
from engine.recipe.sections import Metric
from engine.tune.trials import TrialBegan, TrialEnded, TrialResult, sets_line

if TYPE_CHECKING:
    from engine.tune.sweep import Sweep


@click.command(
    epilog="""\b
Examples:
  engine sweep recipe.toml --over 'stage.*.lr=log:1e-5..1e-3' --trials 20
  engine sweep recipe.toml --over 'train.ema=0.99|0.995|0.999' \\
      --over 'model.subcenters=int:1..5' --over 'train.label_smoothing=0.0..0.1'

\b
What a key is changed over:
  0.0..0.1         numbers between the two
  log:1e-5..1e-3   the same, evenly by their logarithm
  int:1..5         whole numbers, both ends included
  a|b|c            one of these

The first ten trials are drawn at random, the others where the best ones were (TPE). A trial that is worse than the
median of the earlier ones at the same epoch is given up. Ctrl-C stops it (exit code 3), and the same command goes on;
with a larger --trials it adds to what is there.
"""
)
@recipe_argument
@set_option
@click.option("--over", multiple=True, metavar="KEY=RANGE", required=True, help="What to change. May be repeated.")
@click.option("--trials", type=click.IntRange(1), default=20, show_default=True, help="Trials in all.")
@click.option("--fold", type=click.IntRange(0), default=0, show_default=True, help="The fold each trial trains.")
@click.option(
    "--metric", type=click.Choice(get_args(Metric)), help="What to get better in.  [default: the recipe's train.select]"
)
@click.option("--out", type=FilePath(file_okay=False), default="sweep", show_default=True, help="Folder.")
def sweep(
    recipe: Path, sets: tuple[str, ...], over: tuple[str, ...], trials: int, fold: int, metric: str | None, out: Path
) -> None:
    """Search for the values of RECIPE's keys that score best on one fold."""
    changes = [f"train.select={metric}"] if metric is not None else []
    resolved = load_recipe(recipe, (*sets, *changes))
    from engine.ranks import alone
    from engine.tune.sweep import Sweep, need_optuna

    need_optuna()
    search = Sweep(resolved, over, out, fold, str(recipe))
    screen = _Trials(trials)
    with alone() as ranks:
        with progress(title="indexing") as meter:
            search.begin(meter)
        with stop_on_signals() as stop, screen:
            rows = search.run(trials, ranks, screen, stop)
    _print(search, rows, recipe, (*sets, *changes))


class _Trials(Screen):
    """Draws a sweep: a title, the run and a line of what it came to for each trial."""

    def __init__(self, trials: int) -> None:
        super().__init__()
        self._trials = trials

    def hear(self, event: Event) -> None:
        match event:
            case TrialBegan(number=number, sets=sets, goes_on=goes_on):
                title = f"trial {number} of {self._trials}{' goes on' if goes_on else ''}: {' '.join(sets)}"
                super().hear(RunBegan(title))
            case TrialEnded(result=row, best=best):
                score = "" if row.value is None else f"  {row.value:.4f}"
                note = f": {row.error}" if row.error else "  best so far" if best else ""
                console().print(f"trial {row.number}  {row.state}{score}{note}", markup=False, soft_wrap=True)
            case _:
                super().hear(event)


def _print(search: Sweep, rows: list[TrialResult], recipe: Path, sets: Sequence[str]) -> None:
    best = search.best(rows)
    cells: list[tuple[object, ...]] = []
    for row in search.ranked(rows):
        values = (one.partition("=")[2] for one in row.sets)
        score = "" if row.value is None else f"{row.value:.4f}"
        cells.append((row.number, *values, score, row.state, row.epochs, f"{row.seconds:,.1f}"))
    columns = (*_short([dimension.key for dimension in search.space]), search.metric.replace("_", " "))
    table("trial", *columns, "state", "epochs", "s", rows=cells, title=f"{len(rows)} trials on fold {search.fold}")
    for row in rows:
        if row.error:
            click.echo(f"trial {row.number} failed: {row.error}")
    click.echo(f"Trials: {search.folder / 'trials.csv'}, trials.json, history.png")
    if best is None:
        click.echo("No trial was trained to the end: there is no best one yet.")
        return
    click.echo(f"The best, trial {best.number}, as a recipe: {search.folder / 'best.toml'}")
    click.echo(f"Train it: engine train {shlex.quote(str(recipe))} {sets_line((*sets, *best.sets))}")


def _short(keys: Sequence[str]) -> list[str]:
    """The last word of each key, or all of it where two have the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return [word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)]
