"""A recipe with its data looked at: indexed, cleaned, divided into folds, and everything checked that can be refused.

All that a user can have got wrong is found here, before the first step of training and by `--dry-run` already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from engine.data.classes import class_names, groups_of, label_indices
from engine.data.clean import clean
from engine.data.folds import divide, held_out, trained_on
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.names import resolved
from engine.errors import RecipeError
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.model.build import check_drop_path, check_sizes
from engine.quarantine import Quarantine
from engine.recipe.sections import Recipe
from engine.text import nearest
from engine.training.feed import FoldData
from engine.training.optim import check_optimizer
from engine.training.specialists import Course, check_course, course_of


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
    left_out: Quarantine
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


def prepare(recipe: Recipe, progress: Progress | None = None) -> Prepared:
    """Index the training data, split it and check the stages. Raises RecipeError or DataError, naming the remedy."""
    if not recipe.data.train:
        raise RecipeError("data.train is not set: name the folder with one sub-folder per class, or a table")
    recipe = recipe.model_copy(update={"data": resolved(recipe.data)})
    cleaned = clean(ingest(recipe.data.train, recipe.data, progress), recipe.data, progress, recipe.decode)
    divided = divide(cleaned.manifest, recipe.data, recipe.seed)
    usable = divided.manifest
    if divided.run != (recipe.data.folds.run or tuple(range(recipe.data.folds.count))):
        recipe = _with_run(recipe, divided.run)
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
        fold_N=divided.fold_N,
        fingerprint=usable.fingerprint,
        left_out=cleaned.left_out,
        notices=(*cleaned.notices, *divided.notices),
        groups=groups_of(classes, recipe.data),
        courses=courses,
    )
    if courses:
        folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
        for course in courses:
            check_course(course, folds)
    return prepared


def _with_run(recipe: Recipe, run: tuple[int, ...]) -> Recipe:
    """The recipe with the folds to train named, so that whoever reads it knows them without the data."""
    folds = recipe.data.folds.model_copy(update={"run": run})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"folds": folds})})


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
            near = ", ".join(nearest(name, classes))
            raise RecipeError(f"train.sampling.boost_classes: there is no class {name!r}; nearest: {near}")


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
