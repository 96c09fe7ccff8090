"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

Then the specialists, each in the same way in a folder of its own, and what they change in these predictions.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import Effect
from engine.errors import EngineError, Interrupted
from engine.events import Notice, Relay, Stop, Watcher
from engine.files import write_text
from engine.metrics import class_share_log_loss, evaluate
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store.claim import Claim, claim
from engine.store.log import Log
from engine.store.run_folder import RunFolder
from engine.training.feed import FoldData
from engine.training.out_of_fold import about, answer_held_out, collect
from engine.training.prepare import Prepared, check_starts
from engine.training.specialists import Course
from engine.training.trainer import FoldTrainer


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to: out-of-fold metrics over all trained folds as `engine infer` would answer, and the log loss
    of always answering the class shares; {} and None when nothing was held out. `main`: the metrics without
    specialists, `effects`: what each of these changed."""

    folder: Path
    folds: tuple[int, ...]
    metrics: dict[str, float]
    baseline_log_loss: float | None
    already_finished: bool
    main: dict[str, float] = dataclasses.field(default_factory=dict)
    effects: tuple[Effect, ...] = ()


def train(prepared: Prepared, ranks: Ranks, watcher: Watcher, stop: Stop, overwrite: bool = False) -> Result:
    """Train the recipe's folds into `recipe.output`, then its specialists, going on where an earlier run stopped.

    With `overwrite` what the folder holds of an earlier run is removed first. Raises Interrupted when `stop` says so,
    RecipeError when the folder holds another run.
    """
    recipe, folder = prepared.recipe, RunFolder(Path(prepared.recipe.output))
    # Before anything is removed.
    said = check_starts(prepared, ranks, lambda name: not overwrite and _is_finished(folder, name, prepared.folds))
    if ranks.leads:
        if overwrite:
            folder.clear()
        _claim(prepared)
    ranks.gather(None)  # nobody reads the folder before it is claimed
    if ranks.leads:
        for notice in (*prepared.notices, *said):
            watcher.hear(Notice(notice))
        for entry in prepared.left_out.values():
            watcher.hear(Notice(f"left out: {entry}"))
    folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    trained = _train_folds(recipe, folder, folds, folds, ranks, watcher, stop)
    for course in prepared.courses:
        trained |= _train_specialist(course, folder, folds, ranks, watcher, stop)
    ranks.gather(None)  # all is written by now
    result = _summary(prepared, folder, ranks, already_finished=not trained)
    if ranks.leads:
        Ensemble.of(recipe, [course.specialist for course in prepared.courses]).save(folder.ensemble)
        scores: dict[str, Any] = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        if result.effects:
            scores |= {"main": result.main, "specialists": [dataclasses.asdict(effect) for effect in result.effects]}
        write_text(folder.scores, json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return result


def _is_finished(folder: RunFolder, specialist: str, folds: Sequence[int]) -> bool:
    return all(map((folder.specialist(specialist) if specialist else folder).is_finished, folds))


def _train_folds(
    recipe: Recipe,
    folder: RunFolder,
    folds: Mapping[int, FoldData],
    asked: Mapping[int, FoldData],
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
    specialist: str = "",
) -> bool:
    """Train the folds that are not finished; whether there were any. Each then answers about what `asked` holds out."""
    watchers = Relay(Log(folder.log), watcher) if ranks.leads else Watcher()
    trained = False
    for fold, data in folds.items():
        if not folder.is_finished(fold):
            FoldTrainer(recipe, fold, data, folder.fold(fold), ranks, specialist).train(watchers, stop)
            trained = True
        answer_held_out(recipe, fold, asked[fold], folder.fold(fold), ranks, watchers, stop)
    return trained


def _train_specialist(
    course: Course, models: RunFolder, folds: Mapping[int, FoldData], ranks: Ranks, watcher: Watcher, stop: Stop
) -> bool:
    """Train a specialist's folds, each of which answers about all that the main fold holds out; whether there was
    anything left to train."""
    name, folder = course.name, models.specialist(course.name)
    own = {fold: course.fold_data(main) for fold, main in folds.items()}
    if ranks.leads and not all(map(folder.is_finished, own)):
        watcher.hear(Notice(f"specialist {name}: {', '.join(course.specialist.answers)}"))
    try:
        return _train_folds(course.recipe, folder, own, folds, ranks, watcher, stop, name)
    except Interrupted as error:
        raise Interrupted(f"specialist {name}: {error}") from None
    except EngineError as error:
        raise EngineError(f"specialist {name}: {error}. To begin it alone afresh, remove {folder.path}") from error


def _claim(prepared: Prepared) -> None:
    """Write down what the folders of the run and its specialists are trained with. Raises RecipeError when one of them
    holds another run."""
    folder = RunFolder(Path(prepared.recipe.output))
    content = {"recipe": prepared.recipe.model_dump(mode="json"), "data_fingerprint": prepared.fingerprint}
    remedy = "Choose another folder with --set output=DIR, or start afresh with --overwrite"
    claims = [Claim(folder.claim, "a run", content, remedy)]
    for course in prepared.courses:
        own = {"recipe": course.recipe.model_dump(mode="json"), "classes": list(course.specialist.classes)}
        remedy = "Give the specialist another name, or remove this folder to train it again"
        claims.append(Claim(folder.specialist(course.name).claim, "a run", content | own, remedy))
    claim(*claims)


def _summary(prepared: Prepared, folder: RunFolder, ranks: Ranks, already_finished: bool) -> Result:
    """Join the folds' out-of-fold predictions, write them and score them: those that `engine infer` answers with."""
    recipe, specialists = prepared.recipe, [course.specialist for course in prepared.courses]
    collected = collect(folder, prepared.folds, specialists, recipe.ensemble.vote)
    if collected is None:
        return Result(folder.path, prepared.folds, {}, None, already_finished)
    final = collected.heard if recipe.predict.specialists else collected.main
    if ranks.leads:
        for name, own in collected.own.items():
            own.write(folder.specialist(name).out_of_fold, about=about(recipe))
        final.write(folder.out_of_fold, about=about(recipe))
    return Result(
        folder=folder.path,
        folds=prepared.folds,
        metrics=evaluate(final, prepared.groups).metrics,
        baseline_log_loss=class_share_log_loss(prepared.samples.labels_N, final.labels_N, len(prepared.classes)),
        already_finished=already_finished,
        main=evaluate(collected.main, prepared.groups).metrics,
        effects=collected.effects,
    )
