"""The decode section: how JPEG bytes become pixels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.recipe.sections.base import PathText, Section

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
        description="MiB that batches made ahead may take together, on the GPU where that decodes: decoded ones and, for a model on a GPU, finished ones; fewer than `prefetch` are made ahead where they would take more, but always one. 0: an eighth of the memory.",
    )
    cache: Literal["off", "device", "host", "disk"] = Field(
        "off",
        description="Where training keeps photos decoded, so that from the second epoch on they are neither read nor decoded: device: the model's memory; host: main memory; disk: files that are mapped into memory. Each photo is kept, and decoded, whole, at the largest reduction that the stage can use, and pixels are the same whether it fits or not. So it pays where most photos fit, which `--dry-run` tells; what does not fit takes longer than without. Several processes on a machine share what is on disk; in memory each keeps what it meets, which another one may be given in the next epoch.",
    )
    cache_mb: int = Field(
        0,
        ge=0,
        description="MiB that kept photos may take. 0: a quarter of the memory, half of what is free on the disk. Processes on a machine share it, but for that of devices.",
    )
    cache_dir: PathText = Field(
        "",
        description="cache = disk: the folder for it. Empty: the user's cache folder. A finished run leaves nothing there; an interrupted one goes on with it, unless the machine was started anew.",
    )

    @model_validator(mode="after")
    def _has_a_use_for_its_folder(self) -> DecodeSection:
        if self.cache in ("device", "host") and self.cache_dir:
            raise ValueError(
                f'cache_dir: a folder is for cache = "disk", and it is "{self.cache}"; set that, or leave it out'
            )
        return self

    @model_validator(mode="after")
    def _fast_is_of_turbo(self) -> DecodeSection:
        if self.fast == "on" and (self.decoder == "dali" or self.device == "gpu"):
            raise ValueError('fast: DALI has nothing of the kind; set it to "off", or decoder to "turbo"')
        return self


DEFAULT_DECODE = DecodeSection()
"""As a recipe that says nothing about it."""
