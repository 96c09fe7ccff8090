"""Weights from a local file into a model: what fits is taken, what may be left out is named, all else is an error.

`load_state_dict(strict=False)` would accept the file of another backbone and train from noise. Here a backbone must be
found whole; only heads may differ, since a new task brings its own classes. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from engine.errors import RecipeError
from engine.text import some

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # where timm's and others' training files keep it
_PREFIXES = ("_orig_mod.", "module.")  # left by torch.compile and DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a weights file gave: tensor names of the model, and of the file."""

    taken: tuple[str, ...]
    ignored: tuple[str, ...]  # in the file (heads), not used
    fresh: tuple[str, ...]  # in the model (pooling, head), keeping their fresh values


@dataclasses.dataclass(frozen=True)
class _Comparison:
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.misshapen or self.unexpected)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a PyTorch file (a state dict, bare or under a usual key), by name.

    Raises RecipeError when the file is missing, damaged, or holds anything that would have to be unpickled.
    """
    key = f'model.weights = "{path}"'
    if path.is_dir():
        raise RecipeError(f"{key} is a folder; name the file in it, for example {path / 'weights.safetensors'}")
    if not path.is_file():
        raise RecipeError(f'{key}: no such file; give the path of a weights file, or "" for none')
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(
            f"{key}: cannot be read as tensors ({reason}). Only .safetensors files and PyTorch files of plain tensors "
            "are read, because unpickling anything else could run its code; save the state dict alone"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise RecipeError(f"{key}: expected a state dict (names to tensors), bare or under one of {_WRAPPERS}")
    return {_bare(name): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, path: Path, timm_names: Collection[str]) -> Loaded:
    """Copy weights into `model`, a Classifier, in place.

    The file is a checkpoint of this engine (its pooling and head are taken too where they fit) or of the plain timm
    model, whose head is ignored. `timm_names` are the tensor names of that plain model with its head.
    Raises RecipeError that lists what did not fit.
    """
    file = read_weights(path)
    target = model.state_dict()
    if any(name.startswith("backbone.") for name in file):
        source = file
    else:
        source = {f"backbone.{name}": tensor for name, tensor in file.items()}
        if not _compare(target, source, timm_names).fits:
            source = _converted(model.get_submodule("backbone"), file) or source
    found = _compare(target, source, timm_names)
    if not found.fits:
        faults = {
            "not in the file": found.missing,
            "of another shape": found.misshapen,
            "only in the file": found.unexpected,
        }
        raise RecipeError(
            f'model.weights = "{path}" does not fit model.backbone: '
            + "; ".join(f"{what}: {some(names, 6, str)}" for what, names in faults.items() if names)
            + ". Name the backbone that the file was saved from"
        )
    taken = {n: t for n, t in source.items() if n in target and t.shape == target[n].shape}
    model.load_state_dict(taken, strict=False)
    return Loaded(
        taken=tuple(taken),
        ignored=tuple(n for n in source if n not in taken),
        fresh=tuple(n for n in target if n not in taken),
    )


def _compare(target: Mapping[str, Tensor], source: Mapping[str, Tensor], timm_names: Collection[str]) -> _Comparison:
    heads = {f"backbone.{name}" for name in timm_names} - target.keys()
    backbone = [name for name in target if name.startswith("backbone.")]
    return _Comparison(
        missing=[n for n in backbone if n not in source and not n.endswith("num_batches_tracked")],
        misshapen=[
            f"{n} (file {list(source[n].shape)}, model {list(target[n].shape)})"
            for n in backbone
            if n in source and source[n].shape != target[n].shape
        ],
        unexpected=[n for n in source if n.startswith("backbone.") and n not in target and n not in heads],
    )


def _converted(backbone: nn.Module, file: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """The file through timm's own converter for this architecture (original releases, other grid sizes), if any."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return {f"backbone.{name}": tensor for name, tensor in convert(dict(file), backbone).items()}
    except (KeyError, RuntimeError, AttributeError, AssertionError, ValueError, IndexError):
        return None  # the file of some other architecture: the plain comparison says so in words


def _bare(name: str) -> str:
    for prefix in _PREFIXES * 2:
        name = name.removeprefix(prefix)
    return name
