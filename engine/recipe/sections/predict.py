"""The predict section: how images are answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from engine.recipe.sections.base import Section
from engine.text import nearest


def _mirrored(*names: str) -> tuple[str, ...]:
    """Each of the views with its mirror image behind it."""
    return tuple(both for name in names for both in (name, f"{name}_flip"))


# The names of views; what they show is said in engine/augment/views.py. The recipe imports no room, so they stand here.
ZOOMS = _mirrored("plain", "zoom_in", "zoom_out", "closer", "farther")
"""In the order in which `tta` takes them. It must stay, or old recipes would answer otherwise."""
CROPS = _mirrored("center", "upper_left", "upper_right", "lower_left", "lower_right")
TURNS = _mirrored("turn_90", "turn_180", "turn_270")
SCALES = _mirrored("scale_0.75", "scale_1.25", "scale_1.5")
FITS = _mirrored("fit_letterbox", "fit_center", "fit_stretch")
VIEW_NAMES = (*ZOOMS, *CROPS, *TURNS, *SCALES, *FITS)
SHORT = {"flip": "plain_flip", "vflip": "turn_180_flip"}
"""What two of them may be called for short: mirrored left to right, and top to bottom."""


def whole_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The views by their whole names. Raises ValueError for a list that is empty, or names one that does not exist, or
    one twice."""
    whole = tuple(SHORT.get(name, name) for name in names)
    if not whole:
        raise ValueError("an empty list: name at least one view, such as plain")
    for i, name in enumerate(whole):
        if name not in VIEW_NAMES:
            raise ValueError(f"there is no view {name!r}; nearest: {', '.join(nearest(name, (*VIEW_NAMES, *SHORT)))}")
        if name in whole[:i]:
            raise ValueError(f"{name} is named twice")
    return whole


class PredictSection(Section):
    """Answering."""

    tta: int = Field(
        1,
        ge=1,
        le=len(VIEW_NAMES),
        description="Views of each image to average (test-time augmentation): so many of `views`, which is up to 10. A list of views says it by itself.",
    )
    views: Literal["zooms", "crops"] | tuple[str, ...] = Field(
        "zooms",
        description=f"zooms: in this order, and each followed by its mirror image, the image as it was validated, closer (1.15), from farther off (0.87), closer still (1.3) and farther still (0.75); crops: with tta = 5 its middle and four corners, 224 / 256 of each side, with tta = 10 each of them mirrored, too; or a list of names: {', '.join(VIEW_NAMES[::2])}, each also mirrored, as plain_flip, and {' and '.join(SHORT)} for {' and '.join(SHORT.values())}.",
    )
    batch: int = Field(
        64, ge=1, description="Photos that are decoded together; answers are the same to the last bit whatever it is."
    )
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

    prior: Literal["off", "estimate"] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        "off",
        description="The shares of the classes among the images to predict, where they are not those of the training images: a table with a share for each class (they need not sum to 1), or estimate: found from the answers to all images together.",
    )
    risk: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Above 0: each answer has a set of classes, too, that lacks the true one in no more than this share of images (0.01: one in a hundred). 0: off.",
    )
    risk_method: Literal["aps", "raps"] = Field(
        "raps",
        description="How such sets are made. aps: the likeliest classes up to a sum of probabilities; raps: the same, with a penalty on large sets.",
    )
    risk_by_class: bool = Field(False, description="Whether the risk holds for each class by itself: larger sets.")
    abstain_accuracy: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Above 0: the least sure answers are marked, so that of the others this share is right. 0: off.",
    )
    false_alarms: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Above 0: images unlike anything in training are marked, and this share of ordinary images with them. 0: off.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the views that are shown of each image, in order."""
        if self.views == "zooms":
            return ZOOMS[: self.tta]
        if self.views == "crops":
            return CROPS if self.tta == len(CROPS) else CROPS[::2]
        return self.views

    @model_validator(mode="before")
    @classmethod
    def _a_list_of_views_is_counted(cls, table: Any) -> Any:
        """Views go by their whole names, and `tta`, where it is left out, is their number."""
        views = table.get("views") if isinstance(table, Mapping) else None
        if not isinstance(views, tuple) or not all(isinstance(name, str) for name in views):
            return table
        try:
            return {"tta": len(views), **table, "views": whole_names(views)}
        except ValueError as error:
            raise ValueError(f"views: {error}") from None

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
    def _there_are_such_views(self) -> PredictSection:
        if self.views == "crops":
            if self.tta not in (5, 10):
                raise ValueError(f'tta: views = "crops" has 5 or 10 of them, got {self.tta}')
        elif self.views == "zooms":
            if self.tta > len(ZOOMS):
                raise ValueError(f'tta: views = "zooms" has {len(ZOOMS)} of them, got {self.tta}')
        elif self.tta != len(self.views):
            count = len(self.views)
            raise ValueError(f"tta: views is a list of {count}, got {self.tta}; set tta = {count}, or leave it out")
        return self
