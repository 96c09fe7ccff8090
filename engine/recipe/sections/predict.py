"""The predict section: how images are answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import Section


class PredictSection(Section):
    """Answering."""

    tta: int = Field(1, ge=1, le=10, description="Views of each image to average (test-time augmentation).")
    views: Literal["zooms", "crops"] = Field(
        "zooms",
        description="zooms: the image as it was validated, then mirrored, closer and from farther off; crops: with tta = 5 its middle and four corners, 224 / 256 of each side, with tta = 10 each of them mirrored, too.",
    )
    batch: int = Field(
        64, ge=1, description="Photos that are decoded together; answers are the same to the last bit whatever it is."
    )
    positive_class: str = Field(
        "",
        description="The class that a sample submission with one column of probabilities asks for. Empty: the one that the column is called after, or of two classes the one called 1, yes, true or positive, else the later.",
    )
    specialists: bool = Field(
        True, description="Whether the specialists that were trained beside the models are asked."
    )

    @model_validator(mode="after")
    def _crops_come_in_fives(self) -> PredictSection:
        if self.views == "crops" and self.tta not in (5, 10):
            raise ValueError(f'tta: views = "crops" has 5 or 10 of them, got {self.tta}')
        return self
