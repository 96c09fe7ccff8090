"""`engine init`: a first recipe for a folder or table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.common import FilePath, class_table, console, progress, tell

if TYPE_CHECKING:
    from engine.advice.suggest import Suggestion
    from engine.data.ingest import Progress

MOST_CLASSES_SHOWN = 20


@click.command(
    epilog="""\b
Examples:
  engine init photos/train
  engine init train.csv --test test.csv --submission sample_submission.csv --out cars.toml
  engine init train.csv --images photos --label breed --group owner
  engine init photos/train --print
"""
)
@click.argument("source", type=FilePath(path_type=str), metavar="SOURCE")
@click.option(
    "--out",
    type=FilePath(dir_okay=False, allow_dash=True),
    default=Path("recipe.toml"),
    show_default=True,
    help="The recipe to write; - prints it.",
)
@click.option("--print", "print_", is_flag=True, help="Print the recipe and write nothing.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--test",
    type=FilePath(path_type=str),
    default="",
    metavar="SOURCE",
    help="Images to predict, to be looked for in SOURCE as well.",
)
@click.option(
    "--submission",
    type=FilePath(path_type=str),
    default="",
    metavar="FILE",
    help="A sample submission (.csv) that shapes the answers.",
)
@click.option(
    "--images",
    type=FilePath(path_type=str),
    default="",
    metavar="FOLDER",
    help="Where a table's paths start.  [default: looked for]",
)
@click.option("--label", default="", metavar="COLUMN", help="A table's column of labels.  [default: looked for]")
@click.option(
    "--group", default="", metavar="COLUMN", help="Its column of what belongs together.  [default: looked for]"
)
def init(source: str, out: Path, print_: bool, force: bool, **given: Any) -> None:
    """Look at images and write a first recipe for them.

    SOURCE is a folder with a sub-folder for each class, or a .csv, .tsv or .parquet table. The recipe is short, every
    line says why it is there, and `engine train` runs it as it is: folds, sizes, batch and network are chosen for these
    images and this machine. Images are looked at once, as training does, and never changed.
    """
    print_ = print_ or out == Path("-")
    if not print_ and out.exists() and not force:
        raise click.UsageError(f"{out} is there already. Name another with --out, or write over it with --force")
    from engine.advice.suggest import suggest
    from engine.files import write_text

    with ExitStack() as bars:
        suggestion = suggest(source, **given, watch=_bars(bars))
    if print_:
        click.echo(suggestion.text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, suggestion.text)
    _show(suggestion)
    if suggestion.refused:
        console().print(
            f"engine train refuses it as yet: {suggestion.refused}", markup=False, soft_wrap=True, style="red"
        )
    click.echo(f"{out} is written. Read it, and then:")
    click.echo(f"  engine train {out} --dry-run")
    click.echo(f"  engine train {out}")


def _bars(bars: ExitStack) -> Callable[[str], Progress]:
    """One bar after the other, each under its title."""

    def begin(title: str) -> Progress:
        bars.close()
        return bars.enter_context(progress(unit="images", title=title))

    return begin


def _show(suggestion: Suggestion) -> None:
    from engine.advice.suggest import baseline, findings

    classes = suggestion.survey.classes
    title = f"{suggestion.recipe.data.train}: {sum(classes.values()):,} images in {len(classes):,} classes"
    class_table(classes, MOST_CLASSES_SHOWN, title)
    tell(*findings(suggestion.survey))
    loss, accuracy = baseline(classes)
    click.echo(f"To beat: log loss {loss:.4f}, accuracy {accuracy:.3f}, by the class shares alone")
