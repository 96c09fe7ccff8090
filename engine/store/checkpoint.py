"""A model that answers, in two files of its folder.

* `weights.safetensors`: the tensors of the scored model.
* `checkpoint.json`: everything else that answering needs (recipe, preprocessing contract, class names) and what a
  reader wants to know (metrics, data fingerprint, library versions), with the SHA-256 of the weights it belongs to.

Nothing is unpickled: safetensors and JSON cannot hold code.

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.errors import CheckpointError
from engine.files import atomic_write, remove_leftovers, write_text
from engine.store.run_folder import CHECKPOINT, MemberFolder
from engine.system import library_versions

FORMAT = 1  # of checkpoint.json; raised when an older engine could not read it rightly


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
    member = MemberFolder(folder)
    for path in (member.weights, member.checkpoint, member.next_checkpoint):
        remove_leftovers(path)
    member.out_of_fold.unlink(missing_ok=True)  # what other weights answered
    with atomic_write(member.weights, sum(tensor.nbytes for tensor in checkpoint.weights.values())) as temporary:
        tensors = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in checkpoint.weights.items()
        }
        safetensors.torch.save_file(tensors, temporary)
        write_text(member.next_checkpoint, _to_json(checkpoint, _sha256(temporary)))
    write_text(member.checkpoint, member.next_checkpoint.read_text("utf-8"))
    member.next_checkpoint.unlink()


def load(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder`, weights on the CPU.

    Raises CheckpointError when a file is missing or damaged, the weights are not those the JSON was written for, or
    the format is newer than this engine's.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give a fold's folder, such as models/0")
    member = MemberFolder(folder)
    weights = member.weights
    metas = [path for path in (member.checkpoint, member.next_checkpoint) if path.is_file()]
    for path, there in ((weights, weights.is_file()), (member.checkpoint, bool(metas))):
        if not there:
            raise CheckpointError(
                f"{path} is missing; copy it from where the fold was trained, or train the fold again"
            )
    found = _sha256(weights)
    contents = [_read_meta(path) for path in metas]
    content = next((c for c in contents if c["weights_sha256"] == found), None)
    if content is None:
        raise CheckpointError(
            f"{weights} is not the file that {CHECKPOINT} was written for (SHA-256 {found[:12]}, expected "
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


def weights_sha256(folder: Path) -> str:
    """The SHA-256 of the weights in `folder`, as its checkpoint says. Raises CheckpointError when there is none."""
    member = MemberFolder(folder)
    path = member.checkpoint if member.checkpoint.is_file() else member.next_checkpoint
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it from where the fold was trained, or train the fold again")
    return str(_read_meta(path)["weights_sha256"])


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
    kinds = {"classes": list, "class_counts": list, "recipe": dict, "contract": dict, "metrics": dict}
    odd = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
    if not odd and len(content["classes"]) != len(content["class_counts"]):
        odd = ["class_counts"]
    if odd:
        raise CheckpointError(f"{path} is damaged (at {', '.join(odd)}); copy it again, or train the fold again")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
