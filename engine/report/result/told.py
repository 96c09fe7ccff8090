"""What a run's folder tells, read once, as far as it is there: an unfinished run, one that held nothing out and an
ensemble of several runs have less to tell, and are reported on all the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.ensemble.ensemble import Ensemble
from engine.errors import CheckpointError, EngineError, RecipeError
from engine.events import EpochRecord
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.report.result.answers import Answers, read_answers
from engine.store.log import read_log
from engine.store.run_folder import CHECKPOINT, RunFolder


@dataclasses.dataclass(frozen=True)
class Told:
    """A run, or an ensemble of several.

    recipes: of the runs that answer, those that can be read: not so of another version of the engine. parts: the runs
    of an ensemble, by their folders. counts: training images by class; {} where that is not known. about: what the
    first model's checkpoint says of itself.
    """

    folder: RunFolder
    name: str
    recipes: Sequence[Recipe]
    records: Sequence[EpochRecord]
    scores: Mapping[str, Any]
    answers: Answers | None
    ensemble: Ensemble | None
    parts: Sequence[RunFolder]
    counts: Mapping[str, int]
    about: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe | None:
        """The one that it was made by; of several runs the first one's. None where there is none."""
        return next(iter(self.recipes), None)

    @property
    def finished(self) -> bool:
        """Whether scores were written, which is the last thing that training does."""
        return bool(self.scores)

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """Out of fold; {} where nothing was held out."""
        return self.scores.get("out_of_fold") or {}

    @property
    def runs(self) -> Sequence[RunFolder]:
        """Those whose models answer."""
        return self.parts or [self.folder]

    @cached_property
    def models(self) -> int:
        """How many answer together; 0 where none is there any more."""
        found = 0
        for run in self.runs:
            with contextlib.suppress(EngineError, OSError):
                found += len(run.members())
        return found

    @cached_property
    def folds(self) -> int:
        """How many folds of all runs hold a model."""
        return sum(len(run.folds()) for run in self.runs if run.path.is_dir())


def read_told(path: Path, sets: Sequence[str] = ()) -> Told:
    """Read a run's folder. sets: "data.*=..." changes of its recipe, for data that lie elsewhere now.

    Raises CheckpointError for a folder that is no run's, RecipeError for other changes.
    """
    if other := [text for text in sets if not text.replace(" ", "").startswith(("data.", "decode."))]:
        raise RecipeError(f"--set {other[0]}: a report trains nothing; only data and decode can be changed")
    folder = RunFolder(path)
    ensemble = Ensemble.load(folder.ensemble)
    parts = [RunFolder(path / run) for run in ensemble.runs] if ensemble else []
    claims = [claim for run in (parts or [folder]) if (claim := _json(run.claim))]
    if not claims and ensemble is None:
        raise CheckpointError(f"{path}: holds no run; give the folder that `engine train` or `engine ensemble` wrote")
    tables = [claim.get("recipe", {}) for claim in claims]
    answers = read_answers(folder.out_of_fold) if folder.out_of_fold.is_file() else None
    scores = _json(folder.scores)
    return Told(
        folder=folder,
        name=path.absolute().name if parts else _name(tables, path),
        recipes=[recipe for one in tables if (recipe := _recipe(one, sets)) is not None],
        records=[] if parts else read_log(folder.log),
        scores=scores,
        answers=answers if scores.get("out_of_fold") else None,
        ensemble=ensemble,
        parts=parts,
        counts=_counts([folder, *parts]),
        about=_about([folder, *parts]),
    )


def _name(tables: Sequence[Mapping[str, Any]], path: Path) -> str:
    return next((str(one["name"]) for one in tables if one.get("name")), path.absolute().name)


def _recipe(tables: Mapping[str, Any], sets: Sequence[str]) -> Recipe | None:
    if not tables:
        return None
    try:
        return parse_saved(tables, sets)
    except RecipeError:
        if sets:
            raise
        return None  # of another version of the engine


def _json(path: Path) -> dict[str, Any]:
    """What is in a file of JSON; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _counts(runs: Sequence[RunFolder]) -> dict[str, int]:
    for run in runs:
        try:
            labels = pq.read_table(run.samples, columns=["label"])["label"]
        except (OSError, pa.ArrowException, KeyError):
            continue
        found = labels.combine_chunks().value_counts().to_pylist()
        return {one["values"]: int(one["counts"]) for one in sorted(found, key=lambda one: str(one["values"]))}
    return {}


def _about(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Of the first model that is there: contract, classes, versions."""
    for run in runs:
        for path in sorted(run.path.glob(f"*/{CHECKPOINT}")):
            if found := _json(path):
                return {name: found.get(name) for name in ("contract", "classes", "class_counts", "versions")}
    return {}
