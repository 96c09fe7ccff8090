"""The decode section: how JPEG bytes become pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import Section

Share = Annotated[float, Field(ge=0, le=1)]


class DecodeSection(Section):
    """JPEG bytes to pixels."""

    device: Literal["auto", "gpu", "cpu"] = Field(
        "auto", description="Where to decode. auto: on the GPU when there is one."
    )
    decoder: Literal["auto", "dali", "turbo"] = Field(
        "auto",
        description="dali: NVIDIA DALI; turbo: libjpeg-turbo, on the CPU, only the part of a photo that a training image shows and no larger than needed. auto: turbo on the CPU where it is built in, else dali.",
    )
    background: tuple[Share, Share, Share] = Field(
        (1.0, 1.0, 1.0),
        description="The colour (red, green, blue, each 0 to 1) over which transparent pictures lie. It is kept with the weights, so answers see what training saw.",
    )
    max_megapixels: float = Field(
        250.0,
        gt=0,
        le=100_000,
        description="Millions of pixels that a file may promise; larger ones are set aside before any memory is taken. Phones' 200 megapixels pass.",
    )
    fast: Literal["on", "off"] = Field(
        "off",
        description="turbo: on decodes training images a tenth faster, with colours off by 1.2 of 255 steps on average. Scored images stay exact.",
    )
    threads: int = Field(0, ge=0, le=256, description="CPU threads for decoding. 0: one per available core.")
    prefetch: int = Field(2, ge=1, le=16, description="Decoded batches kept ready ahead of the model.")
    prefetch_mb: int = Field(
        0,
        ge=0,
        description="MiB that decoded batches may take together, on the GPU where that decodes: fewer than `prefetch` are made ahead where they would take more, but always one. 0: an eighth of the memory.",
    )

    @model_validator(mode="after")
    def _fast_is_of_turbo(self) -> DecodeSection:
        if self.fast == "on" and (self.decoder == "dali" or self.device == "gpu"):
            raise ValueError('fast: DALI has nothing of the kind; set it to "off", or decoder to "turbo"')
        return self


DEFAULT_DECODE = DecodeSection()
"""As a recipe that says nothing about it."""
