"""A prediction that an earlier process began: whether this one is the same, so that it may go on.

What was answered by other models, in another way or about other images is never mixed with what follows: that is
refused, and what differs is named. Who wants the new one instead says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.data.roll import Roll
from engine.errors import RecipeError
from engine.predict.models import Models
from engine.predict.parts import Parts
from engine.store.checkpoint import Checkpoint
from engine.store.claim import Claim
from engine.store.occupied import only_one
from engine.store.run_folder import OCCUPIED, PredictionsFolder

ROLL = "images.parquet"
_CLAIM = "prediction.json"
_REMEDY = "Give another --out, or start afresh with --overwrite"
# Keys that change no answer.
_FREE = {
    "predict": {"batch", "part", "positive_class", "submission", "float_format"},
    "decode": {"threads", "prefetch", "prefetch_mb", "cache", "cache_mb", "cache_dir"},
    "ensemble": set[str](),
}


@dataclasses.dataclass(frozen=True)
class Begun:
    """A prediction in `folder`, which may have been begun before (`before`: about which images)."""

    folder: Path
    claim: Claim
    before: Roll | None
    notices: tuple[str, ...] = ()

    @property
    def listing(self) -> Path:
        """Where the images are to be listed."""
        return self.folder / (ROLL if self.before is None else f"new-{ROLL}")

    def settled(self, roll: Roll) -> Roll:
        """The images as listed now, once they are known to be those of before. Raises RecipeError, saying what differs,
        when they are not."""
        if self.before is None:
            self.claim.write()
            return roll
        change = roll.change_since(self.before)
        roll.path.unlink()
        if change:
            raise RecipeError(f"{self.folder} holds a prediction of other images ({change}). {_REMEDY}")
        return self.before


def begin(folder: Path, models: Models, device: str, overwrite: bool = False) -> Begun:
    """Begin in `folder`, or go on. `device` is what answers: its type, or "" where that does not matter.

    Raises RecipeError, naming what differs, when other models have begun there, or in another way.
    """
    claim = Claim(folder / _CLAIM, "a prediction", _identity(models, device), _REMEDY)
    parts = Parts(folder, 0)
    if overwrite or not (parts.spans and claim.path.is_file() and (folder / ROLL).is_file()):
        parts.clear()
        return Begun(folder, claim, None)
    claim.check()
    before = Roll(folder / ROLL)
    parts = Parts(folder, len(before))
    damaged = parts.discard_damaged()
    goes_on = f"{folder.parent}: going on; {parts.answered:,} of {parts.rows:,} images were answered before"
    return Begun(folder, claim, before, (*damaged, goes_on))


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Keep other processes out of a folder of answers while the block runs. Afterwards what is of no use without a part
    is removed, and folders that were made for it. Raises EngineError while another process predicts there."""
    folder = PredictionsFolder(place).parts
    new = [path for path in (folder, place, *place.parents) if not path.exists()]
    try:
        with only_one(folder / OCCUPIED, "a prediction", "Or give another --out"):
            try:
                yield
            finally:
                if not (parts := Parts(folder, 0)).spans:
                    parts.clear()
    finally:
        for path in (folder, *new):
            with contextlib.suppress(OSError):
                path.rmdir()


def _identity(models: Models, device: str) -> dict[str, Any]:
    """All that an answer depends on but the images, as JSON has it."""
    recipe = models.recipe.model_dump(mode="json")
    settings = {
        section: {key: value for key, value in recipe[section].items() if key not in free}
        for section, free in _FREE.items()
    }
    specialists = {
        f"{one.specialist.name}/{fold}": [_digest(saved) for saved in voters]
        for one in models.specialists
        for fold, voters in enumerate(one.folds)
    }
    return {
        "models": {name: _digest(saved) for name, saved in zip(models.names, models.checkpoints, strict=True)},
        "fitted": _brief(models.fitted),
        "specialists": specialists,
        "device": device,
        **settings,
        "augment": {"executor": recipe["augment"]["executor"]},
    }


def _brief(fitted: Mapping[str, Any]) -> dict[str, Any]:
    """What was fitted, a hash in place of each part: who reads that one differs is not to read its thousand numbers."""
    places = {"parts": fitted["parts"], "hedges": fitted["hedges"]}
    places |= {f"run {number}": run["parts"] for number, run in enumerate(fitted["runs"])}
    brief = {place: {name: _hash(part) for name, part in parts.items()} for place, parts in places.items()}
    return brief | {"weights": [run["weight"] for run in fitted["runs"]]}


def _hash(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=4).hexdigest()


def _digest(saved: Checkpoint) -> str:
    """Hexadecimal hash of the weights and of what they are asked with."""
    hashed = hashlib.blake2b(repr((saved.classes, saved.class_counts, saved.contract)).encode(), digest_size=8)
    for name, tensor in sorted(saved.weights.items()):
        hashed.update(name.encode())
        hashed.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
