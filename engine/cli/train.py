"""`engine train`: trains a recipe's folds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import progress, recipe_argument, set_option, table
from engine.cli.gains import print_gains
from engine.cli.screen import Screen, stop_on_signals
from engine.cli.specialists import print_effects, print_plan
from engine.recipe.load import dump_recipe, load_recipe
from engine.system import GIB

if TYPE_CHECKING:  # they import torch, and a mistyped recipe must not wait for that
    from engine.ranks import Ranks
    from engine.training.memory import Memory
    from engine.training.plan import RunPlan
    from engine.training.prepare import Prepared
    from engine.training.run import Result


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
    from engine.jobs import prepare_on, train_prepared
    from engine.ranks import join_ranks
    from engine.track.tracking import check
    from engine.training.run import refuse_other_run, refuse_second

    check(resolved.track)
    if not dry_run:
        refuse_second(resolved)
    with join_ranks() as ranks:
        with progress(title="indexing") as meter:
            prepared = prepare_on(ranks, resolved, meter)
        if dry_run:
            if ranks.leads:
                _print_plan(prepared, ranks)
                # Last, so that a plan is seen whatever the folder holds.
                if not overwrite and (changes := refuse_other_run(prepared)):
                    click.echo(f"the run in {resolved.output} goes on with {'; '.join(changes)}")
            return
        with stop_on_signals() as stop, Screen() as screen:
            result = train_prepared(prepared, ranks, screen, stop, overwrite)
        if ranks.leads:
            _print_result(result, prepared)


def _print_plan(prepared: Prepared, ranks: Ranks) -> None:
    """The resolved recipe, and what it comes to on this data and this machine."""
    from engine.training.plan import plan_run
    from engine.training.prepare import check_starts

    click.echo(dump_recipe(prepared.recipe))
    for notice in (*prepared.notices, *check_starts(prepared, ranks)):
        click.echo(notice)
    plan = plan_run(prepared, ranks)
    folds: list[tuple[object, ...]] = [(one.fold, one.trained_on, one.held_out) for one in plan.folds]
    title = f"{len(prepared.ids):,} images, {len(prepared.classes):,} classes, {len(prepared.left_out):,} left out"
    table("fold", "trained on", "held out", rows=folds, title=title)
    stages: list[tuple[object, ...]] = []
    on_gpu = ranks.device.type == "cuda"
    for number, one in enumerate(plan.stages):
        stage = one.stage
        size, lr = f"{stage.size[0]}x{stage.size[1]}", f"{stage.lr:g}"
        cells = (number, size, stage.batch, stage.epochs, one.steps, one.images, lr)
        stages.append((*cells, *_memory(one.memory, on_gpu)))
    columns = ("stage", "size", "batch", "epochs", "steps", "images", "lr")
    table(*columns, *(("GPU", "host") if on_gpu else ("memory",)), rows=stages, title="stages, a fold")
    print_plan(plan)
    _print_memory(plan, prepared, ranks)


def _memory(memory: Memory, on_gpu: bool) -> tuple[str, ...]:
    shown = (memory.device, memory.host) if on_gpu else (memory.host,)
    return tuple(f"{count / GIB:.1f} GiB" for count in shown)


def _print_memory(plan: RunPlan, prepared: Prepared, ranks: Ranks) -> None:
    """What the estimates mean, what answering takes and what there is."""
    from engine.system import available_host_bytes

    on_gpu = ranks.device.type == "cuda"
    places = ("GPU", "host") if on_gpu else ("main memory",)
    if plan.answering is not None:
        of = ", ".join(f"{place} {shown}" for place, shown in zip(places, _memory(plan.answering, on_gpu), strict=True))
        click.echo(f"memory to answer for what is held out, {prepared.recipe.predict.batch} at a time: {of}")
    for number, stage in enumerate(plan.stages):
        if stage.kept is not None:
            click.echo(f"stage {number}, photos that stay decoded (decode.cache): {stage.kept}")
    free = available_host_bytes()
    if free is not None:
        click.echo(f"main memory free now: {free / GIB:.1f} GiB")
    for warning in plan.warnings:
        click.echo(f"may not fit: {warning}")


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
        print_effects(result)
        print_gains(result.settled.gains)
    click.echo(f"Models, log and out-of-fold predictions: {result.folder}")
    click.echo(f"Predict with: engine infer --folds {result.folder}")
