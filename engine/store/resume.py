"""What going on with a fold's training needs: optimiser, schedule, averages, position.

Read with `weights_only`, so that nothing is unpickled; apart from the checkpoint, because answering never needs it and
it is several times as large.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.files import atomic_write, remove_leftovers


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state into the file at `path`: dicts, lists and tuples of tensors, numbers, strings, booleans,
    dtypes, None.

    Raises TypeError, naming the entry, for anything else: reading it back without unpickling would fail, when it is
    too late.
    """
    _check_plain(state, "state")
    remove_leftovers(path)
    with atomic_write(path, _bytes_of(state)) as temporary, temporary.open("wb") as file:
        torch.save(state, file)  # a file of ours: torch's own keeps to itself why it could not write


def save_begun(path: Path) -> None:
    """Write into the file at `path` that training has begun, and nothing is there to go on from. Models beside no such
    file were trained elsewhere, and are not to be replaced."""
    save_resume(path, {"finished": False})


def load_resume(path: Path) -> dict[str, Any] | None:
    """What `save_resume` wrote, tensors on the CPU; None when there is nothing to go on from.

    Raises CheckpointError when the file is damaged or holds anything that would have to be unpickled.
    """
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged pickle makes it stumble over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({reason}); copy it again, or move {path.parent} away to train this fold from "
            "the start"
        ) from error


def _bytes_of(state: Any) -> int:
    """About how large the file will be."""
    if isinstance(state, Tensor):
        return state.nbytes
    items = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(_bytes_of, items))


def _check_plain(value: Any, where: str) -> None:
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not (value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes, torch.dtype)):
        raise TypeError(f"{where} is a {type(value).__name__}; convert it to a tensor or a plain Python value")
