"""The predict section: how images are answered."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from engine.recipe.sections.base import Section


class PredictSection(Section):
    """Answering."""

    tta: int = Field(1, ge=1, le=10, description="Views of each image to average (test-time augmentation).")
    views: Literal["zooms", "crops"] = Field(
        "zooms",
        description="zooms: the image as it was validated, then mirrored, closer and from farther off; crops: with tta = 5 its middle and four corners, 224 / 256 of each side, with tta = 10 each of them mirrored, too.",
    )
    batch: int = Field(64, ge=1, description="Images in a batch.")
    part: int = Field(
        0,
        ge=0,
        description="Images whose answers are put on disk together, after about half a minute in any case: what is decoded again when a prediction is killed. 0: as many as take little memory, up to 16,384.",
    )
    positive_class: str = Field(
        "",
        description="The class that a sample submission with one column of probabilities asks for. Empty: the one that the column is called after, or of two classes the one called 1, yes, true or positive, else the later.",
    )
    submission: str = Field(
        "auto",
        description="What a submission holds. auto: what data.sample_submission asks for, and without one the label and all probabilities; probabilities; labels; top3, top5 or any other number: so many labels in one column, the likeliest first, with blanks between them.",
    )
    float_format: str = Field(
        "%.8g",
        description="How a submission's probabilities are written, as in printf: %.8g, %.6f, %.4e. With digits behind the point that are fixed, rows are rounded so that they still sum to 1.",
    )
    specialists: bool = Field(
        True, description="Whether the specialists that were trained beside the models are asked."
    )

    @field_validator("submission")
    @classmethod
    def _is_a_form(cls, form: str) -> str:
        if not re.fullmatch(r"auto|probabilities|labels|top[1-9]\d*", form):
            raise ValueError(f"choose auto, probabilities, labels, or top and a number, such as top5; got {form!r}")
        return form

    @field_validator("float_format")
    @classmethod
    def _formats_a_number(cls, digits: str) -> str:
        if not re.fullmatch(r"%\.[0-9]{1,2}[efg]", digits):
            raise ValueError(f"expected such as %.8g, %.6f or %.4e, got {digits!r}")
        return digits

    @model_validator(mode="after")
    def _crops_come_in_fives(self) -> PredictSection:
        if self.views == "crops" and self.tta not in (5, 10):
            raise ValueError(f'tta: views = "crops" has 5 or 10 of them, got {self.tta}')
        return self
