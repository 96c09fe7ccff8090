"""The distill section: a teacher, whose answers are learnt beside the labels."""

from __future__ import annotations

from pydantic import Field

from engine.recipe.sections.base import PathText, Section


class DistillSection(Section):
    """Learning from what trained models answer (Hinton et al. 2015), as `engine distill` has a small model do.

    Of each training image the target is the label, and the teacher's out-of-fold answer: that of models which were not
    trained on the image. They are joined by id and by the names of classes.
    """

    teacher: PathText = Field(
        "", description='The folder of a finished run, or of an ensemble of several. "": learn from labels alone.'
    )
    weight: float = Field(
        0.7,
        ge=0,
        le=1,
        description="How much the teacher's answer counts of what is learnt of an image; the rest is its label.",
    )
    temperature: float = Field(
        1.0,
        ge=0.1,
        le=20,
        description="Both answers are compared after their logits were divided by this. Above 1, what the teacher says of unlikely classes counts more.",
    )
    unlabelled: PathText = Field(
        "",
        description="Photos without labels to learn from as well: the predictions.parquet that the teacher's `engine infer --data PHOTOS` wrote. `engine distill --unlabelled PHOTOS` has it written.",
    )
