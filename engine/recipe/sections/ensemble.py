"""The ensemble section: how several answers become one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.recipe.sections.base import Section


class EnsembleSection(Section):
    """How the answers of several members (folds, kept epochs) become one."""

    vote: Literal["soft", "logit"] = Field(
        "soft",
        description="How members' answers are averaged. soft: their probabilities; logit: their logits, which is the geometric mean of probabilities.",
    )
