"""A fold's bank: the features of the images that it was trained on, with their ids and classes, in one file.

Features are float16 vectors of length 1. That is no loss that a neighbour would notice, it is half the size of float32,
and it makes cosines exact (see `ensemble.neighbours`). Ids lie in the file as an array of bytes, since a safetensors
header has room for some million of them and no more. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from engine.errors import CheckpointError
from engine.files import atomic_write
from engine.store import checkpoint
from engine.store.run_folder import FoldFolder

FORMAT = 1  # raised when an older engine could not read it rightly


@dataclasses.dataclass(frozen=True, eq=False)
class Bank:
    """What a fold remembers of the B images that it was trained on.

    features_BE: float16, each row of length 1 (or 0). labels_B: int64, columns of `classes`. `made_by`: SHA-256 of the
    weights of the models that made the features, in their order. Raises ValueError when the shapes
    disagree or an id is named twice.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels_B: NDArray[np.int64]
    features_BE: NDArray[np.float16]
    made_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.ids)
        if self.labels_B.shape != (count,) or self.features_BE.ndim != 2 or len(self.features_BE) != count:
            shapes = f"{self.labels_B.shape} labels, {self.features_BE.shape} features"
            raise ValueError(f"a bank of {count} ids has {shapes}")
        if self.features_BE.dtype != np.float16:
            raise ValueError(f"features are {self.features_BE.dtype}, a bank holds float16")
        if len(set(self.ids)) != count:
            raise ValueError("an id is named twice")
        if count and not (self.labels_B.min() >= 0 and self.labels_B.max() < len(self.classes)):
            raise ValueError(f"labels are not all among {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        encoded = [id_.encode() for id_ in self.ids]
        arrays: dict[str, NDArray[Any]] = {
            "features": np.ascontiguousarray(self.features_BE),
            "labels": self.labels_B,
            "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
            "id_ends": np.cumsum([len(one) for one in encoded], dtype=np.int64),
        }
        content = {"format": FORMAT, "classes": list(self.classes), "made_by": self.made_by}
        with atomic_write(path, sum(array.nbytes for array in arrays.values())) as temporary:
            safetensors.numpy.save_file(arrays, temporary, {"engine.bank": json.dumps(content, ensure_ascii=False)})

    @classmethod
    def load(cls, path: Path) -> Bank:
        """What `save` wrote. Raises CheckpointError when it is missing, damaged or of a newer format."""
        content = _content(path)
        try:
            arrays = safetensors.numpy.load_file(path)
            ends = arrays["id_ends"].tolist()
            whole = arrays["ids"].tobytes()
            ids = tuple(whole[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False))
            classes = tuple(map(str, content["classes"]))
            return cls(ids, classes, arrays["labels"], arrays["features"], tuple(content["made_by"]))
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from error


def makers(folder: FoldFolder) -> tuple[str, ...]:
    """Who answers for a fold, as `Bank.made_by` has it. Raises CheckpointError for nobody."""
    return tuple(checkpoint.weights_sha256(member.path) for member in folder.members())


def made_by(path: Path) -> tuple[str, ...] | None:
    """Who made the bank at `path`; None when there is none that can be read."""
    try:
        return tuple(_content(path)["made_by"])
    except (CheckpointError, TypeError, KeyError):
        return None


def bank_of(folder: FoldFolder) -> Bank:
    """A fold's bank. Raises CheckpointError when it is missing or damaged, or was made by other models than those that
    answer for the fold."""
    bank = Bank.load(folder.bank)
    if bank.made_by != makers(folder):
        raise CheckpointError(
            f"{folder.bank} was made by other models than those in {folder.path}; copy both from where they were "
            f"trained, or {_REMEDY}"
        )
    return bank


_REMEDY = "run the same `engine train` once more, which makes it"


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it from where the fold was trained, or {_REMEDY}")
    try:
        with safe_open(path, framework="numpy") as file:
            content = json.loads((file.metadata() or {})["engine.bank"])
        newer = content["format"] > FORMAT
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error
    if newer:
        raise CheckpointError(
            f"{path} is of format {content['format']}, this engine reads up to {FORMAT}; use a newer engine"
        )
    return dict(content)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({error}); copy it again, or remove it and {_REMEDY}")
