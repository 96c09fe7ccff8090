"""The learning rate as a function of time: nothing is stepped, so nothing has to be saved or put back.

torch's schedulers hold their position and change rates in place, and chaining a warm-up with another one and taking
both to another stage is where their state goes wrong. What they compute is one line each; the tests hold these lines to
torch's classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.recipe.sections import ScheduleSection


@dataclasses.dataclass(frozen=True)
class Time:
    """A step's place in the span of a schedule, a stage or the run."""

    epoch: float  # epochs since the span began, with a fraction for the steps of this one
    epochs: int  # of the span
    step: int  # steps since the span began
    steps_per_epoch: int  # of the current stage


class Span(NamedTuple):
    """A stage, as the clock sees it."""

    epochs: int
    steps_per_epoch: int


def time_at(stages: Sequence[Span], stage: int, epoch: int, step: int) -> Time:
    """The time of a step of an epoch of a stage, as planned: stages that ended early count in full."""
    passed, here = stages[:stage], stages[stage].steps_per_epoch
    return Time(
        epoch=sum(span.epochs for span in passed) + epoch + step / here,
        epochs=sum(span.epochs for span in stages),
        step=sum(span.epochs * span.steps_per_epoch for span in passed) + epoch * here + step,
        steps_per_epoch=here,
    )


def rate_factor(section: ScheduleSection, time: Time, drops: int = 0) -> float:
    """What a stage's learning rate is multiplied by at `time`; `drops`: how often a plateau was reached.

    A linear warm-up comes first, and takes n steps to reach the full rate after 1 / (n + 1) of it. Sources: cosine and
    its restarts, Loshchilov & Hutter, "SGDR", ICLR 2017.
    """
    warmup = min(section.warmup_epochs, time.epochs - 1 / time.steps_per_epoch)
    since, left = time.epoch - warmup, time.epochs - warmup
    if since < -1e-9:  # not for a rounding error
        return (time.epoch * time.steps_per_epoch + 1) / (warmup * time.steps_per_epoch + 1)
    since = max(since, 0.0)
    low = section.min_lr_ratio
    match section.kind:
        case "constant":
            factor = 1.0
        case "cosine":
            factor = _cosine(since / left, low)
        case "restarts":
            factor = _cosine(_share_of_cycle(since, section.restart_epochs, section.restart_growth), low)
        case "exponential" if section.decay_steps:
            factor = section.decay ** ((time.step - warmup * time.steps_per_epoch) / section.decay_steps)
        case "exponential":
            factor = section.decay**since
        case "step":
            factor = section.decay ** sum(time.epoch >= milestone for milestone in section.milestones)
        case "plateau":
            factor = section.decay**drops
        case "points":
            epochs, factors = zip(*section.points, strict=True)
            factor = float(np.interp(time.epoch, epochs, factors))
    return max(low, factor)


def _cosine(share: float, low: float) -> float:
    return low + (1 - low) * (1 + math.cos(math.pi * share)) / 2


def _share_of_cycle(since: float, length: float, growth: float) -> float:
    """How far along the current one of cycles that begin at 0 and are each `growth` times as long as the last."""
    while since >= length:
        since, length = since - length, length * growth
    return since / length
