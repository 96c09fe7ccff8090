"""How a trained run answers is settled: from what its folds answered about what they held out, and from what the recipe
asks for, follow `ensemble.json`, the run's out-of-fold predictions and its scores.

Apart from training, because nothing here is trained and no image is looked at: another way of joining and calibrating
is settled in seconds, after the fact, from the same files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine.data.classes import groups_of
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.fitting import SHOWN, Gain, fit
from engine.ensemble.hedges import Hedges
from engine.ensemble.runs import refuse_other_changes, saved_recipe
from engine.ensemble.specialist import Effect, Specialist
from engine.ensemble.strange import Signs, Strange, choose
from engine.errors import CheckpointError, RecipeError
from engine.files import write_text
from engine.intervals import intervals
from engine.metrics import class_share_log_loss, evaluate
from engine.predictions import LabelledPredictions
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.training.out_of_fold import Collected, about, collect, hear, is_answered


@dataclasses.dataclass(frozen=True)
class Trained:
    """What is known of a trained run beside what lies in its folder. labels: of all its samples. class_groups: of each
    class, where the recipe has any."""

    recipe: Recipe
    folds: Sequence[int]
    specialists: tuple[Specialist, ...]
    labels: Sequence[str]
    class_groups: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Settled:
    """What a run comes to out of fold: metrics over all trained folds as `engine infer` would answer, and the log loss
    of always answering the class shares; {} and None when nothing was held out. main: the metrics without specialists,
    effects: what each of these changed. gains: what was fitted, and what that is worth."""

    metrics: dict[str, float]
    baseline_log_loss: float | None = None
    main: dict[str, float] = dataclasses.field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    gains: tuple[Gain, ...] = ()


def settle(folder: RunFolder, run: Trained) -> Settled:
    """Fit what the recipe asks for, and write `ensemble.json`, oof.parquet and scores.json."""
    collected = collect(folder, run.folds, run.specialists, run.recipe)
    if collected is None:
        settled, ensemble = Settled({}), Ensemble.of(run.recipe, run.specialists)
        _write_scores(folder, settled)
    else:
        settled, ensemble = _settled(folder, run, collected)
    ensemble.save(folder.ensemble)
    return settled


def _settled(folder: RunFolder, run: Trained, collected: Collected) -> tuple[Settled, Ensemble]:
    recipe, own = run.recipe, collected.own
    asked = run.specialists if recipe.predict.specialists else ()

    def heard(main: LabelledPredictions) -> LabelledPredictions:
        return hear(main, asked, own)[0]

    near = collected.near
    fitted = fit(collected.candidates, recipe.ensemble, heard, near.found if near else None, run.class_groups)
    for name, answers in own.items():
        answers.write(folder.specialist(name).out_of_fold, about=about(recipe))
    # As files hold them, so that whoever scores the file finds the same.
    final = dataclasses.replace(fitted.answers, probabilities_NC=fitted.answers.probabilities_NC.astype(np.float32))
    parts = {"parts": fitted.parts.names} if fitted.parts.names else {}
    dataclasses.replace(final, features_NE=None).write(folder.out_of_fold, about=about(recipe) | parts)
    settled = Settled(
        metrics=evaluate(final, run.class_groups).metrics,
        baseline_log_loss=_baseline(run, final),
        main=evaluate(fitted.joined, run.class_groups).metrics,
        effects=hear(fitted.joined, run.specialists, own)[1],
        gains=fitted.gains,
    )
    _write_scores(folder, settled, final)
    hedges = dataclasses.replace(Hedges.fit(final, recipe.predict), strange=_strange(recipe, collected))
    return settled, Ensemble.of(recipe, run.specialists, fitted.parts, hedges)


def _strange(recipe: Recipe, collected: Collected) -> Strange | None:
    if not recipe.predict.false_alarms:
        return None
    answers, near = collected.candidates.answers, collected.near
    signs = Signs.of(answers, near.found if near else None)
    try:
        return choose(near.asked if near else answers[0], signs, near.banks if near else None).strange
    except ValueError as error:  # too little was held out
        raise RecipeError(
            f"predict.false_alarms = {recipe.predict.false_alarms:g}: {error}. Train more folds, or go on with --set "
            "predict.false_alarms=0.0; nothing is trained anew"
        ) from None


def _baseline(run: Trained, answers: LabelledPredictions) -> float:
    """The log loss of always answering the class shares."""
    column = {name: number for number, name in enumerate(answers.classes)}
    return class_share_log_loss([column[label] for label in run.labels], answers.labels_N, len(answers.classes))


def _write_scores(folder: RunFolder, settled: Settled, answers: LabelledPredictions | None = None) -> None:
    scores: dict[str, Any] = {"baseline_log_loss": settled.baseline_log_loss, "out_of_fold": settled.metrics}
    if answers is not None:
        scores["intervals"] = {name: dataclasses.asdict(one) for name, one in intervals(answers, SHOWN).items()}
    if settled.gains:
        scores["ensemble"] = [gain.to_dict() for gain in settled.gains]
    if settled.effects:
        scores |= {"main": settled.main, "specialists": [dataclasses.asdict(effect) for effect in settled.effects]}
    write_text(folder.scores, json.dumps(scores, ensure_ascii=False, indent=1) + "\n")


def settle_again(folder: RunFolder, sets: Sequence[str] = ()) -> Settled:
    """Fit how a trained run answers anew, from what its folds answered out of fold, with changes of its recipe.

    sets: "key=value" changes of ensemble and predict. Raises RecipeError for keys that need the models again, DataError
    or CheckpointError for a folder that is no finished run's.
    """
    tables = saved_recipe(folder)
    before, recipe = parse_saved(tables), parse_saved(tables, sets)
    refuse_other_changes(before, recipe, sets)
    folds = recipe.data.folds.run or tuple(range(recipe.data.folds.count))
    if unlike := [fold for fold in folds if not is_answered(recipe, folder.fold(fold))]:
        raise RecipeError(
            f"{folder.fold(unlike[0]).path}: its models have not answered as this asks for (other views, another rule, "
            "or more beside answers). Run `engine train` with it, which has them answer and trains nothing anew"
        )
    ensemble, samples = Ensemble.load(folder.ensemble), folder.samples
    if ensemble is None or not samples.is_file():
        missing = folder.ensemble if ensemble is None else samples
        raise CheckpointError(f"{missing} is missing; finish `engine train`, or copy it from where the run was trained")
    labels = pq.read_table(samples, columns=["label"])["label"].to_pylist()
    classes = sorted(set(labels))
    return settle(folder, Trained(recipe, folds, ensemble.specialists, labels, groups_of(classes, recipe.data)))
