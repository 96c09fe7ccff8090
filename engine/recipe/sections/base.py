"""What all sections are made of: frozen, strict, and a few types of values that several of them use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from engine.files import expanded


class Section(BaseModel):
    """Frozen; unknown keys are refused (load.py then names the nearest valid one)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _pair(value: object) -> object:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Pixels = Annotated[int, Field(ge=8, le=4096)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_pair)]
Switch = Literal["auto", "on", "off"]
Names = tuple[Annotated[str, Field(min_length=1)], ...]

PathText = Annotated[str, AfterValidator(expanded)]
"""A key that is a file or a folder: `~` and `$NAME` in it are expanded when the recipe is read, and never again. What
is saved is what came of it. Every key that is a path is of this type, so none of them can be forgotten."""
