"""`engine train`: trains a recipe's folds."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import Meter, console, progress, recipe_argument, set_option, table
from engine.recipe.load import dump_recipe, load_recipe
from engine.train.events import EpochRecord, Watcher

if TYPE_CHECKING:  # they import torch, and a mistyped recipe must not wait for that
    from engine.train.ranks import Ranks
    from engine.train.run import Prepared, Result


@click.command(
    epilog="""\b
Examples:
  engine train recipes/quickstart.toml
  engine train recipes/progressive_768.toml --set data.train=photos/train --dry-run
  engine train recipes/progressive_768.toml --set 'stage.*.epochs=2' --set data.folds.run=[0]
  torchrun --nproc-per-node 8 -m engine.cli.main train recipes/progressive_768.toml

Stop it with Ctrl-C (exit code 3); the same command goes on from the step it stopped at.
"""
)
@recipe_argument
@set_option
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe, the folds and the stages, and do nothing.")
@click.option("--overwrite", is_flag=True, help="Remove an earlier run from the output folder first.")
def train(recipe: Path, sets: tuple[str, ...], dry_run: bool, overwrite: bool) -> None:
    """Train the folds of RECIPE, or go on where an earlier run stopped."""
    resolved = load_recipe(recipe, sets)
    from engine.train.ranks import join_ranks
    from engine.train.run import prepare
    from engine.train.run import train as train_run

    with join_ranks() as ranks:
        with progress(title="indexing") as meter:
            prepared = prepare(resolved, meter)
        if dry_run:
            if ranks.leads:
                _print_plan(prepared, ranks)
            return
        with _signals() as stop, _Screen() as screen:
            result = train_run(prepared, ranks, screen, stop, overwrite)
        if ranks.leads:
            _print_result(result, prepared)


class _Screen(Watcher):
    """Draws a run: one bar a fold, one line an epoch."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._meter: Meter | None = None

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def fold_begins(self, fold: int, images: int, done: int, epoch: int) -> None:
        self._bar.close()
        self._meter = self._bar.enter_context(progress(images, title=f"fold {fold}"))
        if done:
            console().print(f"fold {fold}: going on after {done:,} of {images:,} images", markup=False)
            self._meter(done, images)

    def images_done(self, count: int, loss: float | None) -> None:
        if self._meter is not None:
            self._meter.advance(count)
            if loss is not None:
                self._meter.note(f"loss {loss:.4f}")

    def epoch_ends(self, record: EpochRecord) -> None:
        height, width = record.size
        console().print(
            f"fold {record.fold}  epoch {record.epoch + 1:3d}  {height}x{width}  lr {record.lr:.1e}  "
            f"train {record.train_loss:.4f}  {_scores(record.metrics)}{record.images_per_second:,.0f} images/s"
            f"{'  best' if record.best and record.metrics else ''}",
            markup=False,
            soft_wrap=True,
        )

    def notice(self, message: str) -> None:
        console().print(message, markup=False, soft_wrap=True, style="yellow")


def _scores(metrics: dict[str, float]) -> str:
    """What held-out images came to; nothing when there are none."""
    return f"valid {metrics['log_loss']:.4f}  accuracy {metrics['accuracy']:.4f}  " if metrics else ""


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only set the flag that the answer reads; a second one interrupts at once."""
    asked = False

    def ask(number: int, _: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console().print("stopping after this step; once more to stop at once", style="yellow")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_plan(prepared: Prepared, ranks: Ranks) -> None:
    """The resolved recipe, and what it comes to on this data and this machine."""
    from engine.model.runtime import Runtime
    from engine.train.memory import GIB, step_bytes

    recipe = prepared.recipe
    click.echo(dump_recipe(recipe))
    for notice in prepared.notices:
        click.echo(notice)
    folds: list[tuple[object, ...]] = []
    for fold in prepared.folds:
        data = prepared.fold_data(fold)
        folds.append((fold, len(data.train_rows_N), len(data.held_rows_N)))
    title = f"{len(prepared.ids):,} images, {len(prepared.classes):,} classes, {len(prepared.left_out):,} left out"
    table("fold", "trained on", "held out", rows=folds, title=title)
    images = len(prepared.fold_data(prepared.folds[0]).train_rows_N)
    runtime = Runtime.of(recipe.train, ranks.device)
    stages: list[tuple[object, ...]] = []
    for i, stage in enumerate(recipe.stage):
        in_step = stage.batch * stage.accumulate * ranks.world
        steps = max(1, images // in_step) * stage.epochs
        averages = (recipe.train.ema > 0) + (recipe.train.swa_epochs > 0)
        memory = step_bytes(recipe.model, len(prepared.classes), stage, runtime.bf16, averages)
        size, seen = f"{stage.size[0]}x{stage.size[1]}", steps * in_step
        lr, gib = f"{stage.lr:g}", f"{memory / GIB:.1f} GiB"
        stages.append((i, size, stage.batch, stage.epochs, steps, seen, lr, gib))
    columns = ("stage", "size", "batch", "epochs", "steps", "images", "lr", "memory")
    table(*columns, rows=stages, title="stages, a fold")


def _print_result(result: Result, prepared: Prepared) -> None:
    if result.already_finished:
        click.echo(f"{result.folder} is finished: all its epochs were trained. Start afresh with --overwrite.")
    metrics, title = result.metrics, f"{prepared.recipe.name}: folds {', '.join(map(str, result.folds))}"
    if result.baseline_log_loss is None:
        click.echo(f"{prepared.recipe.name}: trained on everything; nothing was held out to score it by")
    else:
        rows: list[tuple[object, ...]] = [
            ("log loss", f"{metrics['log_loss']:.4f}"),
            ("log loss of the class shares", f"{result.baseline_log_loss:.4f}"),
            ("accuracy", f"{metrics['accuracy']:.4f}"),
            ("macro F1", f"{metrics['macro_f1']:.4f}"),
        ]
        table("out of fold", "", rows=rows, title=title)
    click.echo(f"Models, log and out-of-fold predictions: {result.folder}")
    click.echo(f"Predict with: engine infer --folds {result.folder}")
