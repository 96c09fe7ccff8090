"""A whole run: the folds of a recipe one after the other, and their out-of-fold predictions joined.

Then the specialists, each in the same way in a folder of its own, and what they change in these predictions.

`models/run.json` remembers what a folder was trained with. The same command on a finished run says so, on an
interrupted one goes on, and with another recipe or other data it is refused rather than mixed with what is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.classes import class_names, label_indices
from engine.data.clean import clean
from engine.data.folds import assign_folds, held_out, trained_on
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.names import groups_of, resolved
from engine.ensemble import ensemble
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.specialist import FOLDER, Effect
from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import EpochRecord, Stop, Watcher
from engine.files import write_text
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.metrics import class_share_log_loss, evaluate
from engine.model.build import check_drop_path, check_sizes
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.epochs import OOF, remove
from engine.train.optim import check_optimizer
from engine.train.out_of_fold import about, answer_held_out, collect
from engine.train.specialists import Course, check_course, course_of
from engine.train.trainer import FoldData, FoldTrainer

RUN = "run.json"
_GOES_ON = "the same command goes on from here"

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
    courses: tuple[Course, ...] = ()  # of the recipe's specialists

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


def prepare(recipe: Recipe, progress: Progress | None = None) -> Prepared:
    """Index the training data, split it and check the stages. Raises RecipeError or DataError, naming the remedy."""
    if not recipe.data.train:
        raise RecipeError("data.train is not set: name the folder with one sub-folder per class, or a table")
    recipe = recipe.model_copy(update={"data": resolved(recipe.data)})
    cleaned = clean(ingest(recipe.data.train, recipe.data, progress), recipe.data, progress)
    usable = cleaned.manifest
    classes = class_names(usable)
    _check(recipe, classes)
    samples = Samples(usable.ids, Files(usable.paths), usable.keys_N, label_indices(usable, classes))
    courses = tuple(course_of(section, recipe, samples, classes) for section in recipe.specialist)
    for course in courses:
        try:
            _check(course.recipe, [*classes, *course.specialist.answers])
        except RecipeError as error:
            raise RecipeError(f"specialist {course.name}: {error}") from None
    prepared = Prepared(
        recipe=recipe,
        manifest=usable,
        ids=usable.ids,
        samples=samples,
        classes=classes,
        fold_N=assign_folds(usable, recipe.data.folds, recipe.seed),
        fingerprint=usable.fingerprint,
        left_out=cleaned.left_out,
        notices=cleaned.notices,
        groups=groups_of(classes, recipe.data),
        courses=courses,
    )
    if courses:
        folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
        for course in courses:
            check_course(course, folds)
    return prepared


def _check(recipe: Recipe, classes: Sequence[str]) -> None:
    """Raise RecipeError for stages and settings that cannot be trained."""
    check_sizes(recipe.model, [stage.size for stage in recipe.stage])
    check_drop_path(recipe.model, recipe.stage[0].size, [stage.drop_path for stage in recipe.stage])
    check_optimizer(recipe.train)
    _check_boosts(recipe, classes)
    _check_held_out(recipe)


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
    ends = [train.early_stop, *(stage.early_stop for stage in recipe.stage if stage.early_stop is not None)]
    schedules = [train.schedule, *(stage.schedule for stage in recipe.stage if stage.schedule is not None)]
    needing = {
        "train.keep_best": train.keep_best > 0,
        "train.sampling.hard_pairs": train.sampling.hard_pairs > 0,
        'early_stop (metric = "train_loss" needs none)': any(e.patience and e.metric != "train_loss" for e in ends),
        'schedule kind = "plateau"': any(schedule.kind == "plateau" for schedule in schedules),
        'stage start_from = "best"': any(stage.start_from == "best" for stage in recipe.stage),
    }
    if keys := [key for key, needed in needing.items() if needed]:
        raise RecipeError(f"data.folds.count = 1 holds nothing out, which {' and '.join(keys)} would be scored by")


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
    trained = _train_folds(recipe, folder, folds, folds, ranks, _Log(folder / "log.jsonl", watcher), stop)
    for course in prepared.courses:
        trained |= _train_specialist(course, folder, folds, ranks, watcher, stop)
    ranks.gather(None)  # all is written by now
    result = _summary(prepared, folder, ranks, already_finished=not trained)
    if ranks.leads:
        Ensemble.of(recipe, [course.specialist for course in prepared.courses]).save(folder)
        scores: dict[str, Any] = {"baseline_log_loss": result.baseline_log_loss, "out_of_fold": result.metrics}
        if result.effects:
            scores |= {"main": result.main, "specialists": [dataclasses.asdict(effect) for effect in result.effects]}
        write_text(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return result


def _train_folds(
    recipe: Recipe,
    folder: Path,
    folds: Mapping[int, FoldData],
    asked: Mapping[int, FoldData],
    ranks: Ranks,
    log: _Log,
    stop: Stop,
) -> bool:
    """Train the folds that are not finished; whether there were any. Each then answers about what `asked` holds out."""
    trained = False
    for fold, data in folds.items():
        if not _is_finished(folder / str(fold)):
            FoldTrainer(recipe, fold, data, folder / str(fold), ranks).train(log if ranks.leads else Watcher(), stop)
            trained = True
        if answer_held_out(recipe, fold, asked[fold], folder / str(fold), ranks) and ranks.any(stop()):
            raise Interrupted(f"stopped after fold {fold} answered for what it held out; {_GOES_ON}")
    return trained


def _train_specialist(
    course: Course, models: Path, folds: Mapping[int, FoldData], ranks: Ranks, watcher: Watcher, stop: Stop
) -> bool:
    """Train a specialist's folds, each of which answers about all that the main fold holds out; whether there was
    anything left to train."""
    name, folder = course.name, models / FOLDER / course.name
    own = {fold: course.fold_data(main) for fold, main in folds.items()}
    if ranks.leads and not all(_is_finished(folder / str(fold)) for fold in own):
        watcher.notice(f"specialist {name}: {', '.join(course.specialist.answers)}")
    log = _Log(folder / "log.jsonl", watcher, name)
    try:
        return _train_folds(course.recipe, folder, own, folds, ranks, log, stop)
    except Interrupted as error:
        raise Interrupted(f"specialist {name}: {error}") from None
    except EngineError as error:
        raise EngineError(f"specialist {name}: {error}. To begin it alone afresh, remove {folder}") from error


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
        _clear_run(specialist)
        _remove_empty(specialist)
    _remove_empty(folder / FOLDER)
    _clear_run(folder)


def _clear_run(folder: Path) -> None:
    for name in (RUN, "log.jsonl", OOF, "scores.json", ensemble.NAME):
        (folder / name).unlink(missing_ok=True)
    for fold in folder.glob("*/"):
        if fold.name.isdecimal():
            remove(fold)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _summary(prepared: Prepared, folder: Path, ranks: Ranks, already_finished: bool) -> Result:
    """Join the folds' out-of-fold predictions, write them and score them: those that `engine infer` answers with."""
    recipe, specialists = prepared.recipe, [course.specialist for course in prepared.courses]
    collected = collect(folder, prepared.folds, specialists, recipe.ensemble.vote)
    if collected is None:
        return Result(folder, prepared.folds, {}, None, already_finished)
    final = collected.heard if recipe.predict.specialists else collected.main
    if ranks.leads:
        for name, own in collected.own.items():
            own.write(folder / FOLDER / name / OOF, about=about(recipe))
        final.write(folder / OOF, about=about(recipe))
    return Result(
        folder=folder,
        folds=prepared.folds,
        metrics=evaluate(final, prepared.groups).metrics,
        baseline_log_loss=class_share_log_loss(prepared.samples.labels_N, final.labels_N, len(prepared.classes)),
        already_finished=already_finished,
        main=evaluate(collected.main, prepared.groups).metrics,
        effects=collected.effects,
    )
