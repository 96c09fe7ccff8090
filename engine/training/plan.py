"""What training a recipe on this data and this machine would come to, without doing it."""

from __future__ import annotations

import dataclasses

from engine.model.runtime import Runtime, check_compiler
from engine.ranks import Ranks
from engine.recipe.sections import StageSection
from engine.training.memory import step_bytes
from engine.training.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class FoldPlan:
    """Images that a fold is trained on and scored by."""

    fold: int
    trained_on: int
    held_out: int


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage of a fold: optimiser steps and images over all its epochs, and the memory of a step, estimated."""

    stage: StageSection
    steps: int
    images: int
    step_bytes: int


@dataclasses.dataclass(frozen=True)
class SpecialistPlan:
    """A specialist in the first fold that is trained."""

    name: str
    answers: tuple[str, ...]
    epochs: int
    trained_on: int
    held_out: int


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run, fold by fold and stage by stage; stages are those of the first fold."""

    folds: tuple[FoldPlan, ...]
    stages: tuple[StagePlan, ...]
    specialists: tuple[SpecialistPlan, ...]


def plan_run(prepared: Prepared, ranks: Ranks) -> RunPlan:
    """What `train` would do with what `prepare` found."""
    data = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    folds = tuple(FoldPlan(fold, len(one.train_rows_N), len(one.held_rows_N)) for fold, one in data.items())
    stages = tuple(_stage(prepared, stage, folds[0].trained_on, ranks) for stage in prepared.recipe.stage)
    specialists = []
    for course in prepared.courses:
        own = course.fold_data(data[folds[0].fold])
        epochs = sum(stage.epochs for stage in course.recipe.stage)
        counts = (len(own.train_rows_N), len(own.held_rows_N))
        specialists.append(SpecialistPlan(course.name, course.specialist.answers, epochs, *counts))
    return RunPlan(folds, stages, tuple(specialists))


def _stage(prepared: Prepared, stage: StageSection, images: int, ranks: Ranks) -> StagePlan:
    recipe = prepared.recipe
    in_step = stage.batch * stage.accumulate * ranks.world
    steps = max(1, images // in_step) * stage.epochs
    averages = (recipe.train.ema > 0) + (recipe.train.swa_epochs > 0)
    check_compiler(recipe.train, ranks.device)
    bf16 = Runtime.of(recipe.train, ranks.device).bf16
    memory = step_bytes(recipe.model, len(prepared.classes), stage, bf16, averages)
    return StagePlan(stage, steps, steps * in_step, memory)
