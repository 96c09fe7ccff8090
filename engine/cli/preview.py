"""`engine preview`: what a recipe does to its images."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.common import FilePath, progress, recipe_argument, set_option
from engine.recipe.load import load_recipe


@click.command(
    epilog="""\b
Examples:
  engine preview recipes/quickstart.toml
  engine preview recipes/progressive_768.toml --set data.train=photos/train --stage 3 --out look.html
  engine preview recipes/s4_documents.toml --images 34 --epochs 8
"""
)
@recipe_argument
@set_option
@click.option("--stage", type=click.IntRange(0), default=0, show_default=True, help="Which stage, from 0.")
@click.option("--images", type=click.IntRange(1), default=12, show_default=True, help="Training images shown.")
@click.option("--epochs", type=click.IntRange(1), default=6, show_default=True, help="Epochs of the stage shown.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first of them, in the stage.")
@click.option(
    "--out",
    type=FilePath(dir_okay=False),
    default=Path("preview.html"),
    show_default=True,
    help="The page.",
)
def preview(recipe: Path, sets: tuple[str, ...], stage: int, images: int, epochs: int, first: int, out: Path) -> None:
    """Show training images of RECIPE as they are scored and as each epoch trains on them.

    The pictures are those that training with this seed will make; only the partners of mixed images are found among
    the images shown.
    """
    resolved = load_recipe(recipe, sets)
    from engine.report.preview import preview as make
    from engine.report.preview import write_preview
    from engine.training.prepare import prepare

    with progress(title="indexing") as meter:
        prepared = prepare(resolved, meter)
    shown = make(prepared, stage, images, epochs, first)
    write_preview(shown, out)
    click.echo(f"{out}: {len(shown.rows)} images, {len(shown.epochs)} epochs of stage {stage}")
