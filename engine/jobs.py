"""Whole jobs, put together from several rooms, as the command line and library users start them."""

from __future__ import annotations

from contextlib import ExitStack

from engine.data.ingest import Progress
from engine.events import Relay, Stop, Watcher
from engine.ranks import Ranks, join_ranks
from engine.recipe.sections import Recipe
from engine.track.tracking import Tracking, check
from engine.training.prepare import Prepared, prepare
from engine.training.run import Result
from engine.training.run import train as train_folds


def train(
    recipe: Recipe,
    watcher: Watcher | None = None,
    stop: Stop = lambda: False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Train the folds of a recipe into its `output` folder, or go on where an earlier call was stopped.

    `watcher` hears what happens, `stop` is asked between steps, `progress(done, total)` counts the files looked at.
    With `overwrite` an earlier run in the folder is removed first. Under torchrun every process calls this. Raises
    Interrupted when `stop` said so, with the state saved; RecipeError or DataError for what cannot be trained.
    """
    check(recipe.track)
    with join_ranks() as ranks:
        prepared = prepare_on(ranks, recipe, progress)
        return train_prepared(prepared, ranks, watcher or Watcher(), stop, overwrite)


def prepare_on(ranks: Ranks, recipe: Recipe, progress: Progress | None = None) -> Prepared:
    """`prepare` on every rank: the leading one indexes, and the others read what it kept."""
    if not ranks.leads:
        ranks.gather(None)
    prepared = prepare(recipe, progress, ranks.world)
    if ranks.leads:
        ranks.gather(None)
    return prepared


def train_prepared(prepared: Prepared, ranks: Ranks, watcher: Watcher, stop: Stop, overwrite: bool = False) -> Result:
    """`train` for what is prepared, on one of the ranks: followed by the recipe's trackers, told to `watcher`."""
    with ExitStack() as stack:
        if ranks.leads:
            tracking = stack.enter_context(Tracking(prepared.recipe, watcher))
            watcher = Relay(watcher, tracking)
        return train_folds(prepared, ranks, watcher, stop, overwrite)
