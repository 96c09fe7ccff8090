"""The ensemble section: how several answers become one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import Section


class EnsembleSection(Section):
    """How the answers of several members (folds, kept epochs) become one."""

    vote: Literal["soft", "logit", "hard", "rank", "median"] = Field(
        "soft",
        description="How answers of views, kept epochs and folds become one. soft: the mean of their probabilities; logit: of their logits, which is the geometric mean of probabilities; hard: shares of first answers, ties decided by soft; rank: the mean of 1/place; median: of each class's probabilities, made to sum to 1.",
    )
    weights: Literal["equal", "score", "fit", "select"] = Field(
        "equal",
        description="How much each kept epoch of a fold counts. equal: the same; score: by its log loss; fit: what makes the log loss of them together least; select: by forward selection with replacement. Fitted on out-of-fold predictions, and kept only where it gains on images that it was not fitted on.",
    )
    stack: Literal["off", "logistic", "boosting"] = Field(
        "off",
        description="A model that answers by what the kept epochs of a fold answer, in place of weights. logistic: a regression on their logits; boosting: trees. Kept only where it gains.",
    )
    calibrate: Literal["off", "auto", "temperature", "groups", "vector", "isotonic", "dirichlet"] = Field(
        "auto",
        description="How answers become as sure as they are right. temperature: one for all classes; groups: one a group of classes; vector: a factor and an offset a class; isotonic: each class against the rest, by a rising step; dirichlet: a linear map of log-probabilities; auto: whichever wins. Kept only where it gains.",
    )
    neighbours: Literal["off", "auto"] = Field(
        "off",
        description="auto: the most similar training images have a say, by a weight fitted out of fold, where that gains.",
    )
    neighbours_k: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (5, 20, 50), min_length=1, description="How many of them to try."
    )

    @model_validator(mode="after")
    def _weights_or_a_stack(self) -> EnsembleSection:
        if self.stack != "off" and self.weights != "equal":
            raise ValueError(
                f'stack = "{self.stack}" stands in place of weights: set weights = "equal", or stack = "off"'
            )
        return self
