"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import checkpoint
from engine.augment.loader import Samples
from engine.data.classes import class_names, label_indices
from engine.data.folds import assign_folds
from engine.data.ingest import Progress, ingest
from engine.errors import RecipeError
from engine.files import atomic_write, write_text
from engine.metrics import class_share_log_loss, score
from engine.model.build import check_sizes
from engine.recipe.sections import Recipe
from engine.train.events import EpochRecord, Stop, Watcher
from engine.train.fold import FoldData, FoldTrainer
from engine.train.oof import read_held
from engine.train.ranks import Ranks

# Keys that may change between a run and its continuation: they do not touch what is learnt.
FREE_KEYS = (
    "name",
    "output",
    "data.test",
    "data.sample_submission",
    "data.cache",
    "data.folds.run",
    "decode",
    "predict",
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A recipe with its data looked at and checked: nothing is left to be refused later."""

    recipe: Recipe
    ids: list[str]
    samples: Samples
    classes: list[str]
    fold_N: np.ndarray
    fingerprint: str
    left_out: dict[str, str]  # path -> why

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds to train."""
        return self.recipe.data.folds.run or tuple(range(self.recipe.data.folds.count))

    def fold_data(self, fold: int) -> FoldData:
        return FoldData(
            ids=self.ids,
            samples=self.samples,
            classes=self.classes,
            train_rows_N=np.flatnonzero(self.fold_N != fold),
            held_rows_N=np.flatnonzero(self.fold_N == fold),
            fingerprint=self.fingerprint,
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to: out-of-fold metrics over all trained folds, and the log loss of always answering the class
    shares."""

    folder: Path
    folds: tuple[int, ...]
    metrics: dict[str, float]
    baseline_log_loss: float
    already_finished: bool


def prepare(recipe: Recipe, progress: Progress | None = None) -> Prepared:
    """Index the training data, split it and check the stages. Raises RecipeError or DataError, naming the remedy."""
    if not recipe.data.train:
        raise RecipeError("data.train is not set: name the folder with one sub-folder per class, or a table")
    manifest = ingest(recipe.data.train, recipe.data, progress)
    usable = manifest.usable()
    left_out = {p: s for p, s in zip(manifest.paths, manifest.table["status"].to_pylist(), strict=True) if s != "ok"}
    classes = class_names(usable)
    check_sizes(recipe.model, [stage.size for stage in recipe.stage])
    return Prepared(
        recipe=recipe,
        ids=usable.ids,
        samples=Samples(usable.paths, usable.keys_N, label_indices(usable, classes)),
        classes=classes,
        fold_N=assign_folds(usable, recipe.data.folds, recipe.seed),
        fingerprint=usable.fingerprint,
        left_out=left_out,
    )


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
    finished = all(_is_finished(folder / str(fold)) for fold in prepared.folds)
    if ranks.leads:
        for path, reason in prepared.left_out.items():
            watcher.notice(f"left out: {path}: {reason}")
    for fold in prepared.folds:
        if _is_finished(folder / str(fold)):
            continue
        trainer = FoldTrainer(recipe, fold, prepared.fold_data(fold), folder / str(fold), ranks)
        trainer.train(_Log(folder / "log.jsonl", watcher) if ranks.leads else Watcher(), stop)
        for path, reason in trainer.loader.quarantine.items():
            watcher.notice(f"set aside: {path}: {reason}")
    result = _summary(prepared, folder, finished)
    if ranks.leads:
        scores = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        write_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    return result


class _Log(Watcher):
    """Writes each epoch as a line of JSON, then passes everything on."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path, self._watcher = path, watcher

    def fold_begins(self, fold: int, images: int, done: int) -> None:
        self._watcher.fold_begins(fold, images, done)

    def images_done(self, count: int, loss: float | None) -> None:
        self._watcher.images_done(count, loss)

    def epoch_ends(self, record: EpochRecord) -> None:
        line = dataclasses.asdict(record) | {"images_per_second": record.images_per_second}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._watcher.epoch_ends(record)

    def notice(self, message: str) -> None:
        self._watcher.notice(message)


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
    for name in ("run.json", "log.jsonl", "oof.parquet", "scores.json"):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("*/resume.pt"):
        shutil.rmtree(path.parent)


def _summary(prepared: Prepared, folder: Path, finished: bool) -> Result:
    """Join the folds' out-of-fold predictions into one table and score them together."""
    paths = [folder / str(fold) / "oof.parquet" for fold in prepared.folds]
    held = [read_held(path, prepared.classes) for path in paths]
    with atomic_write(folder / "oof.parquet") as temporary:
        pq.write_table(pa.concat_tables([pq.read_table(path) for path in paths]), temporary)
    labels_N = np.concatenate([h.labels_N for h in held])
    return Result(
        folder=folder,
        folds=prepared.folds,
        metrics=score(np.concatenate([h.probabilities_NC for h in held]), labels_N),
        baseline_log_loss=class_share_log_loss(prepared.samples.labels_N, labels_N, len(prepared.classes)),
        already_finished=finished,
    )
