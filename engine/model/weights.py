"""Weights from a local file into a model: what fits is taken, what may be left out is named, all else is an error.

`load_state_dict(strict=False)` would accept the file of another backbone and train from noise. Here a backbone must be
found whole; only heads may differ, since a new task brings its own classes. Nothing is unpickled.

Tools put a state dict under a key of their own and a prefix of their own before its names (Lightning, DDP,
torch.compile, wrappers in wrappers). A list of these would always lack one, so they are found by structure: every state
dict in the file is tried, and a prefix is whatever stands before the names that the backbone has.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from engine.errors import RecipeError
from engine.text import count, some

Tensors = Mapping[str, Tensor]

# Parts of names that wrappers put in anywhere: torch.compile, FSDP, activation checkpointing. No module is called so.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_AVERAGED = re.compile(r"(^|[._])(ema|teacher|average|averaged|averages|swa|shadow)([._]|$)")
_DEEPEST = 4  # keys that a state dict lies under, at most
_PREFIXES = 6  # that are tried, the likeliest first
# Plain data without code, which training scripts (timm's, torchvision's) save beside the weights.
_HARMLESS = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of a file goes where in a model: tensors by the model's names. `said`, in words: where they were found, what
    was done to their names, how many fit, and what is left over on both sides."""

    tensors: Tensors
    said: str


