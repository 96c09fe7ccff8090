"""Specialists: second models for classes that look alike, each with sections of its own."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.recipe.sections.augment import AugmentSection
from engine.recipe.sections.base import Names, Section
from engine.recipe.sections.model import ModelSection
from engine.recipe.sections.train import StageSection, TrainSection


class SpecialistSection(Section):
    """A second model for classes that look alike, asked about the images to which the main model gives one of them.

    It is trained after the main model, fold by fold with the same folds, in a folder of its own. Keys of its `model`,
    `train` and `augment` that are not given are as in the recipe's.
    """

    name: str = Field(
        min_length=1,
        pattern=r"^\w[\w.-]*$",
        description="Its name, and that of its folder: letters, digits, _, - and full stops.",
    )
    classes: Names = Field(
        min_length=1,
        description="Two or more: it is trained on the images of these classes alone and answers among them. One: it is trained on all images and says whether they are of that class.",
    )
    blend: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Its share of the answer among its classes; the rest is the main model's. 1: its answer stands. May be changed after training: run the same command again.",
    )
    augment: AugmentSection | None = Field(None, description="Its augmentation, where it differs.")
    model: ModelSection | None = Field(None, description="Its network, where it differs.")
    train: TrainSection | None = Field(None, description="Its optimisation, where it differs.")
    stage: tuple[StageSection, ...] = Field((), description="Its stages. Empty: the recipe's.")

    @model_validator(mode="after")
    def _classes_differ(self) -> SpecialistSection:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a class is named twice")
        return self
