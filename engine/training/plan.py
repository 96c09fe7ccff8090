"""What training a recipe on this data and this machine would come to, without doing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engine.errors import EngineError
from engine.exhausted import Where
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection
from engine.system import GIB, available_host_bytes, total_host_bytes
from engine.training.feed import FoldData
from engine.training.kept import Kept
from engine.training.memory import (
    Memory,
    Photos,
    answering_memory,
    kept_decoded,
    local_processes,
    smaller_stage,
    training_memory,
)
from engine.training.prepare import Prepared


@dataclasses.dataclass(frozen=True)
class FoldPlan:
    """Images that a fold is trained on and scored by."""

    fold: int
    trained_on: int
    held_out: int


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """A stage of a fold: optimiser steps and images over all its epochs, its memory at the peak, and of that the photos
    that stay decoded (None: the recipe keeps none), estimated."""

    stage: StageSection
    steps: int
    images: int
    memory: Memory
    kept: Kept | None = None


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
    """A run, fold by fold and stage by stage; stages are those of the first fold. `answering`: the memory in which its
    models answer about what it holds out, None when that is nothing. `warnings`: what may not fit, and the remedy."""

    folds: tuple[FoldPlan, ...]
    stages: tuple[StagePlan, ...]
    specialists: tuple[SpecialistPlan, ...]
    answering: Memory | None
    warnings: tuple[str, ...]


def plan_run(prepared: Prepared, ranks: Ranks) -> RunPlan:
    """What `train` would do with what `prepare` found. Raises EngineError for a stage that cannot fit into the memory
    of this machine, however the allocator does."""
    data = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    folds = tuple(FoldPlan(fold, len(one.train_rows_N), len(one.held_rows_N)) for fold, one in data.items())
    first = data[folds[0].fold]
    stages = tuple(_stage(prepared, stage, first, ranks) for stage in prepared.recipe.stage)
    held = _photos(prepared, first.held_rows_N)
    answering = answering_memory(prepared.recipe, len(prepared.classes), held, ranks) if folds[0].held_out else None
    warnings = tuple(_warnings(prepared.recipe, stages, answering, ranks))
    specialists = []
    for course in prepared.courses:
        own = course.fold_data(data[folds[0].fold])
        epochs = sum(stage.epochs for stage in course.recipe.stage)
        counts = (len(own.train_rows_N), len(own.held_rows_N))
        specialists.append(SpecialistPlan(course.name, course.specialist.answers, epochs, *counts))
    return RunPlan(folds, stages, tuple(specialists), answering, warnings)


def _stage(prepared: Prepared, stage: StageSection, data: FoldData, ranks: Ranks) -> StagePlan:
    in_step = stage.batch * stage.accumulate * ranks.world
    steps = max(1, len(data.learnt_rows_N) // in_step) * stage.epochs
    train, held = (_photos(prepared, rows_N) for rows_N in (data.train_rows_N, data.held_rows_N))
    memory = training_memory(prepared.recipe, stage, len(prepared.classes), train, held, ranks)
    return StagePlan(stage, steps, steps * in_step, memory, kept_decoded(prepared.recipe, stage, train, held, ranks))


def _photos(prepared: Prepared, rows_N: np.ndarray) -> Photos:
    manifest = prepared.manifest
    paths = [manifest.paths[row] for row in rows_N.tolist()]
    file_bytes_N = manifest.table["bytes"].to_numpy()[rows_N]
    return Photos.of(manifest.sizes_N2[rows_N], file_bytes_N, manifest.keys_N[rows_N], paths)


# --- what there is ---------------------------------------------------------------------------------------------------


def _warnings(recipe: Recipe, stages: Sequence[StagePlan], answering: Memory | None, ranks: Ranks) -> Iterator[str]:
    """Of each part of the run that may not fit. Raises EngineError where it cannot."""
    parts = {f"stage.{number}": one.memory for number, one in enumerate(stages)}
    if answering is not None:
        parts["predict.batch"] = answering
    for key, memory in parts.items():
        number = int(key.partition(".")[2]) if key.startswith("stage.") else -1
        needs: list[tuple[Where, int, int, int | None]] = [
            ("main memory", memory.host, memory.certain_host, available_host_bytes()),
            ("the device's memory", memory.device, memory.certain_device, _free_on(ranks.device)),
        ]
        for where, needed, certain, free in needs:
            each = local_processes(ranks) if where == "main memory" else 1
            if free is None or needed * each <= free:
                continue
            remedy = (
                smaller_stage(number, recipe.stage[number], where)
                if number >= 0
                else f"Lower predict.batch ({recipe.predict.batch})"
            )
            what = f"{key}: {where}: {_gib(needed * each)} are needed by the estimate, {_gib(free)} are free"
            if certain * each > (_all_of(where, ranks.device) or free):
                raise EngineError(
                    f"{what}, and the model's own {_gib(certain * each)} are more than there is. {remedy}"
                )
            yield f"{what}. Should it not fit: {remedy[0].lower()}{remedy[1:]}"


def _free_on(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _all_of(where: Where, device: torch.device) -> int | None:
    """What there would be if nobody else took any; None where the system does not say."""
    if where == "main memory":
        return total_host_bytes()
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
