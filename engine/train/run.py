"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

Then the specialists, each in the same way in a folder of its own, and what they change in these predictions.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.ensemble.specialist import FOLDER, write_list
from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import EpochRecord, Stop, Watcher
from engine.files import atomic_write, write_text
from engine.metrics import class_share_log_loss, group_accuracy, score
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.epochs import OOF, remove
from engine.train.feed import FoldData
from engine.train.oof import Held, held_table, mean_held, read_held, write_held
from engine.train.prepare import Prepared
from engine.train.specialists import ANSWERS, Course, Effect, answers, apply, effect_of
from engine.train.trainer import FoldTrainer

RUN = "run.json"

# Keys that may change between a run and its continuation: they do not touch what is learnt.
FREE_KEYS = (
    "name",
    "output",
    "data.test",
    "data.sample_submission",
    "data.cache",
    "data.alias_columns",
    "data.class_groups",
    "data.folds.run",
    "decode",
    "ensemble",
    "predict",
    "track",
    "specialist",  # each has a run.json of its own
)


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
    recipe, folder = prepared.recipe, Path(prepared.recipe.output)
    if ranks.leads:
        if overwrite:
            _clear(folder)
        _claim(prepared)
    ranks.gather(None)  # nobody reads the folder before it is claimed
    if ranks.leads:
        for notice in prepared.notices:
            watcher.notice(notice)
        for path, reason in prepared.left_out.items():
            watcher.notice(f"left out: {path}: {reason}")
    folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    trained = _train_folds(recipe, folder, folds, ranks, _Log(folder / "log.jsonl", watcher), stop)
    for course in prepared.courses:
        trained |= _train_specialist(course, folder, folds, prepared, ranks, watcher, stop)
    ranks.gather(None)  # all is written by now
    result = _summary(prepared, folder, ranks, already_finished=not trained)
    if ranks.leads:
        write_list(folder, [course.specialist for course in prepared.courses])
        scores: dict[str, Any] = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        if result.effects:
            scores |= {"main": result.main, "specialists": [dataclasses.asdict(effect) for effect in result.effects]}
        write_text(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return result


def _train_folds(
    recipe: Recipe, folder: Path, folds: Mapping[int, FoldData], ranks: Ranks, log: _Log, stop: Stop
) -> bool:
    """Train the folds that are not finished; whether there were any."""
    to_train = [fold for fold in folds if not _is_finished(folder / str(fold))]
    for fold in to_train:
        trainer = FoldTrainer(recipe, fold, folds[fold], folder / str(fold), ranks)
        trainer.train(log if ranks.leads else Watcher(), stop)
    return bool(to_train)


def _train_specialist(
    course: Course,
    models: Path,
    folds: Mapping[int, FoldData],
    prepared: Prepared,
    ranks: Ranks,
    watcher: Watcher,
    stop: Stop,
) -> bool:
    """Train a specialist's folds and have them answer for what the main folds hold out; whether there was anything left
    to do."""
    name, folder = course.name, models / FOLDER / course.name
    own = {fold: course.fold_data(main) for fold, main in folds.items()}
    if ranks.leads and not all(_is_finished(folder / str(fold)) for fold in own):
        watcher.notice(f"specialist {name}: {', '.join(course.specialist.answers)}")
    try:
        trained = _train_folds(course.recipe, folder, own, ranks, _Log(folder / "log.jsonl", watcher, name), stop)
        ranks.gather(None)  # the checkpoints are written by now
        to_ask = [f for f in folds if len(folds[f].held_rows_N) and not (folder / str(f) / ANSWERS).is_file()]
        for fold in to_ask:
            held = answers(course, folds[fold], folder / str(fold), ranks)
            if ranks.leads:
                write_held(folder / str(fold) / ANSWERS, held, course.specialist.answers, fold, prepared.classes)
            if ranks.any(stop()):
                raise Interrupted(f"stopped after it answered for fold {fold}; the same command goes on from here")
    except Interrupted as error:
        raise Interrupted(f"specialist {name}: {error}") from None
    except EngineError as error:
        raise EngineError(f"specialist {name}: {error}. To begin it alone afresh, remove {folder}") from error
    return trained or bool(to_ask)


class _Log(Watcher):
    """Writes each epoch, of the named specialist or the main model, as a line of JSON, then passes everything on.

    A process that died may have logged an epoch that it did not save, which is then trained again: its line goes.
    """

    def __init__(self, path: Path, watcher: Watcher, specialist: str = "") -> None:
        self._path, self._watcher, self._specialist = path, watcher, specialist

    def fold_begins(self, fold: int, images: int, done: int, epoch: int) -> None:
        if self._path.is_file():
            lines = self._path.read_text("utf-8").splitlines(keepends=True)
            kept = [line for line in lines if not _is_ahead(line, fold, epoch)]
            if kept != lines:
                write_text(self._path, "".join(kept))
        self._watcher.fold_begins(fold, images, done, epoch)

    def images_done(self, count: int, loss: float | None) -> None:
        self._watcher.images_done(count, loss)

    def epoch_ends(self, record: EpochRecord) -> None:
        record = dataclasses.replace(record, specialist=self._specialist)
        line = dataclasses.asdict(record) | {"images_per_second": record.images_per_second}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._watcher.epoch_ends(record)

    def notice(self, message: str) -> None:
        self._watcher.notice(message)


def _is_ahead(line: str, fold: int, epoch: int) -> bool:
    """Whether a line of the log, which may have been cut short, is of an epoch of `fold` from `epoch` on."""
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    return bool(entry["fold"] == fold and entry["epoch"] >= epoch)


def _is_finished(folder: Path) -> bool:
    state = checkpoint.load_resume(folder)
    return state is not None and bool(state["finished"])


def _claim(prepared: Prepared) -> None:
    """Write down what the run's folders are trained with, once it is checked that it is the same as before."""
    models = Path(prepared.recipe.output)
    now = {"recipe": prepared.recipe.model_dump(mode="json"), "data_fingerprint": prepared.fingerprint}
    claims = {models: now}
    for course in prepared.courses:
        own = {"recipe": course.recipe.model_dump(mode="json"), "classes": list(course.specialist.classes)}
        claims[models / FOLDER / course.name] = now | own
    for folder, claim in claims.items():
        remedy = (
            "Choose another folder with --set output=DIR, or start afresh with --overwrite"
            if folder == models
            else "Give the specialist another name, or remove this folder to train it again"
        )
        _check_claim(folder / RUN, claim, remedy)
    for folder, claim in claims.items():
        write_text(folder / RUN, json.dumps(claim, ensure_ascii=False, indent=1) + "\n")


def _check_claim(path: Path, now: Mapping[str, Any], remedy: str) -> None:
    if not path.is_file():
        return
    before = json.loads(path.read_text("utf-8"))
    changes = list(changes_between(before["recipe"], now["recipe"]))
    changes += changes_between(before.get("classes"), now.get("classes"), "classes")
    if before["data_fingerprint"] != now["data_fingerprint"]:
        changes.append("the training data (files, labels or contents)")
    if changes:
        raise RecipeError(f"{path.parent} holds a run that differs in {'; '.join(changes)}. {remedy}")


def changes_between(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """What differs between two recipes, as "key: old -> new", leaving out the keys that do not touch learning."""
    if key in FREE_KEYS:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            yield from changes_between(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from changes_between(old, new, f"{key}.{i}")
    elif before != now:
        yield f"{key}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(now, ensure_ascii=False)}"


def _clear(folder: Path) -> None:
    """Remove a run's files, those of its specialists, and nothing else."""
    for specialist in (folder / FOLDER).glob("*/"):
        for answered in specialist.glob(f"*/{ANSWERS}"):
            answered.unlink()
        _clear_run(specialist)
        _remove_empty(specialist)
    write_list(folder, ())
    _remove_empty(folder / FOLDER)
    _clear_run(folder)


def _clear_run(folder: Path) -> None:
    for name in (RUN, "log.jsonl", OOF, "scores.json"):
        (folder / name).unlink(missing_ok=True)
    for fold in folder.glob("*/"):
        if fold.name.isdecimal():
            remove(fold)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _summary(prepared: Prepared, folder: Path, ranks: Ranks, already_finished: bool) -> Result:
    """Join the folds' out-of-fold predictions into one table and score them together: those that `engine infer` would
    answer with, of the best epoch's weights or the mean of the kept ones, once the specialists were asked."""
    held: dict[int, Held] = {}
    for fold in prepared.folds:
        voters = checkpoint.find_folds(folder / str(fold))
        if known := [read_held(voter / OOF, prepared.classes) for voter in voters if (voter / OOF).is_file()]:
            held[fold] = mean_held(known)
    if not held:
        return Result(folder, prepared.folds, {}, None, already_finished)
    main, effects = held, []
    for course in prepared.courses:
        before = held
        held, effect = _ask(course, folder / FOLDER / course.name, before, prepared.classes, ranks)
        effects.append(effect)
    final = held if prepared.recipe.predict.specialists else main
    if ranks.leads:
        _write_joined(folder / OOF, [held_table(part, prepared.classes, fold) for fold, part in final.items()])
    labels_N = _joined(final).labels_N
    return Result(
        folder=folder,
        folds=prepared.folds,
        metrics=_score(_joined(final), prepared.groups),
        baseline_log_loss=class_share_log_loss(prepared.samples.labels_N, labels_N, len(prepared.classes)),
        already_finished=already_finished,
        main=_score(_joined(main), prepared.groups),
        effects=tuple(effects),
    )


def _ask(
    course: Course, folder: Path, before: Mapping[int, Held], classes: Sequence[str], ranks: Ranks
) -> tuple[dict[int, Held], Effect]:
    """The out-of-fold answers of each fold once the specialist in `folder` was asked; its own are joined there."""
    own = {fold: read_held(folder / str(fold) / ANSWERS, course.specialist.answers, classes) for fold in before}
    if ranks.leads:
        tables = [held_table(part, course.specialist.answers, fold, classes) for fold, part in own.items()]
        _write_joined(folder / OOF, tables)
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
