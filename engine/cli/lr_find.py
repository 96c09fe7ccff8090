"""`engine lr-find`: the learning rate range test."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, Meter, progress, recipe_argument, set_option, table
from engine.errors import RecipeError
from engine.events import Event, ImagesDone, Watcher
from engine.files import write_text
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe

if TYPE_CHECKING:
    from engine.tune.curve import Curve


@click.command(
    epilog="""\b
Examples:
  engine lr-find recipes/progressive_768.toml --set data.train=photos/train
  engine lr-find recipes/progressive_768.toml --stage 2 --low 1e-6 --high 0.1 --steps 200

The rate rises from step to step, on the recipe's own images, augmentation,
model and optimiser, until the loss is four times its best. Suggested is the
rate at which the smoothed loss falls fastest. A stage is tested from the
weights that a run begins with; give others with --set model.weights=FILE.
"""
)
@recipe_argument
@set_option
@click.option("--stage", type=click.IntRange(0), default=0, show_default=True, help="The stage to test.")
@click.option("--low", type=click.FloatRange(0, min_open=True), default=1e-7, show_default=True, help="First rate.")
@click.option("--high", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Last rate.")
@click.option("--steps", type=click.IntRange(10), default=100, show_default=True, help="Steps between them.")
@click.option("--out", type=FilePath(file_okay=False), default="lr-find", show_default=True, help="Folder.")
def lr_find(recipe: Path, sets: tuple[str, ...], stage: int, low: float, high: float, steps: int, out: Path) -> None:
    """Find a learning rate for a stage of RECIPE by trying them all; nothing is kept but the curve."""
    resolved = load_recipe(recipe, sets)
    if low >= high:
        raise RecipeError(f"--low {low:g} --high {high:g}: expected the first rate below the last")
    if stage >= len(resolved.stage):
        raise RecipeError(f"--stage {stage}: the recipe's stages are 0 to {len(resolved.stage) - 1}")
    from engine.ranks import alone
    from engine.training.prepare import prepare
    from engine.tune.curve import Curve
    from engine.tune.lr_find import range_test
    from engine.tune.pictures import draw_curve

    curve = Curve(low, high, steps)
    with alone() as ranks:
        with progress(title="indexing") as meter:
            prepared = prepare(resolved, meter)
        section = resolved.stage[stage]
        with progress(steps * section.batch * section.accumulate, title=f"stage {stage}") as meter:
            range_test(prepared, stage, curve, ranks, _Steps(meter, curve))
    height, width = section.size
    title = f"{resolved.name}, stage {stage}: {resolved.model.backbone}, {height}x{width}, batch {section.batch}"
    write_text(out / "curve.csv", curve.to_csv())
    report = {"recipe": resolved.model_dump(mode="json"), "stage": stage, **curve.to_dict()}
    write_text(out / "curve.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    draw_curve(curve, title, out / "curve.png")
    _print(resolved, stage, curve, title)
    click.echo(f"Curve: {out / 'curve.png'}, curve.csv, curve.json")


class _Steps(Watcher):
    """Draws how far the curve is."""

    def __init__(self, meter: Meter, curve: Curve) -> None:
        self._meter, self._curve = meter, curve

    def hear(self, event: Event) -> None:
        if isinstance(event, ImagesDone):
            self._meter.advance(event.count)
            rate = self._curve.rates[max(0, len(self._curve.losses) - 1)]
            self._meter.note(f"lr {rate:.1e}  loss {event.loss:.4f}")


def _print(recipe: Recipe, stage: int, curve: Curve, title: str) -> None:
    from engine.tune.curve import RULE

    suggestion = curve.suggest()
    if suggestion is None:
        click.echo(
            f"{title}: the loss never fell in {len(curve.losses)} steps, so there is nothing to suggest. "
            "Try a lower --low, more --steps or a larger batch"
        )
        return
    rows: list[tuple[object, ...]] = [
        (f"{suggestion.steepest:.2g}", f"{RULE} (suggested)"),
        (f"{suggestion.tenth_of_minimum:.2g}", f"a tenth of {suggestion.minimum:.2g}, where it is lowest"),
    ]
    table("learning rate", "", rows=rows, title=title)
    if curve.falls_to_the_end:
        click.echo(f"The loss was still falling at {curve.rates[-1]:g}: a higher --high may show more.")
    if recipe.train.head_lr_multiplier != 1:
        click.echo(f"The head learnt at {recipe.train.head_lr_multiplier:g} times these rates, as it will in training.")
    click.echo(f"Use it with: --set {shlex.quote(f'stage.{stage}.lr={suggestion.steepest:.2g}')}")
