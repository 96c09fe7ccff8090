"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import checkpoint
from engine.augment.loader import Samples
from engine.data.classes import class_names, label_indices
from engine.data.folds import assign_folds, held_out, trained_on
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.names import groups_of, resolved
from engine.data.prepare import clean
from engine.errors import RecipeError
from engine.files import atomic_write, write_text
from engine.metrics import class_share_log_loss, group_accuracy, score
from engine.model.build import check_drop_path, check_sizes
from engine.recipe.sections import Recipe
from engine.train.events import EpochRecord, Stop, Watcher
from engine.train.fold import FoldData, FoldTrainer
from engine.train.keep import OOF, remove
from engine.train.oof import Held, held_table, mean_held, read_held
from engine.train.optim import check_optimizer
from engine.train.ranks import Ranks

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
    "predict",
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A recipe with its data looked at and checked: nothing is left to be refused later."""

    recipe: Recipe
    manifest: Manifest  # cleaned; its rows are those of all that follows
    ids: list[str]
    samples: Samples
    classes: list[str]
    fold_N: np.ndarray
    fingerprint: str
    left_out: dict[str, str]  # path -> why
    notices: tuple[str, ...] = ()  # what cleaning the data did
    groups: Sequence[str] = ()  # of each class, when the recipe has class groups

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds to train."""
        return self.recipe.data.folds.run or tuple(range(self.recipe.data.folds.count))

    def fold_data(self, fold: int) -> FoldData:
        return FoldData(
            ids=self.ids,
            samples=self.samples,
            classes=self.classes,
            train_rows_N=trained_on(self.manifest, self.fold_N, fold, self.recipe.data),
            held_rows_N=held_out(self.manifest, self.fold_N, fold),
            fingerprint=self.fingerprint,
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to: out-of-fold metrics over all trained folds, and the log loss of always answering the class
    shares; {} and None when nothing was held out."""

    folder: Path
    folds: tuple[int, ...]
    metrics: dict[str, float]
    baseline_log_loss: float | None
    already_finished: bool


def prepare(recipe: Recipe, progress: Progress | None = None) -> Prepared:
    """Index the training data, split it and check the stages. Raises RecipeError or DataError, naming the remedy."""
    if not recipe.data.train:
        raise RecipeError("data.train is not set: name the folder with one sub-folder per class, or a table")
    recipe = recipe.model_copy(update={"data": resolved(recipe.data)})
    cleaned = clean(ingest(recipe.data.train, recipe.data, progress), recipe.data, progress)
    usable = cleaned.manifest
    classes = class_names(usable)
    check_sizes(recipe.model, [stage.size for stage in recipe.stage])
    check_drop_path(recipe.model, recipe.stage[0].size, [stage.drop_path for stage in recipe.stage])
    check_optimizer(recipe.train)
    _check_boosts(recipe, classes)
    _check_held_out(recipe)
    return Prepared(
        recipe=recipe,
        manifest=usable,
        ids=usable.ids,
        samples=Samples(usable.paths, usable.keys_N, label_indices(usable, classes)),
        classes=classes,
        fold_N=assign_folds(usable, recipe.data.folds, recipe.seed),
        fingerprint=usable.fingerprint,
        left_out=cleaned.left_out,
        notices=cleaned.notices,
        groups=groups_of(classes, recipe.data),
    )


def _check_boosts(recipe: Recipe, classes: Sequence[str]) -> None:
    for name in recipe.train.sampling.boost_classes:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, n=3) or classes[:3]
            raise RecipeError(f"train.sampling.boost_classes: there is no class {name!r}; nearest: {', '.join(near)}")


def _check_held_out(recipe: Recipe) -> None:
    """Refuse what follows from the scores of held-out images when there are none."""
    if recipe.data.folds.count > 1:
        return
    train = recipe.train
    early = train.early_stop
    schedules = [train.schedule, *(stage.schedule for stage in recipe.stage if stage.schedule is not None)]
    needing = {
        "train.keep_best": train.keep_best > 0,
        "train.sampling.hard_pairs": train.sampling.hard_pairs > 0,
        'train.early_stop (metric = "train_loss" needs none)': early.patience > 0 and early.metric != "train_loss",
        'schedule kind = "plateau"': any(schedule.kind == "plateau" for schedule in schedules),
        'stage start_from = "best"': any(stage.start_from == "best" for stage in recipe.stage),
    }
    if keys := [key for key, needed in needing.items() if needed]:
        raise RecipeError(f"data.folds.count = 1 holds nothing out, which {' and '.join(keys)} would be scored by")


def train(prepared: Prepared, ranks: Ranks, watcher: Watcher, stop: Stop, overwrite: bool = False) -> Result:
    """Train the recipe's folds into `recipe.output`, going on where an earlier run stopped.

    With `overwrite` what the folder holds of an earlier run is removed first. Raises Interrupted when `stop` says so,
    RecipeError when the folder holds another run.
    """
    recipe, folder = prepared.recipe, Path(prepared.recipe.output)
    if ranks.leads:
        if overwrite:
            _clear(folder)
        _claim(folder, prepared)
    ranks.gather(None)  # nobody reads the folder before it is claimed
    to_train = [fold for fold in prepared.folds if not _is_finished(folder / str(fold))]
    if ranks.leads:
        for notice in prepared.notices:
            watcher.notice(notice)
        for path, reason in prepared.left_out.items():
            watcher.notice(f"left out: {path}: {reason}")
    for fold in to_train:
        trainer = FoldTrainer(recipe, fold, prepared.fold_data(fold), folder / str(fold), ranks)
        trainer.train(_Log(folder / "log.jsonl", watcher) if ranks.leads else Watcher(), stop)
    ranks.gather(None)  # all is written by now
    result = _summary(prepared, folder, ranks, already_finished=not to_train)
    if ranks.leads:
        scores = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    return result


class _Log(Watcher):
    """Writes each epoch as a line of JSON, then passes everything on.

    A process that died may have logged an epoch that it did not save, which is then trained again: its line goes.
    """

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path, self._watcher = path, watcher

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


def _claim(folder: Path, prepared: Prepared) -> None:
    """Write down what this folder is trained with, or check that it is the same as before."""
    path = folder / "run.json"
    now = {"recipe": prepared.recipe.model_dump(mode="json"), "data_fingerprint": prepared.fingerprint}
    if path.is_file():
        before = json.loads(path.read_text("utf-8"))
        changes = list(_changes(before["recipe"], now["recipe"]))
        if before["data_fingerprint"] != prepared.fingerprint:
            changes.append("the training data (files, labels or contents)")
        if changes:
            raise RecipeError(
                f"{folder} holds a run that differs in {'; '.join(changes)}. "
                "Choose another folder with --set output=DIR, or start afresh with --overwrite"
            )
    write_text(path, json.dumps(now, ensure_ascii=False, indent=1) + "\n")


def _changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """What differs between two recipes, as "key: old -> new", leaving out the keys that do not touch learning."""
    if key in FREE_KEYS:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            yield from _changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f"{key}.{i}")
    elif before != now:
        yield f"{key}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(now, ensure_ascii=False)}"


def _clear(folder: Path) -> None:
    """Remove a run's files and nothing else."""
    for name in ("run.json", "log.jsonl", OOF, "scores.json"):
        (folder / name).unlink(missing_ok=True)
    for fold in folder.glob("*/"):
        if fold.name.isdecimal():
            remove(fold)


def _summary(prepared: Prepared, folder: Path, ranks: Ranks, already_finished: bool) -> Result:
    """Join the folds' out-of-fold predictions into one table and score them together: those of the weights that
    `engine infer` would answer with, the best epoch's or the mean of the kept ones."""
    held: dict[int, Held] = {}
    for fold in prepared.folds:
        voters = checkpoint.find_folds(folder / str(fold))
        if answers := [read_held(voter / OOF, prepared.classes) for voter in voters if (voter / OOF).is_file()]:
            held[fold] = mean_held(answers)
    metrics: dict[str, float] = {}
    baseline = None
    if held:
        if ranks.leads:
            tables = [held_table(part, prepared.classes, fold) for fold, part in held.items()]
            with atomic_write(folder / OOF) as temporary:
                pq.write_table(pa.concat_tables(tables), temporary)
        labels_N = np.concatenate([part.labels_N for part in held.values()])
        probabilities_NC = np.concatenate([part.probabilities_NC for part in held.values()])
        metrics = score(probabilities_NC, labels_N)
        if prepared.groups:
            metrics["group_accuracy"] = group_accuracy(probabilities_NC, labels_N, prepared.groups)
        baseline = class_share_log_loss(prepared.samples.labels_N, labels_N, len(prepared.classes))
    return Result(folder, prepared.folds, metrics, baseline, already_finished)
