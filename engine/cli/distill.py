"""`engine distill`: a trained ensemble teaches one small model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, progress, recipe_argument, set_option, shown_interval, table, tell
from engine.cli.score import in_words
from engine.cli.screen import Screen, stop_on_signals
from engine.errors import EngineError, RecipeError
from engine.recipe.load import load_recipe

if TYPE_CHECKING:  # they import torch, and a mistyped recipe must not wait for that
    from engine.recipe.sections import Recipe
    from engine.tune.student import Lesson, Side

_TIMED = 256  # photos that both are timed with, at most


@click.command(
    epilog="""\b
Examples:
  engine distill models/ recipes/small.toml --set output=student
  engine distill models/ small.toml --set output=student --unlabelled more_photos/
  engine distill both/ small.toml --set output=student --set distill.weight=0.9 --set data.folds.run=[0]

Of a training image the student learns the label and what RUN answered about it
out of fold; of photos without labels, what all of RUN's models answer together.
RECIPE is the student's: a smaller model, smaller images, fewer views.

Stop it with Ctrl-C (exit code 3); the same command goes on.
"""
)
@click.argument("run", type=FilePath())
@recipe_argument
@set_option
@click.option(
    "--unlabelled",
    type=FilePath(path_type=str),
    multiple=True,
    metavar="PHOTOS",
    help="Photos without labels to learn from as well: a folder, a table or a pattern. May be repeated.",
)
@click.option("--overwrite", is_flag=True, help="Remove an earlier student from the output folder first.")
def distill(run: Path, recipe: Path, sets: tuple[str, ...], unlabelled: tuple[str, ...], overwrite: bool) -> None:
    """Have the models in RUN teach the one that RECIPE describes, and put both side by side."""
    sets = (f"distill.teacher={run}", *sets)
    student = load_recipe(recipe, sets)
    output = Path(student.output)
    if output.resolve() == run.resolve():
        raise RecipeError(f"output: {output} is the teacher's folder; choose another with --set output=DIR")
    from engine.jobs import prepare_on, train_prepared
    from engine.ranks import join_ranks
    from engine.track.tracking import check
    from engine.training.run import refuse_second
    from engine.tune.student import beside_teacher

    check(student.track)
    refuse_second(student)
    if unlabelled:
        student = load_recipe(recipe, (*sets, f"distill.unlabelled={_asked(run, unlabelled, output, overwrite)}"))
    with join_ranks() as ranks:
        with progress(title="indexing") as meter:
            prepared = prepare_on(ranks, student, meter)
        with stop_on_signals() as stop, Screen() as screen:
            result = train_prepared(prepared, ranks, screen, stop, overwrite)
        if not ranks.leads:
            return
        if result.baseline_log_loss is None:
            click.echo(f"{student.name}: trained on everything; nothing was held out to compare it by")
        else:
            _print(beside_teacher(run, output, prepared.manifest.paths[:_TIMED]), student, run)
    click.echo(f"Predict with: engine infer --folds {shlex.quote(str(output))}")


def _asked(run: Path, photos: tuple[str, ...], output: Path, overwrite: bool) -> Path:
    """The file of the teacher's answers about photos without labels, in the student's folder."""
    from engine.predict.models import run_folders
    from engine.tune.student import ask_teacher

    run_folders([run])  # before a folder is made
    try:
        with (
            progress(title="listing") as listed,
            stop_on_signals() as stop,
            progress(title="asking the teacher") as done,
        ):
            path, notices = ask_teacher(run, photos, output / "unlabelled", listed, done, stop, overwrite)
    except EngineError as error:
        raise type(error)(str(error).replace("--out", "--set output=DIR")) from error
    tell(*notices)
    return path


def _print(lesson: Lesson, student: Recipe, run: Path) -> None:
    rows = [_row(f"teacher: {run}", lesson.teacher), _row(f"student: {student.output}", lesson.student)]
    columns = ("", "log loss", "95% interval", "accuracy", "95% interval", "images/s, a fold", "all folds")
    table(*columns, rows=rows, title=f"{lesson.images:,} images, out of fold")
    for difference in lesson.differences:
        click.echo(f"student for teacher: {in_words(difference)}")


def _row(name: str, side: Side) -> tuple[str, ...]:
    scores = [text for one in side.scores.values() for text in (f"{one.value:.4f}", shown_interval(one))]
    return (name, *scores, "" if side.one_fold is None else f"{side.one_fold:,.0f}", f"{side.all_folds:,.0f}")
