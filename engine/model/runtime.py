"""How a device is used: precision, memory format, compiling; decided alike for training and prediction."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Literal, Self

import torch

from engine.errors import RecipeError
from engine.model.build import Classifier
from engine.recipe.sections import TrainSection
from engine.recipe.sections.train import RECORDING_MODES
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
    compile_mode: str = "default"  # torch's
    cuda_graphs: bool = False  # steps of training are recorded
    bf16_weights: bool = False  # steps of training go through a copy of the weights

    @classmethod
    def of(cls, section: TrainSection, device: torch.device) -> Self:
        """What the recipe says, `auto` decided: channels-last everywhere, as batches come out of the one pass; bf16 and
        compiling on a GPU alone, the latter where there is a compiler."""
        on_gpu = device.type == "cuda"
        bf16 = section.precision in ("bf16", "bf16_weights") or (
            section.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return cls(
            device=device,
            bf16=bf16,
            channels_last=section.channels_last != "off",
            compile=section.compile == "on"
            or (section.compile == "auto" and on_gpu and compiler(_language(device)) is not None),
            compile_mode=section.compile_mode,
            cuda_graphs=section.cuda_graphs and on_gpu,
            bf16_weights=section.precision == "bf16_weights",
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
    def recorded_compiling(self) -> bool:
        """Whether what is compiled is launched as CUDA graphs, whose results the next launch overwrites."""
        return self.compile and self.compile_mode in RECORDING_MODES

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


def check_speed(section: TrainSection, device: torch.device, world: int, accumulates: bool) -> list[str]:
    """What of `train` changes nothing on the device, in words. Raises RecipeError for what several processes cannot do,
    `accumulates` saying whether a step is put together from several batches."""
    if world > 1 and section.cuda_graphs:
        raise RecipeError(
            "train.cuda_graphs records the step of one process, without the exchange of gradients: set it to false, "
            'or train.compile_mode = "reduce-overhead", or start one process'
        )
    if world > 1 and accumulates and section.precision == "bf16_weights":
        raise RecipeError(
            'train.precision = "bf16_weights" with accumulate and several processes would add gradients up in bf16: '
            'set precision to "bf16", or accumulate to 1'
        )
    said = []
    if section.cuda_graphs and device.type != "cuda":
        said.append(f"train.cuda_graphs changes nothing on the {device.type.upper()}: it is for GPUs")
    if section.compile_mode != "default" and not Runtime.of(section, device).compile:
        said.append(f'train.compile_mode = "{section.compile_mode}" changes nothing: the step is not compiled here')
    return said


def _language(device: torch.device) -> Literal["C", "C++"]:
    """What torch.compile needs a compiler for: Triton's launchers are C, code for the CPU is C++."""
    return "C" if device.type == "cuda" else "C++"
