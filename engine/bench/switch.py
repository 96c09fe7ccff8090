"""What a switch from one stage to the next costs: between the last step of the one and the first of the other.

Done as training does it: the next stage's batches are begun and its step is compiled while the last batches are learnt.
Validation and checkpoints, which come between the two in training, take their own time there and are not in it.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import torch

from engine.bench.ceilings import Ceilings
from engine.bench.envelope import Row
from engine.bench.phases import CLASSES, Bench, Phase
from engine.bench.report import row_of
from engine.bench.timers import synchronize
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.training.ahead import Ahead, Task, worth_it

_STEPS = 3  # at least, of the stage before; and of the one after, to know what a step takes


def switch_rows(
    recipe: Recipe, paths: Sequence[str], device: torch.device, limits: Ceilings, prepared: bool = True
) -> Iterator[Row]:
    """A row for each stage after the first: `ms` lost at its beginning. Not `prepared`: as it would be without."""
    for number in range(1, len(recipe.stage)):
        before, after = (Bench(recipe, paths, device, 0, one, limits) for one in (number - 1, number))
        yield row_of(number, recipe.stage[number], switch(before, after, prepared))


def switch(before: Bench, after: Bench, prepared: bool = True) -> Phase:
    """From the stage of `before` to that of `after`."""
    learner, device, stage = before.learner, before.device, after.stage
    loader = before.loader_of()
    ahead, began = None, 0.0
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(closing(before.train_batches(loader)))
        for number, batch in enumerate(batches):
            learner.take_step(batch)
            if number == 0 and prepared and worth_it(before.runtime, Ranks(0, 1, device), before.stage, stage):
                counts = (1,) * CLASSES
                began = time.perf_counter()
                ahead = Ahead(Task.of(before.recipe, stage, counts, batch.labels, device))
                stack.callback(ahead.close)
            if number >= _STEPS and (ahead is None or ahead.done):
                break
        took_s = time.perf_counter() - began
        following = after.train_batches(loader)
        for batch in itertools.islice(batches, after.recipe.decode.prefetch + 1):
            learner.take_step(batch)
    with closing(following):
        synchronize(device)
        began = time.perf_counter()
        learner.begin_stage(stage)
        learner.begin_epoch(stage, 0)
        learner.set_rate(stage.lr)
        learner.take_step(next(following))
        synchronize(device)
        first_s, others_s = time.perf_counter() - began, []
        for batch in itertools.islice(following, _STEPS):
            began = time.perf_counter()
            learner.take_step(batch)
            synchronize(device)
            others_s.append(time.perf_counter() - began)
    lost_s = max(0.0, first_s - statistics.median(others_s))
    note = "" if ahead is None else f"compiled beside {took_s:.0f} s of the stage before"
    return Phase("switch", seconds=(lost_s,), note=note)
