"""The ensemble section: how several answers become one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.recipe.sections.base import Section


class EnsembleSection(Section):
    """How the answers of several members (folds, kept epochs) become one."""

    vote: Literal["soft", "logit", "hard", "rank", "median"] = Field(
        "soft",
        description="How answers of views, kept epochs and folds become one. soft: the mean of their probabilities; logit: of their logits, which is the geometric mean of probabilities; hard: shares of first answers, ties decided by soft; rank: the mean of 1/place; median: of each class's probabilities, made to sum to 1.",
    )
