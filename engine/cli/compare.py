"""`engine compare`: short runs with several backbones, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, Resolution, progress, recipe_argument, set_option, table
from engine.cli.screen import Screen, stop_on_signals
from engine.errors import EngineError
from engine.recipe.load import load_recipe

if TYPE_CHECKING:
    from engine.tune.compare import BackboneResult


@click.command(
    epilog="""\b
Examples:
  engine compare recipes/s3_two_step_rect.toml --backbones convnext_tiny,resnet50,tf_efficientnet_b7
  engine compare recipe.toml --backbones convnext_tiny,resnet50 --frozen --size 180x240 --epochs 3
  engine compare recipe.toml --backbones convnext_tiny,vit_small_patch16_224 --set model.pretrained=false

Each trains the recipe's first stage on its first fold, from the weights that
the recipe says, in a process of its own. What is finished in the folder is not
trained again: the same command goes on, also with more backbones.
"""
)
@recipe_argument
@set_option
@click.option("--backbones", required=True, metavar="A,B,...", help="Names of timm models, separated by commas.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Epochs of each.")
@click.option("--frozen", is_flag=True, help="Only the head learns.")
@click.option("--size", type=Resolution(), help="Image size, or HxW.  [default: that of the recipe's first stage]")
@click.option("--out", type=FilePath(file_okay=False), default="compare", show_default=True, help="Folder.")
def compare(
    recipe: Path,
    sets: tuple[str, ...],
    backbones: str,
    epochs: int,
    frozen: bool,
    size: tuple[int, int] | None,
    out: Path,
) -> None:
    """Compare backbones by short runs of RECIPE's first stage: scores, speed, memory."""
    changes = [f"stage.0.epochs={epochs}", *([f"stage.0.head_only={epochs}"] if frozen else [])]
    if size is not None:
        changes.append(f"stage.0.size={list(size)}")
    resolved = load_recipe(recipe, (*sets, *changes))
    from engine.ranks import alone
    from engine.tune import compare as tune

    names = tune.check_backbones(backbones.split(","))
    with alone():
        with progress(title="indexing") as meter:
            comparison = tune.plan(resolved, names, out, meter)
        with stop_on_signals() as stop, Screen() as screen:
            rows = tune.compare(comparison, screen, stop)
    _print(rows, resolved.train.select, f"{resolved.name}: stage 0, {epochs} epochs{', head only' if frozen else ''}")
    click.echo(f"Table: {out / 'compare.csv'}, compare.json")
    if all(row.error for row in rows):
        raise EngineError("none of the backbones could be trained")


def _print(rows: list[BackboneResult], select: str, title: str) -> None:
    metrics = list(dict.fromkeys((select, "log_loss", "accuracy")))
    on_gpu = any(row.device_gib is not None for row in rows)
    cells: list[tuple[object, ...]] = []
    for row in (row for row in rows if not row.error):
        memory = row.device_gib if row.device_gib is not None else row.host_gib
        cells.append(
            (
                row.backbone,
                *(f"{row.metrics[name]:.4f}" for name in metrics),
                f"{row.train_images_per_second:,.0f}",
                f"{row.valid_images_per_second:,.0f}",
                f"{row.parameters / 1e6:.2f}",
                f"{memory:.2f}",
                f"{row.seconds:,.1f}",
            )
        )
    names = (name.replace("_", " ") for name in metrics)
    if cells:
        table("backbone", *names, "train/s", "valid/s", "M", "GiB", "s", rows=cells, title=title)
        click.echo(
            "train/s, valid/s: images a second. M: million parameters. "
            f"GiB: peak {'GPU memory of tensors' if on_gpu else 'memory of the process'}. s: seconds."
        )
    for row in (row for row in rows if row.error):
        click.echo(f"{row.backbone} failed: {row.error}")
