"""Several runs become one ensemble: over the same images, with other folds, backbones or sizes. Each answers by its own
steps; how these answers are joined and calibrated again is fitted on the runs' out-of-fold predictions.

The runs stay where they are, and the ensemble's file names them as seen from its own folder, so that all of it may be
moved together. No model is loaded and no image is looked at.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.classes import groups_of
from engine.ensemble.ensemble import Ensemble, keys_of
from engine.ensemble.fitting import SHOWN, Candidates, Fitted, fit
from engine.ensemble.hedges import Hedges
from engine.errors import DataError, RecipeError
from engine.files import write_text
from engine.intervals import intervals
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.text import some

_OF_A_RUN = ("predict.tta", "predict.views", "predict.specialists")  # settled by each run for itself


@dataclasses.dataclass(frozen=True)
class FittedRuns:
    """What came of it: metrics of each run alone, by its folder, and of all together."""

    folder: Path
    alone: dict[str, dict[str, float]]
    metrics: dict[str, float]
    fitted: Fitted


def fit_runs(runs: Sequence[Path], folder: Path, sets: Sequence[str] = ()) -> FittedRuns:
    """Fit how these runs answer together, and write `ensemble.json`, oof.parquet and scores.json into `folder`.

    sets: "key=value" changes of ensemble and predict keys; weights are fitted unless they say otherwise. Raises
    DataError when the runs' images, classes or labels differ, naming them, RecipeError for keys that do not fit.
    """
    answers = _answers(runs)
    recipe = _recipe(runs[0], sets)
    section = recipe.ensemble.model_copy(update={"neighbours": "off"})
    class_groups = groups_of(answers[0].classes, recipe.data)
    names = tuple(os.path.relpath(run, folder) for run in runs)
    fitted = fit(Candidates(names, answers), section, class_groups=class_groups)
    final = dataclasses.replace(fitted.answers, probabilities_NC=fitted.answers.probabilities_NC.astype(np.float32))
    keys = {key: value for key, value in keys_of(recipe).items() if key not in _OF_A_RUN}
    ensemble = Ensemble(
        keys=keys | {"ensemble.neighbours": "off"},
        parts=fitted.parts,
        hedges=Hedges.fit(final, recipe.predict, joint=True),
        runs=names,
    )
    alone = {str(run): evaluate(one, class_groups).metrics for run, one in zip(runs, answers, strict=True)}
    metrics = evaluate(final, class_groups).metrics
    files = RunFolder(folder)
    final.write(files.out_of_fold, about={"runs": list(names), "parts": fitted.parts.names})
    scores = {
        "out_of_fold": metrics,
        "intervals": {name: dataclasses.asdict(one) for name, one in intervals(final, SHOWN).items()},
        "ensemble": [gain.to_dict() for gain in fitted.gains],
        "runs": alone,
    }
    write_text(files.scores, json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    ensemble.save(files.ensemble)
    return FittedRuns(folder, alone, metrics, fitted)


def saved_recipe(run: RunFolder) -> dict[str, Any]:
    """The tables of the recipe that a run is trained by. Raises DataError when there are none."""
    try:
        return dict(json.loads(run.claim.read_text("utf-8"))["recipe"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{run.claim}: says nothing of a recipe ({error}); give the folder of a run") from None


def refuse_other_changes(before: Recipe, after: Recipe, sets: Sequence[str]) -> None:
    """Raise RecipeError when `sets` change more of a recipe than can be fitted anew."""
    free = {"ensemble": after.ensemble, "predict": after.predict}
    if before.model_copy(update=free) != after:
        told = " ".join(f"--set {text}" for text in sets)
        raise RecipeError(f"{told}: nothing is trained anew; only ensemble and predict can be changed")


def _recipe(run: Path, sets: Sequence[str]) -> Recipe:
    """The first run's, with weights that are fitted and the changes in `sets`."""
    tables = saved_recipe(RunFolder(run))
    before = parse_saved(tables)
    alone = {"predict.prior": "off", "predict.risk": 0, "predict.abstain_accuracy": 0, "predict.false_alarms": 0}
    stacked = any(text.replace(" ", "").startswith("ensemble.stack=") for text in sets)
    own = {"ensemble.weights": "equal" if stacked else "fit", "ensemble.stack": "off", "ensemble.calibrate": "auto"}
    after = parse_saved(tables, (*(f"{key}={value}" for key, value in (alone | own).items()), *sets))
    refuse_other_changes(before, after, sets)
    return after


def _answers(runs: Sequence[Path]) -> tuple[LabelledPredictions, ...]:
    """The runs' out-of-fold predictions, ordered alike."""
    found: list[LabelledPredictions] = []
    for run in runs:
        path = RunFolder(run).out_of_fold
        if not path.is_file():
            raise DataError(f"{path}: no such file; finish `engine train`, or give the folder that it wrote")
        read = Predictions.read(path)
        if not isinstance(read, LabelledPredictions):
            raise DataError(f"{path}: out-of-fold predictions without labels; run the same `engine train` once more")
        try:
            ordered = read.in_order(found[0].ids, found[0].classes) if found else read
        except ValueError as error:
            raise DataError(f"{run} and {runs[0]} do not answer the same question: {error}") from None
        if found and ordered.labels != found[0].labels:
            pairs = zip(ordered.ids, ordered.labels, found[0].labels, strict=True)
            unlike = [id_ for id_, mine, others in pairs if mine != others]
            raise DataError(f"{run} and {runs[0]} were trained with different labels of {some(unlike)}")
        found.append(ordered)
    return tuple(found)
