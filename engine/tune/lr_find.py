"""The learning rate range test: a few steps at ever higher rates, until the loss runs away.

It takes the very steps a run would take (the same images, augmentation, mixing, loss, optimiser, clipping, precision),
because the rate that a model bears depends on all of them. So it is a fold's trainer, whose schedule alone is another
and which keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import EngineError
from engine.loader.batches import Batch
from engine.ranks import Ranks
from engine.train.freeze import to_training
from engine.train.optim import set_rate
from engine.train.run import Prepared
from engine.train.trainer import FoldTrainer
from engine.tune.curve import Curve

Hear = Callable[[int, float], None]
"""Told of each step: images, and the smoothed loss."""


def range_test(prepared: Prepared, stage: int, curve: Curve, ranks: Ranks, hear: Hear = lambda *_: None) -> None:
    """Fill `curve` with losses of the stage's first epoch (and further ones, should it be too short), trained on the
    images of the first fold to train, from the weights a run begins with. Raises EngineError."""
    _RangeTest(prepared, ranks).fill(stage, curve, hear)


class _RangeTest(FoldTrainer):
    def __init__(self, prepared: Prepared, ranks: Ranks) -> None:
        fold = prepared.folds[0]
        nowhere = Path(os.devnull)  # a folder in which nothing can be written
        super().__init__(prepared.recipe, fold, prepared.fold_data(fold), nowhere, ranks)

    def fill(self, stage: int, curve: Curve, hear: Hear) -> None:
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices), closing(self._endless()) as batches:
            self._seed(0)
            self._build()
            self.position.stage = stage
            self.position.run_epoch = sum(before.epochs for before in self.recipe.stage[:stage])
            self._begin_stage(restored=True)  # the stage's settings; there are no weights of the one before
            self._thaw()
            to_training(self.model)
            for rate in curve.rates:
                set_rate(self.optimizer, float(rate))
                loss, images = self._take_step(batches)
                curve.add(loss)
                hear(images, curve.smoothed[-1] if curve.smoothed else loss)
                if curve.diverged:
                    return

    def _take_step(self, batches: Iterator[Batch]) -> tuple[float, int]:
        """One step of the optimiser: its loss before it, and its images."""
        assert self.step is not None
        parts = self.stage.accumulate
        losses: list[Tensor] = []
        images = 0
        for part in range(parts):
            batch = next(batches)
            self._seed(self.position.step * parts + part)
            losses.append(self.step(batch.images_BCHW, batch.labels, parts, part == parts - 1))
            images += len(batch.rows_B)
        self.position.step += 1
        # Waited for at every step, which training avoids: whether to go on depends on it.
        return float(torch.stack(losses).mean()), images

    def _endless(self) -> Generator[Batch, None, None]:
        """The batches of epoch after epoch."""
        while True:
            read = 0
            with closing(self._begin(self.stage, self.position.run_epoch)) as batches:
                for read, batch in enumerate(batches, start=1):  # noqa: B007  it is looked at after the loop
                    yield batch
            if not read:
                raise EngineError(f"fold {self.fold}: no training image could be read{self._some_bad_files()}")
            self.position.run_epoch += 1
            self.position.step = 0
