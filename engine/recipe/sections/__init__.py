"""The recipe: frozen, typed sections, one per room. A room is handed its own section and nothing more.

pydantic checks types and ranges; what needs the data or the backbone (a fold count against the smallest class, a stage
size against the backbone) is checked by the room that knows it, with the same kind of error. The description of every
field is its documentation: `docs/recipes.md` is made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from engine.recipe.sections.augment import AugmentSection, MixSection
from engine.recipe.sections.base import PathText, Section
from engine.recipe.sections.data import DataSection, FoldsSection
from engine.recipe.sections.decode import DecodeSection
from engine.recipe.sections.distill import DistillSection
from engine.recipe.sections.ensemble import EnsembleSection
from engine.recipe.sections.model import ModelSection
from engine.recipe.sections.predict import PredictSection
from engine.recipe.sections.specialist import SpecialistSection
from engine.recipe.sections.track import TrackSection
from engine.recipe.sections.train import (
    RECORDING_MODES,
    EarlyStopSection,
    Metric,
    SamplingSection,
    ScheduleSection,
    StageSection,
    TrainSection,
)

__all__ = [
    "AugmentSection",
    "DataSection",
    "DecodeSection",
    "DistillSection",
    "EarlyStopSection",
    "EnsembleSection",
    "FoldsSection",
    "Metric",
    "MixSection",
    "ModelSection",
    "PredictSection",
    "Recipe",
    "SamplingSection",
    "ScheduleSection",
    "Section",
    "SpecialistSection",
    "StageSection",
    "TrackSection",
    "TrainSection",
]


class Recipe(Section):
    """A whole run."""

    name: str = Field("run", min_length=1, description="Name of the run, for logs and reports.")
    seed: int = Field(0, ge=0, lt=2**31, description="Every random choice is drawn from this.")
    output: PathText = Field(
        "models", min_length=1, description="Folder for the fold models, logs and out-of-fold predictions."
    )
    data: DataSection = Field(DataSection(), description="Images and labels.")
    decode: DecodeSection = Field(DecodeSection(), description="Decoding.")
    augment: AugmentSection = Field(AugmentSection(), description="Augmentation.")
    model: ModelSection = Field(ModelSection(), description="The network.")
    train: TrainSection = Field(TrainSection(), description="Optimisation.")
    stage: tuple[StageSection, ...] = Field(min_length=1, description="The stages, one [[stage]] each.")
    specialist: tuple[SpecialistSection, ...] = Field(
        (), description="Specialists, one [[specialist]] each, asked in this order."
    )
    distill: DistillSection = Field(DistillSection(), description="Learning from a teacher.")
    ensemble: EnsembleSection = Field(EnsembleSection(), description="Making one answer of several.")
    predict: PredictSection = Field(PredictSection(), description="Prediction.")
    track: TrackSection = Field(TrackSection(), description="Experiment trackers.")

    @model_validator(mode="before")
    @classmethod
    def _specialists_are_as_the_recipe(cls, tables: Any) -> Any:
        """What a specialist's sections leave out is filled in."""
        specialists = tables.get("specialist") if isinstance(tables, Mapping) else None
        if not isinstance(specialists, tuple | list) or not _are_tables(*specialists):
            return tables
        filled = []
        for own in specialists:
            bases = {key: tables.get(key, {}) for key in ("augment", "model", "train") if _are_tables(own.get(key))}
            filled.append({**own, **_over({k: base for k, base in bases.items() if _are_tables(base)}, own)})
        return {**tables, "specialist": tuple(filled)}

    @model_validator(mode="after")
    def _specialists_can_be_trained(self) -> Recipe:
        names = [specialist.name.casefold() for specialist in self.specialist]
        for i, specialist in enumerate(self.specialist):
            if names.index(names[i]) < i:
                raise ValueError(f"specialist.{i}.name: {specialist.name} is the name of another one")
            if fault := _fault_of_stages(self.of_specialist(specialist)):
                raise ValueError(f"specialist {specialist.name}: {fault}")
        return self

    def of_specialist(self, specialist: SpecialistSection) -> Recipe:
        """The recipe that it is trained by."""
        own = {
            "name": f"{self.name} {specialist.name}",
            "augment": specialist.augment or self.augment,
            "model": specialist.model or self.model,
            "train": specialist.train or self.train,
            "stage": specialist.stage or self.stage,
            "specialist": (),
        }
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _stages_have_what_they_need(self) -> Recipe:
        if fault := _fault_of_stages(self):
            raise ValueError(fault)
        return self


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own`, and of `base` what it leaves out."""
    both = {key: _over(base[key], value) for key, value in own.items() if _are_tables(base.get(key), value)}
    return {**base, **own, **both}


def _are_tables(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _fault_of_stages(recipe: Recipe) -> str:
    """What the stages need of the rest of the recipe and do not find there, "" for nothing."""
    for i, stage in enumerate(recipe.stage):
        if stage.margin and recipe.model.head != "arcface":
            return f'stage.{i}.margin needs a head with angles: set model.head = "arcface", or it to 0'
    if recipe.stage[0].start_from != "last":
        return "stage.0.start_from: there is no stage before the first one"
    if not recipe.train.ema and any(stage.start_from == "average" for stage in recipe.stage):
        return 'stage start_from = "average" needs a moving average: set train.ema'
    return _fault_of_recording(recipe)


def _fault_of_recording(recipe: Recipe) -> str:
    """What of the stages cannot be recorded as a CUDA graph, "" for nothing."""
    train, key = recipe.train, "train.cuda_graphs"
    if not train.cuda_graphs:
        if train.compile_mode not in RECORDING_MODES:
            return ""
        key = f'train.compile_mode = "{train.compile_mode}"'
    for i, stage in enumerate(recipe.stage):
        if stage.accumulate > 1:
            return (
                f"stage.{i}.accumulate = {stage.accumulate}: {key} records steps of one batch; set accumulate to 1, or "
                "leave the other out"
            )
        if stage.checkpoint_activations and train.cuda_graphs:
            return (
                f"stage.{i}.checkpoint_activations: what is computed again asks for the state of the random numbers, "
                f"which {key} cannot record; leave out one of the two"
            )
    return ""
