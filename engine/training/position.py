"""Where in a fold training stands, and what follows from it.

The position is (stage, epoch, step) and what the epochs so far came to. Learning rate, the end of a stage and what
comes after it are functions of the position, so a run that was stopped between any two steps goes on as if it had not
been: nothing is stepped along beside it that could be forgotten.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from engine.order import Pair
from engine.recipe.sections import StageSection, TrainSection
from engine.training.history import epochs_without_gain, plateau_drops
from engine.training.schedule import Span, rate_factor, time_at


@dataclasses.dataclass
class Position:
    """Where in the fold training stands, the next step to take, and what the epochs so far came to."""

    stage: int = 0
    epoch: int = 0  # within the stage
    step: int = 0  # within the epoch
    run_epoch: int = 0  # over all stages
    best: float | None = None  # of recipe.train.select
    losses: list[float] = dataclasses.field(default_factory=list)  # of the epoch's steps, by earlier processes
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)  # metrics and train_loss of each epoch
    pairs: list[Pair] = dataclasses.field(default_factory=list)  # of classes confused in the last validation

    def values(self, metric: str, epochs: int | None = None) -> list[float]:
        """A metric's value in the last `epochs` epochs; None: in all."""
        history = self.history if epochs is None else self.history[len(self.history) - epochs :]
        return [metrics[metric] for metrics in history]

    def next_epoch(self) -> None:
        """To the beginning of the stage's next epoch."""
        self.epoch, self.run_epoch, self.step, self.losses = self.epoch + 1, self.run_epoch + 1, 0, []

    def next_stage(self) -> None:
        """To the beginning of the next stage."""
        self.stage, self.epoch = self.stage + 1, 0


@dataclasses.dataclass(frozen=True)
class Timetable:
    """The stages of a run on so many images. `steps`: optimiser steps in an epoch of each stage; `held`: images scored
    after each epoch; `world`: ranks."""

    stages: Sequence[StageSection]
    train: TrainSection
    steps: Sequence[int]
    held: int
    world: int = 1

    def is_over(self, at: Position) -> bool:
        """Whether the stage has had all its epochs, or no longer gets better."""
        stage = self.stages[at.stage]
        early = stage.early_stop or self.train.early_stop
        if at.epoch == stage.epochs:
            return True
        metric = self.train.select if early.metric == "select" else early.metric
        waited = epochs_without_gain(at.values(metric, at.epoch), metric, early.min_delta) if early.patience else 0
        return waited >= early.patience > 0

    def stage_after(self, at: Position) -> int | None:
        """The stage of the epoch after the current one, as planned; None after the last."""
        following = at.stage + (at.epoch + 1 == self.stages[at.stage].epochs)
        return following if following < len(self.stages) else None

    def epochs_left(self, at: Position) -> int:
        """Epochs of the run that are not ended, the current one among them, as planned."""
        return self.stages[at.stage].epochs - at.epoch + sum(stage.epochs for stage in self.stages[at.stage + 1 :])

    def rate(self, at: Position, step: int) -> float:
        """The learning rate at a step of the current epoch."""
        stage = self.stages[at.stage]
        schedule = stage.schedule or self.train.schedule
        spans = [Span(one.epochs, steps) for one, steps in zip(self.stages, self.steps, strict=True)]
        if schedule.over == "run":
            now = time_at(spans, at.stage, at.epoch, step)
        else:
            now = time_at([spans[at.stage]], 0, at.epoch, step)
        drops = 0
        if schedule.kind == "plateau":
            values = at.values(self.train.select, None if schedule.over == "run" else at.epoch)
            drops = plateau_drops(values, self.train.select, schedule.patience)
        return stage.lr * rate_factor(schedule, now, drops)

    @property
    def images(self) -> int:
        """Images trained on and scored in the whole run."""
        return sum(stage.epochs * self._images_in_epoch(i) for i, stage in enumerate(self.stages))

    def images_done(self, at: Position) -> int:
        """Those of them before the position."""
        passed = sum(stage.epochs * self._images_in_epoch(i) for i, stage in enumerate(self.stages[: at.stage]))
        return passed + at.epoch * self._images_in_epoch(at.stage) + at.step * self._images_in_step(at.stage)

    def _images_in_epoch(self, index: int) -> int:
        return self.steps[index] * self._images_in_step(index) + self.held

    def _images_in_step(self, index: int) -> int:
        stage = self.stages[index]
        return stage.batch * stage.accumulate * self.world


def seed_torch(*address: int) -> None:
    """Seed torch's generators, which dropout and stochastic depth draw from, by an address."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little"))


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Within the block torch's generators may be seeded; after it they are as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
