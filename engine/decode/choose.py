"""Which decoder a recipe means, and where it works."""

from __future__ import annotations

import torch

from engine.decode.dali import DaliDecoder
from engine.decode.decoder import Decoder
from engine.decode.pillow import PillowDecoder
from engine.decode.turbo import Memory, TurboDecoder, fresh
from engine.errors import RecipeError
from engine.kernels import jpeg
from engine.recipe.sections import DecodeSection


def decoder_for(section: DecodeSection, device: torch.device, memory: Memory = fresh) -> Decoder:
    """A decoder for a model on `device`, which loads nothing before it is used. The pixels of a batch may come to lie
    in what `memory` gives.

    Raises RecipeError when the recipe demands what is not to be had.
    """
    others = PillowDecoder(section.threads, section.background, section.max_megapixels)
    gpu = None
    if device.type == "cuda":
        gpu = torch.cuda.current_device() if device.index is None else device.index
    device = decode_device(section, device)
    if uses_turbo(section, device):
        return TurboDecoder(section.threads, memory, others, section.fast == "on")
    return DaliDecoder(device, section.threads, others, gpu)


def decode_device(section: DecodeSection, device: torch.device) -> torch.device:
    """Where images are decoded for a model on `device`: what the recipe says, or beside the model."""
    if section.device == "cpu" or (section.device == "auto" and device.type != "cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError('decode.device = "gpu": no CUDA device is visible; use "auto" or "cpu"')
    return device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())


def uses_turbo(section: DecodeSection, device: torch.device) -> bool:
    """Whether libjpeg-turbo decodes, given that decoding happens on `device`."""
    if section.decoder != "turbo":
        return section.decoder == "auto" and device.type == "cpu" and jpeg.available()
    if device.type != "cpu":
        raise RecipeError('decode.decoder = "turbo" decodes on the CPU: set decode.device = "cpu", or decoder = "auto"')
    if not jpeg.available():
        raise RecipeError(f'decode.decoder = "turbo": {jpeg.why_not()}; or use "auto"')
    return True
