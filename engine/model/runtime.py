"""How a device is used: precision, memory format, compiling; decided alike for training and prediction."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Literal, Self

import torch

from engine.errors import RecipeError
from engine.model.build import Classifier
from engine.recipe.sections import TrainSection
from engine.system import compiler

# By device: pixels, and images at most, that a network answers about at once. A core has enough to do with 16 small
# images, and each is what a single photo costs; a GPU wants more. Other numbers change the last bits of answers.
_AT_ONCE = {"cpu": (16 * 96 * 96, 16), "cuda": (16 * 384 * 384, 64)}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a device is used."""

    device: torch.device
    bf16: bool
    channels_last: bool
    compile: bool

    @classmethod
    def of(cls, section: TrainSection, device: torch.device) -> Self:
        """What the recipe says, `auto` decided: channels-last everywhere, as batches come out of the one pass; bf16 and
        compiling on a GPU alone, the latter where there is a compiler."""
        on_gpu = device.type == "cuda"
        bf16 = section.precision == "bf16" or (
            section.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return cls(
            device=device,
            bf16=bf16,
            channels_last=section.channels_last != "off",
            compile=section.compile == "on"
            or (section.compile == "auto" and on_gpu and compiler(_language(device)) is not None),
        )

    def settled(self, section: TrainSection) -> TrainSection:
        """The recipe's section as a checkpoint keeps it: with the memory format that was used, which the last bits of
        answers depend on, and no longer `auto`."""
        return section.model_copy(update={"channels_last": "on" if self.channels_last else "off"})

    @classmethod
    def of_checkpoint(cls, section: TrainSection, device: torch.device) -> Self:
        """As the saved recipe says. `auto` stands there only from before `settled`, when it meant: on a GPU."""
        if section.channels_last == "auto" and device.type != "cuda":
            section = section.model_copy(update={"channels_last": "off"})
        return cls.of(section, device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images: what the first layer would cast them to anyway."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def images_at_once(self, height: int, width: int) -> int:
        """How many images of a size a network sees together when it answers: always so many, so that the last bits of
        an answer do not depend on how many are asked about (see inference/microbatches.py). A power of two."""
        pixels, most = _AT_ONCE[self.device.type]
        fits = min(most, pixels // (height * width))
        return 1 << (max(1, fits).bit_length() - 1)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def place(self, model: Classifier) -> Classifier:
        """`model` on the device, in the memory format."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)


def check_compiler(section: TrainSection, device: torch.device) -> str:
    """What to tell where training is slower for want of a compiler, "" for nothing. Raises RecipeError where the recipe
    insists on compiling and there is nothing to compile with."""
    language = _language(device)
    if section.compile == "off" or compiler(language) is not None:
        return ""
    install = "install gcc" if language == "C" else "install g++"
    if section.compile == "on":
        raise RecipeError(
            f'train.compile = "on" needs a {language} compiler, and there is none here: {install}, or set '
            'train.compile = "off"'
        )
    if device.type == "cuda":
        return f"no {language} compiler is here, so the training step is not compiled, and slower: {install}"
    return ""


def _language(device: torch.device) -> Literal["C", "C++"]:
    """What torch.compile needs a compiler for: Triton's launchers are C, code for the CPU is C++."""
    return "C" if device.type == "cuda" else "C++"
