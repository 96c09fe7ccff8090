"""What an exported file says about itself: who answers, to which classes, from which pixels, by which steps, made by
what, and under which licences. JSON, in the file's own metadata; nobody has to have the run beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.data.names import ClassNames
from engine.errors import CheckpointError
from engine.export.from_bytes import FILE, TOLD
from engine.export.graph import Answer, Prepared
from engine.export.stitch import INPUT
from engine.model.licence import Licence, starting_licence
from engine.predict.models import Models
from engine.recipe.load import parse_saved
from engine.store.run_folder import CHECKPOINT
from engine.system import library_versions

FORMAT = 1  # raised when an older engine could not read it rightly
ABOUT, PROOF = "engine", "engine.proof"
"""Keys of the file's metadata."""

TRAINING, DRAWN = "training photos, made small", "drawn photos"
"""What a file proves itself by."""
CARRIED = {
    TRAINING: (
        "seven small versions of the run's training photos to prove itself by: whoever gets the file can see them; "
        "with --drawn it carries drawn ones"
    ),
    DRAWN: "seven drawn photos to prove itself by, and none that it was trained on",
}
"""That in a sentence, for whoever passes it on."""

_NEEDED = ("classes", "batch", "takes", "precision")  # to ask a file

_SHAPE = ["height", "width", 3]
_PIXELS = {
    "name": INPUT,
    "type": "uint8",
    "channels": "RGB",
    "orientation": "upright: EXIF orientation is applied before",
    "range": [0, 255],
}
_FILE = {"name": FILE, "shape": ["bytes"], "type": "uint8", "what": TOLD}

ENGINE_LICENCE = (
    "This graph was made by engine, which is licensed under the Apache License, Version 2.0; a copy of it is at "
    "https://www.apache.org/licenses/LICENSE-2.0. It is distributed on an 'AS IS' basis, without warranties or "
    "conditions of any kind."
)


def about(models: Models, answer: Answer, **settled: Any) -> dict[str, Any]:
    """The file's own words, JSON values; `settled` is what was decided when it was written: precision, batch, takes,
    proof."""
    recipe = models.recipe
    return {
        "format": FORMAT,
        "engine": importlib.metadata.version("engine"),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "classes": list(models.classes),
        "aliases": _aliases(models),
        "input": _FILE if settled["takes"] == "bytes" else _PIXELS | {"shape": [settled["batch"] or "batch", *_SHAPE]},
        "output": {"name": "probabilities", "shape": [settled["batch"] or "batch", len(models.classes)]},
        "background": list(recipe.decode.background),
        "contracts": [contract.to_dict() for contract in dict.fromkeys(one.contract for one in answer.shown)],
        "views": list(recipe.predict.names),
        "vote": recipe.ensemble.vote,
        "prepared": [_prepared(one, answer) for one in answer.shown],
        "models": [
            {"name": one.model, "logits": one.logits, "classes": list(one.classes), "shown": list(one.shown)}
            for one in answer.asks
        ],
        "fitted": [run.parts.names for run in models.runs] if len(models.runs) > 1 else models.runs[0].parts.names,
        "specialists": [one.specialist.name for one in models.specialists],
        "prior": recipe.predict.prior,
        "trained_with": dict(models.checkpoints[0].versions),
        "versions": library_versions(),
        "licence": {"engine": ENGINE_LICENCE, "weights": licences(models)},
        **settled,
    }


def to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def read(text: str, path: object) -> dict[str, Any]:
    """What `to_json` gave. Raises CheckpointError, naming the file, when it is none or of a newer format."""
    try:
        content = dict(json.loads(text))
        newer = content["format"] > FORMAT
        _ = [content[name] for name in _NEEDED]
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: what it says about itself is damaged ({error!r}); export it again") from None
    if newer:
        raise CheckpointError(
            f"{path} is of format {content['format']}, this engine reads up to {FORMAT}; use a newer engine"
        )
    return content


def licences(models: Models) -> list[dict[str, str]]:
    """Of each backbone, a specialist's, too, and each way to begin: the licence of the weights that it began with, as
    far as it is known."""
    specialists = [saved for one in models.specialists for voters in one.folds for saved in voters]
    asked = (*models.checkpoints, *specialists)
    sections = [parse_saved(saved.recipe, origin=CHECKPOINT).model for saved in asked]
    return [_licence(one) for one in dict.fromkeys(starting_licence(section) for section in sections)]


def _licence(one: Licence) -> dict[str, str]:
    match one.start:
        case "nothing":
            told = {"licence": "trained from nothing: no other's weights are in it"}
        case "timm":
            told = {"licence": one.timm or "unknown to timm", "origin": one.origin}
        case "file":
            told = {"licence": "unknown: training began with a file of weights", "file": one.file}
            told |= {"timm": f"{one.timm} (of timm's own weights of this backbone)"} if one.timm else {}
    return {"backbone": one.backbone} | told


def _aliases(models: Models) -> dict[str, list[str]]:
    """What else the classes are called in submissions (data.aliases), by class."""
    names = ClassNames.of(models.recipe.data)
    return {name: [*names.alike(name)[1:]] for name in models.classes if len(names.alike(name)) > 1}


def _prepared(one: Prepared, answer: Answer) -> dict[str, Any]:
    contracts: Sequence[Any] = list(dict.fromkeys(each.contract for each in answer.shown))
    height, width = one.size
    return {
        "name": one.name,
        "contract": contracts.index(one.contract),
        "view": one.view.name,
        "height": height,
        "width": width,
    }
