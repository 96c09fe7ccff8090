"""The learning rate range test: a few steps at ever higher rates, until the loss runs away.

It takes the very steps a run would take (the same images, augmentation, mixing, loss, optimiser, clipping, precision),
because the rate that a model bears depends on all of them: a fold's feed and a learner, with another schedule, of which
nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import torch

from engine.errors import EngineError
from engine.events import ImagesDone, Watcher
from engine.exhausted import told_when_exhausted
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.ranks import Ranks
from engine.recipe.sections import StageSection
from engine.training.feed import Feed
from engine.training.learner import Learner
from engine.training.memory import size_of, smaller_stage
from engine.training.position import own_randomness, seed_torch
from engine.training.prepare import Prepared
from engine.tune.curve import Curve

Addressed = tuple[int, int, Batch]
"""A batch with the epoch of the run and the number in it that are its address."""


def range_test(prepared: Prepared, stage: int, curve: Curve, ranks: Ranks, watcher: Watcher) -> None:
    """Fill `curve` with losses of the stage's first epoch (and further ones, should it be too short), trained on the
    images of the first fold to train, from the weights a run begins with. The watcher hears of the images of each step
    and the smoothed loss. Raises EngineError."""
    recipe, fold = prepared.recipe, prepared.folds[0]
    data, section = prepared.fold_data(fold), prepared.recipe.stage[stage]
    runtime = Runtime.of(recipe.train, ranks.device)
    feed = Feed(recipe, data, ranks, runtime.dtype)
    first = sum(before.epochs for before in recipe.stage[:stage])

    def seed(epoch: int, number: int) -> None:
        seed_torch(recipe.seed, fold, epoch, number, ranks.rank)

    def doing() -> str:
        return f"trying rates in stage {stage}: batches of {section.batch}, {size_of(section)} pixels"

    told = told_when_exhausted(doing, lambda where: f"{smaller_stage(stage, section, where)}")
    with told, own_randomness(ranks.device), closing(_endless(feed, section, first, fold)) as batches:
        seed(0, 0)
        counts_C = torch.tensor(data.class_counts)
        learner = Learner(recipe.model, recipe.train, len(data.classes), recipe.stage[0].size, runtime, counts_C)
        learner.begin_stage(section)
        learner.begin_epoch(section, 0)
        for rate in curve.rates:
            learner.set_rate(float(rate))
            loss, images = _take_step(learner, batches, section.accumulate, seed)
            curve.add(loss)
            watcher.hear(ImagesDone(images, curve.smoothed[-1] if curve.smoothed else loss))
            if curve.diverged:
                return


def _take_step(
    learner: Learner, batches: Iterator[Addressed], parts: int, seed: Callable[[int, int], None]
) -> tuple[float, int]:
    """One step of the optimiser: its loss before it, and its images."""
    losses, images = [], 0
    for part in range(parts):
        epoch, number, batch = next(batches)
        seed(epoch, number)
        losses.append(learner.take_step(batch, part, parts))
        images += len(batch.rows_B)
    # Waited for at every step, which training avoids: whether to go on depends on it.
    return float(torch.stack(losses).mean()), images


def _endless(feed: Feed, stage: StageSection, first: int, fold: int) -> Generator[Addressed, None, None]:
    """The batches of epoch after epoch, from `first` on."""
    epoch = first
    while True:
        number = -1
        with closing(feed.epoch(stage, epoch)) as batches:
            for number, batch in enumerate(batches):
                yield epoch, number, batch
        if number < 0:
            raise EngineError(f"fold {fold}: no training image could be read{feed.some_bad_files()}")
        epoch += 1
