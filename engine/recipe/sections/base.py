"""What all sections are made of: frozen, strict, and a few types of values that several of them use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """Frozen; unknown keys are refused (load.py then names the nearest valid one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Pixels = Annotated[int, Field(ge=8, le=4096)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_pair)]
Switch = Literal["auto", "on", "off"]
Names = tuple[Annotated[str, Field(min_length=1)], ...]