@dataclasses.dataclass(frozen=True)
class _Comparison:
    wanted: int  # tensors of the backbone
    missing: list[str]
    misshapen: list[str]
    unexpected: list[str]

    @property
    def fitting(self) -> int:
        return self.wanted - len(self.missing) - len(self.misshapen)

    @property
    def fits(self) -> bool:
        return not (self.missing or self.misshapen or self.unexpected)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A way to read a file: names as the model has them -> tensors; `how` it was come by, in words."""

    tensors: Tensors
    ignored: tuple[str, ...]
    how: tuple[str, ...]
    found: _Comparison


def read_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a .safetensors or PyTorch file, by the keys that they lie under ("" for none), averaged
    weights first.

    Raises RecipeError when the file is missing, damaged, or holds anything that would have to be unpickled.
    """
    key = f'model.weights = "{path}"'
    if path.is_dir():
        raise RecipeError(f"{key} is a folder; name the file in it, for example {path / 'weights.safetensors'}")
    if not path.is_file():
        raise RecipeError(f'{key}: no such file; give the path of a weights file, or "" for none')
    try:
        if path.suffix == ".safetensors":
            return {"": _unwrapped(safetensors.torch.load_file(path))}
        with torch.serialization.safe_globals(list(_HARMLESS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise RecipeError(
            f"{key}: cannot be read as tensors ({_reason(error)}). Only .safetensors files and PyTorch files of plain "
            "tensors are read, because unpickling anything else could run its code; save the state dict alone"
        ) from error
    found = {where: _unwrapped(tensors) for where, tensors in _state_dicts(content)}
    if not found:
        raise RecipeError(f"{key}: expected a state dict (names to tensors), bare or under a key such as 'state_dict'")
    return dict(sorted(found.items(), key=lambda item: not _AVERAGED.search(item[0])))


def fit_weights(target: Tensors, backbone: nn.Module, path: Path, plain: Tensors) -> Fit:
    """How the file at `path` fits a Classifier, whose tensors by name are `target` (shapes alone count).

    The file is a checkpoint of this engine (its pooling and head are taken too where they fit), or one of the plain
    timm model, whose head is ignored, whatever a tool has put before its names. A PyTorch file with other names
    altogether is taken when kinds and shapes of all its tensors are the backbone's in the same order. `plain` are the
    tensors of that plain model with its head, in its order. Raises RecipeError that counts and lists what did not fit.
    """
    found = read_weights(path)
    best: _Reading | None = None
    for ways in (_by_name, _by_converter, _by_order):
        for where, file in found.items():
            if ways is _by_order and path.suffix == ".safetensors":  # which sorts its tensors
                continue
            for reading in ways(target, backbone, file, plain):
                if reading.found.fits:
                    return _fit(target, path, where, reading)
                if best is None or reading.found.fitting > best.found.fitting:
                    best = reading
    assert best is not None  # a file has a state dict, and a state dict can be read by name
    raise RecipeError(_misfit(path, best))


def load_weights(model: nn.Module, path: Path, plain: Tensors) -> Fit:
    """Copy weights into `model`, a Classifier, in place; see `fit_weights`."""
    fit = fit_weights(model.state_dict(), model.get_submodule("backbone"), path, plain)
    model.load_state_dict(fit.tensors, strict=False)
    return fit


# --- ways to read a file ---------------------------------------------------------------------------------------------


def _by_name(target: Tensors, _: nn.Module, file: Tensors, plain: Tensors) -> Iterator[_Reading]:
    """Under each likely prefix, as it stands."""
    for prefix in _prefixes(file, plain):
        source = _under(file, prefix)
        how = () if prefix in ("", "backbone.") else (f'"{prefix}" taken off its names',)
        yield _Reading(source, _outside(file, prefix), how, _compare(target, source, plain))


def _by_converter(target: Tensors, backbone: nn.Module, file: Tensors, plain: Tensors) -> Iterator[_Reading]:
    """Through timm's own converter for this architecture (original releases, other grid sizes), if there is one."""
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return
    for prefix in _prefixes(file, plain):
        own = {name.removeprefix(prefix): tensor for name, tensor in file.items() if name.startswith(prefix)}
        try:
            converted = {f"backbone.{name}": tensor for name, tensor in convert(own, backbone).items()}
        except (KeyError, RuntimeError, AttributeError, AssertionError, ValueError, IndexError):
            continue  # the file of some other architecture: the plain comparison says so in words
        how = (f'"{prefix}" taken off its names',) if prefix else ()
        found = _compare(target, converted, plain)
        yield _Reading(converted, _outside(file, prefix), (*how, "converted by timm"), found)


def _by_order(target: Tensors, _: nn.Module, file: Tensors, plain: Tensors) -> Iterator[_Reading]:
    """By the order of the tensors, when all agree in shape and in the last part of their names (weight, bias,
    running_mean): the names of another implementation of the same architecture."""
    theirs = [(name, tensor) for name, tensor in file.items() if not name.endswith("num_batches_tracked")]
    ours = [(name, tensor) for name, tensor in plain.items() if not name.endswith("num_batches_tracked")]
    kinds = [[(n.rpartition(".")[2], t.shape) for n, t in side] for side in (theirs, ours)]
    backbone = sum(f"backbone.{name}" in target for name, _ in ours)
    if len(theirs) < backbone or kinds[0] != kinds[1][: len(theirs)]:
        return
    source = {f"backbone.{name}": tensor for (name, _), (_, tensor) in zip(ours, theirs, strict=False)}
    how = ("taken by their order, since their names are others",)
    yield _Reading(source, (), how, _compare(target, source, plain))


def _prefixes(file: Tensors, plain: Tensors) -> list[str]:
    """What stands before the names of the backbone, the likeliest first; at last what all names share, and nothing."""
    votes: Counter[str] = Counter()
    for name in file:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in plain:
                votes["".join(f"{part}." for part in parts[:at])] += 1
                break
    ranked = sorted(votes, key=lambda prefix: (-votes[prefix], not _AVERAGED.search(prefix), len(prefix)))
    return list(dict.fromkeys([*ranked[:_PREFIXES], _shared(list(file)), ""]))


def _shared(names: list[str]) -> str:
    """The whole parts that all names begin with."""
    parts = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(f"{column[0]}.")
    return "".join(shared)


def _under(file: Tensors, prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix as the backbone's; beside one that is called so, also pooling and head."""
    source = {f"backbone.{name.removeprefix(prefix)}": t for name, t in file.items() if name.startswith(prefix)}
    if prefix.endswith("backbone."):
        stem = prefix.removesuffix("backbone.")
        others = (f"{stem}pool.", f"{stem}head.")
        source |= {name.removeprefix(stem): t for name, t in file.items() if name.startswith(others)}
    return source


def _outside(file: Tensors, prefix: str) -> tuple[str, ...]:
    """The file's names that are not read under a prefix."""
    stem = prefix.removesuffix("backbone.") if prefix.endswith("backbone.") else None
    read = (prefix, *(() if stem is None else (f"{stem}pool.", f"{stem}head.")))
    return tuple(name for name in file if not name.startswith(read))


# --- what fits ------------------------------------------------------------------------------------------------------


def _compare(target: Tensors, source: Tensors, plain: Tensors) -> _Comparison:
    heads = {f"backbone.{name}" for name in plain} - target.keys()
    backbone = [name for name in target if name.startswith("backbone.") and not name.endswith("num_batches_tracked")]
    return _Comparison(
        wanted=len(backbone),
        missing=[n for n in backbone if n not in source],
        misshapen=[
            f"{n} (file {list(source[n].shape)}, model {list(target[n].shape)})"
            for n in backbone
            if n in source and source[n].shape != target[n].shape
        ],
        unexpected=[n for n in source if n.startswith("backbone.") and n not in target and n not in heads],
    )


def _fit(target: Tensors, path: Path, where: str, reading: _Reading) -> Fit:
    taken = {n: t for n, t in reading.tensors.items() if n in target and t.shape == target[n].shape}
    ignored = (*(n for n in reading.tensors if n not in taken), *reading.ignored)
    fresh = tuple(n for n in target if n not in taken and not n.endswith("num_batches_tracked"))
    wanted = reading.found.wanted
    parts = [f"all {wanted} tensors of the backbone fit", *([f'found under "{where}"'] if where else []), *reading.how]
    said = f"{path}: {', '.join(parts)}"
    said += f"; not used: {some(ignored, 4, str)}" if ignored else ""
    said += f"; fresh: {some(fresh, 4, str)}" if fresh else ""
    return Fit(taken, said)


def _misfit(path: Path, reading: _Reading) -> str:
    found = reading.found
    faults = {
        "not in the file": found.missing,
        "of another shape": found.misshapen,
        "only in the file": found.unexpected,
    }
    parts = [f"{what}: {some(names, 6, str)}" for what, names in faults.items() if names]
    how = f" ({', '.join(reading.how)})" if reading.how else ""
    return (
        f'model.weights = "{path}" does not fit model.backbone: {found.fitting} of '
        f"{count(found.wanted, 'tensor')} fit{how}; {'; '.join(parts)}. Name the backbone that the file was saved from"
    )


# --- what is in a file ----------------------------------------------------------------------------------------------


def _state_dicts(content: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """All mappings from names to tensors in what was read, with the keys they lie under, from the outside in."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield ".".join(keys), tensors
    if len(keys) < _DEEPEST:
        for name, value in content.items():
            yield from _state_dicts(value, (*keys, name))


def _unwrapped(tensors: Tensors) -> dict[str, Tensor]:
    def bare(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in _WRAPPERS)

    return {bare(name): tensor for name, tensor in tensors.items()}


def _reason(error: Exception) -> str:
    """Why a file was refused, in a line: for what would have to be unpickled, the name of it."""
    text = str(error)
    if found := re.search(r"Unsupported (?:global|class): (?:GLOBAL )?([\w.]+)", text):
        return f"it holds an object of {found[1]}"
    return text.splitlines()[0] if text else type(error).__name__
