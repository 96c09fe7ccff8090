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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.ensemble.specialist import write_list
from engine.errors import EngineError, Interrupted
from engine.events import Notice, Relay, Stop, Watcher
from engine.files import atomic_write, write_text
from engine.metrics import class_share_log_loss, group_accuracy, score
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store.claim import Claim, claim
from engine.store.log import Log
from engine.store.run_folder import RunFolder
from engine.train.feed import FoldData
from engine.train.oof import Held, held_table, mean_held, read_held, write_held
from engine.train.prepare import Prepared
from engine.train.specialists import Course, Effect, answers, apply, effect_of
from engine.train.trainer import FoldTrainer


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
    if ranks.leads:
        if overwrite:
            folder.clear()
        _claim(prepared)
    ranks.gather(None)  # nobody reads the folder before it is claimed
    if ranks.leads:
        for notice in prepared.notices:
            watcher.hear(Notice(notice))
        for entry in prepared.left_out.values():
            watcher.hear(Notice(f"left out: {entry}"))
    folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    trained = _train_folds(recipe, folder, folds, ranks, watcher, stop)
    for course in prepared.courses:
        trained |= _train_specialist(course, folder, folds, prepared, ranks, watcher, stop)
    ranks.gather(None)  # all is written by now
    result = _summary(prepared, folder, ranks, already_finished=not trained)
    if ranks.leads:
        write_list(folder.path, [course.specialist for course in prepared.courses])
        scores: dict[str, Any] = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        if result.effects:
            scores |= {"main": result.main, "specialists": [dataclasses.asdict(effect) for effect in result.effects]}
        write_text(folder.scores, json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return result


def _train_folds(
    recipe: Recipe,
    folder: RunFolder,
    folds: Mapping[int, FoldData],
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
    specialist: str = "",
) -> bool:
    """Train the folds that are not finished; whether there were any."""
    watchers = Relay(Log(folder.log), watcher) if ranks.leads else Watcher()
    to_train = [fold for fold in folds if not folder.is_finished(fold)]
    for fold in to_train:
        trainer = FoldTrainer(recipe, fold, folds[fold], folder.fold(fold), ranks, specialist)
        trainer.train(watchers, stop)
    return bool(to_train)


def _train_specialist(
    course: Course,
    models: RunFolder,
    folds: Mapping[int, FoldData],
    prepared: Prepared,
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
) -> bool:
    """Train a specialist's folds and have them answer for what the main folds hold out; whether there was anything left
    to do."""
    name, folder = course.name, models.specialist(course.name)
    own = {fold: course.fold_data(main) for fold, main in folds.items()}
    if ranks.leads and not all(map(folder.is_finished, own)):
        watcher.hear(Notice(f"specialist {name}: {', '.join(course.specialist.answers)}"))
    try:
        trained = _train_folds(course.recipe, folder, own, ranks, watcher, stop, name)
        ranks.gather(None)  # the checkpoints are written by now
        to_ask = [f for f in folds if len(folds[f].held_rows_N) and not folder.fold(f).answers.is_file()]
        for fold in to_ask:
            held = answers(course, folds[fold], folder.fold(fold), ranks)
            if ranks.leads:
                write_held(folder.fold(fold).answers, held, course.specialist.answers, fold, prepared.classes)
            if ranks.any(stop()):
                raise Interrupted(f"stopped after it answered for fold {fold}; the same command goes on from here")
    except Interrupted as error:
        raise Interrupted(f"specialist {name}: {error}") from None
    except EngineError as error:
        raise EngineError(f"specialist {name}: {error}. To begin it alone afresh, remove {folder.path}") from error
    return trained or bool(to_ask)


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
    """Join the folds' out-of-fold predictions into one table and score them together: those that `engine infer` would
    answer with, of the best epoch's weights or the mean of the kept ones, once the specialists were asked."""
    held: dict[int, Held] = {}
    for fold in prepared.folds:
        written = [member.out_of_fold for member in folder.fold(fold).members() if member.out_of_fold.is_file()]
        if written:
            held[fold] = mean_held([read_held(path, prepared.classes) for path in written])
    if not held:
        return Result(folder.path, prepared.folds, {}, None, already_finished)
    main, effects = held, []
    for course in prepared.courses:
        before = held
        held, effect = _ask(course, folder.specialist(course.name), before, prepared.classes, ranks)
        effects.append(effect)
    final = held if prepared.recipe.predict.specialists else main
    if ranks.leads:
        _write_joined(folder.out_of_fold, [held_table(part, prepared.classes, fold) for fold, part in final.items()])
    labels_N = _joined(final).labels_N
    return Result(
        folder=folder.path,
        folds=prepared.folds,
        metrics=_score(_joined(final), prepared.groups),
        baseline_log_loss=class_share_log_loss(prepared.samples.labels_N, labels_N, len(prepared.classes)),
        already_finished=already_finished,
        main=_score(_joined(main), prepared.groups),
        effects=tuple(effects),
    )


def _ask(
    course: Course, folder: RunFolder, before: Mapping[int, Held], classes: Sequence[str], ranks: Ranks
) -> tuple[dict[int, Held], Effect]:
    """The out-of-fold answers of each fold once the specialist in `folder` was asked; its own are joined there."""
    own = {fold: read_held(folder.fold(fold).answers, course.specialist.answers, classes) for fold in before}
    if ranks.leads:
        tables = [held_table(part, course.specialist.answers, fold, classes) for fold, part in own.items()]
        _write_joined(folder.out_of_fold, tables)
    applied = {fold: apply(course.specialist, held, own[fold], classes) for fold, held in before.items()}
    after = {fold: held for fold, (held, _) in applied.items()}
    asked = sum(count for _, count in applied.values())
    return after, effect_of(course.specialist, _joined(before), _joined(after), asked)


def _joined(held: Mapping[int, Held]) -> Held:
    parts = list(held.values())
    return Held(
        ids=[id_ for part in parts for id_ in part.ids],
        labels_N=np.concatenate([part.labels_N for part in parts]),
        probabilities_NC=np.concatenate([part.probabilities_NC for part in parts]),
    )


def _score(held: Held, groups: Sequence[str]) -> dict[str, float]:
    metrics = score(held.probabilities_NC, held.labels_N)
    if groups:
        metrics["group_accuracy"] = group_accuracy(held.probabilities_NC, held.labels_N, groups)
    return metrics


def _write_joined(path: Path, tables: Sequence[pa.Table]) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
