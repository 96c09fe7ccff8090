"""What is kept of a trained fold: `models/<fold>/` with weights.safetensors, checkpoint.json and resume.pt.

* `weights.safetensors`: the tensors of the scored model.
* `checkpoint.json`: everything else that answering needs (recipe, preprocessing contract, class names) and what a
  reader wants to know (metrics, data fingerprint, library versions), with the SHA-256 of the weights it belongs to.
* `resume.pt`: optimiser, schedule, averages, position; only for going on with training.

Nothing is unpickled: safetensors and JSON cannot hold code, and resume.pt is read with `weights_only`.

Two files cannot be renamed as one. The order is: checkpoint.next.json, weights.safetensors, then checkpoint.next.json
becomes checkpoint.json. Whenever a process dies, one of the two JSON files names the checksum of the weights that lie
there: before the weights are renamed the old one, afterwards the next one, which `load` then takes. So the old or the
new checkpoint is there, whole, at every moment, under names that never change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.errors import EngineError
from engine.files import atomic_write, remove_leftovers, write_text
from engine.system import library_versions

FORMAT = 1  # of checkpoint.json; raised when an older engine could not read it rightly

WEIGHTS = "weights.safetensors"
META = "checkpoint.json"
NEXT_META = "checkpoint.next.json"
RESUME = "resume.pt"
EPOCH_PREFIX = "epoch_"  # folders of kept epochs inside a fold's


class CheckpointError(EngineError):
    """A checkpoint that is missing, damaged or of a newer format; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Checkpoint:
    """One fold's model with all that is needed to answer with it. JSON values throughout, but for the weights."""

    weights: Mapping[str, Tensor]
    recipe: Mapping[str, Any]
    contract: Mapping[str, Any]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]  # training samples of each class: what is answered when nothing can be seen
    data_fingerprint: str
    metrics: Mapping[str, float]
    versions: Mapping[str, str] = dataclasses.field(default_factory=library_versions)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint into `folder`, replacing the one there only once the new one is whole and synced.

    One process at a time may write to a folder. Tensors may be on any device and of any memory format.
    """
    for name in (WEIGHTS, META, NEXT_META):
        remove_leftovers(folder / name)
    with atomic_write(folder / WEIGHTS) as temporary:
        tensors = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in checkpoint.weights.items()
        }
        safetensors.torch.save_file(tensors, temporary)
        write_text(folder / NEXT_META, _to_json(checkpoint, _sha256(temporary)))
    write_text(folder / META, (folder / NEXT_META).read_text("utf-8"))
    (folder / NEXT_META).unlink()


def load(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`, weights on the CPU.

    Raises CheckpointError when a file is missing or damaged, the weights are not those the JSON was written for, or
    the format is newer than this engine's.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a fold's folder, such as models/0")
    weights = folder / WEIGHTS
    metas = [path for path in (folder / META, folder / NEXT_META) if path.is_file()]
    for path, there in ((weights, weights.is_file()), (folder / META, bool(metas))):
        if not there:
            raise CheckpointError(
                f"{path} is missing; copy it from where the fold was trained, or train the fold again"
            )
    found = _sha256(weights)
    contents = [_read_meta(path) for path in metas]
    content = next((c for c in contents if c["weights_sha256"] == found), None)
    if content is None:
        raise CheckpointError(
            f"{weights} is not the file that {META} was written for (SHA-256 {found[:12]}, expected "
            f"{contents[0]['weights_sha256'][:12]}): cut short, changed or from another run; copy the folder again, or "
            "train the fold again"
        )
    try:
        tensors = safetensors.torch.load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{weights} cannot be read ({error}); train the fold again") from error
    return Checkpoint(
        weights=tensors,
        recipe=content["recipe"],
        contract=content["contract"],
        classes=tuple(content["classes"]),
        class_counts=tuple(content["class_counts"]),
        data_fingerprint=content["data_fingerprint"],
        metrics={name: math.nan if value is None else value for name, value in content["metrics"].items()},
        versions=content["versions"],
    )


def save_resume(folder: Path, state: Mapping[str, Any]) -> None:
    """Write what going on with training needs: dicts, lists and tuples of tensors, numbers, strings, booleans, None.

    Raises TypeError, naming the entry, for anything else: reading it back without unpickling would fail, when it is
    too late.
    """
    _check_plain(state, "state")
    path = folder / RESUME
    remove_leftovers(path)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_resume(folder: Path) -> dict[str, Any] | None:
    """What `save_resume` wrote, tensors on the CPU; None when there is nothing to go on from.

    Raises CheckpointError when the file is damaged or holds anything that would have to be unpickled.
    """
    path = folder / RESUME
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({reason}); delete it to train this fold from the start"
        ) from error


def find_folds(models: Path) -> list[Path]:
    """The folders of the checkpoints that answer together, by name with numbers as numbers (2 before 10).

    These are the fold folders in `models`; a fold that kept several epochs has them answer in its place. A fold's own
    folder is its only fold. Raises CheckpointError when there is none.
    """
    if not models.is_dir():
        raise CheckpointError(f"{models}: no such folder; train first, or give the folder that `engine train` wrote")
    if _has_checkpoint(models):
        return epoch_folders(models) or [models]
    fold_folders = sorted((path for path in models.iterdir() if _has_checkpoint(path)), key=_natural)
    folds = [voter for fold in fold_folders for voter in epoch_folders(fold) or [fold]]
    if not folds:
        raise CheckpointError(
            f"{models}: no fold in it holds a {META}; finish at least one epoch of `engine train`, or give the folder "
            "that it wrote"
        )
    return folds


def epoch_folders(fold: Path) -> list[Path]:
    """The epochs that a fold kept, in order; [] when it kept its best one alone."""
    return sorted((path for path in fold.glob(f"{EPOCH_PREFIX}*") if _has_checkpoint(path)), key=_natural)


def _has_checkpoint(folder: Path) -> bool:
    return (folder / META).is_file() or ((folder / NEXT_META).is_file() and (folder / WEIGHTS).is_file())


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def _to_json(checkpoint: Checkpoint, sha256: str) -> str:
    content = {
        "format": FORMAT,
        "weights_sha256": sha256,
        "classes": list(checkpoint.classes),
        "class_counts": list(checkpoint.class_counts),
        # JSON has no NaN or infinity
        "metrics": {n: float(v) if math.isfinite(v) else None for n, v in checkpoint.metrics.items()},
        "contract": checkpoint.contract,
        "data_fingerprint": checkpoint.data_fingerprint,
        "versions": checkpoint.versions,
        "recipe": checkpoint.recipe,
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # not UTF-8, or not JSON
        raise CheckpointError(f"{path} is damaged ({error}); copy it again, or train the fold again") from error
    keys = {"format", "weights_sha256", *(f.name for f in dataclasses.fields(Checkpoint) if f.name != "weights")}
    if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise CheckpointError(
            f"{path} is of format {content['format']}, this engine reads up to {FORMAT}; use a newer engine"
        )
    if not isinstance(content, dict) or not keys <= content.keys():
        lacking = sorted(keys - content.keys()) if isinstance(content, dict) else "everything"
        raise CheckpointError(f"{path} is no checkpoint description (lacks {lacking}); train the fold again")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_plain(value: Any, where: str) -> None:
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not (value is None or isinstance(value, Tensor) or type(value) in (bool, int, float, str, bytes)):
        raise TypeError(f"{where} is a {type(value).__name__}; convert it to a tensor or a plain Python value")
