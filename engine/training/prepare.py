"""A recipe with its data looked at: indexed, cleaned, divided into folds, and everything checked that can be refused.

All that a user can have got wrong is found here, before the first step of training and by `--dry-run` already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from engine.data.classes import class_names, groups_of, label_indices
from engine.data.clean import Cleaned, apply_lists, clean
from engine.data.folds import divide, held_out, trained_on
from engine.data.ingest import Progress, ingest
from engine.data.manifest import Manifest
from engine.data.names import resolved
from engine.errors import DataError, RecipeError
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.quarantine import Quarantine
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.text import count
from engine.training.checks import check_folds, check_recipe, check_start, idle
from engine.training.feed import FoldData
from engine.training.specialists import Course, check_course, course_of
from engine.training.teacher import Lesson, lesson


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
    notices: tuple[str, ...] = ()  # what cleaning the data did, and what of the recipe changes nothing
    groups: Sequence[str] = ()  # of each class, when the recipe has class groups
    courses: tuple[Course, ...] = ()  # of the recipe's specialists
    lesson: Lesson | None = None  # where the recipe names a teacher

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
            groups=groups if any(groups := self.manifest.groups) else (),
            unlabelled=self.lesson.unlabelled if self.lesson else 0,
        )


def prepare(recipe: Recipe, progress: Progress | None = None, world: int = 1) -> Prepared:
    """Index the training data, split it and check that `world` processes can train it. Raises RecipeError or DataError,
    naming the remedy."""
    if not recipe.data.train:
        raise RecipeError("data.train is not set: name the folder with one sub-folder per class, or a table")
    recipe = recipe.model_copy(update={"data": resolved(recipe.data)})
    found = ingest(recipe.data.train, recipe.data, progress)
    cleaned = clean(found, recipe.data, progress, recipe.decode)
    unreadable = _check_readable(found, cleaned, recipe)
    divided = divide(cleaned.manifest, recipe.data, recipe.seed)
    usable = divided.manifest
    if divided.run != (recipe.data.folds.run or tuple(range(recipe.data.folds.count))):
        recipe = _with_run(recipe, divided.run)
    classes = class_names(usable)
    check_recipe(recipe, classes)
    samples = Samples(usable.ids, Files(usable.paths), usable.keys_N, label_indices(usable, classes))
    if recipe.distill.unlabelled and not recipe.distill.teacher:
        raise RecipeError("distill.unlabelled: without a teacher nothing can be learnt from them: set distill.teacher")
    if recipe.distill.teacher and recipe.specialist:
        raise RecipeError("distill.teacher: specialists answer among other classes; leave out one of the two")
    taught = lesson(recipe.distill, samples, usable, classes) if recipe.distill.teacher else None
    courses = tuple(course_of(section, recipe, samples, classes) for section in recipe.specialist)
    for course in courses:
        with _about(course):
            check_recipe(course.recipe, course.specialist.answers, classes)
    prepared = Prepared(
        recipe=recipe,
        manifest=usable,
        ids=usable.ids,
        samples=taught.samples if taught else samples,
        classes=classes,
        fold_N=divided.fold_N,
        fingerprint=usable.fingerprint,
        left_out=cleaned.left_out,
        notices=(*cleaned.notices, *unreadable, *divided.notices, *(taught.notices if taught else ()), *idle(recipe)),
        groups=groups_of(classes, recipe.data),
        courses=courses,
        lesson=taught,
    )
    folds = {fold: prepared.fold_data(fold) for fold in prepared.folds}
    check_folds(recipe, folds, world)
    for course in courses:
        check_course(course, folds)
        with _about(course):
            check_folds(course.recipe, {fold: course.fold_data(main) for fold, main in folds.items()}, world)
    return prepared


def _with_run(recipe: Recipe, run: tuple[int, ...]) -> Recipe:
    """The recipe with the folds to train named, so that whoever reads it knows them without the data."""
    folds = recipe.data.folds.model_copy(update={"run": run})
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"folds": folds})})


def check_starts(prepared: Prepared, ranks: Ranks, finished: Callable[[str], bool] = lambda name: False) -> list[str]:
    """`check_start` of the main model and of the specialists, but for those who are `finished`, by name ("" is the main
    model's); what is to be told. Raises RecipeError."""
    said: list[str] = []
    if not finished(""):
        said += check_start(prepared.recipe, len(prepared.classes), ranks)
    for course in prepared.courses:
        if not finished(course.name):
            with _about(course):
                own = check_start(course.recipe, len(course.specialist.answers), ranks)
            said += [f"specialist {course.name}: {line}" for line in own if line not in said]
    return said


@contextmanager
def _about(course: Course) -> Iterator[None]:
    """Errors are about this specialist."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"specialist {course.name}: {error}") from None


def _check_readable(found: Manifest, cleaned: Cleaned, recipe: Recipe) -> list[str]:
    """Words about classes none of whose images can be read, where `data.rare_classes` drops them.

    Raises DataError for them else: without a word, models would not know them.
    """
    listed, _ = apply_lists(found, recipe.data)
    gone = set(listed.labels) - set(cleaned.manifest.labels) - {""}
    unreadable: dict[str, list[str]] = {label: [] for label in sorted(gone)}
    readable: set[str] = set()
    for id_, label in zip(listed.ids, listed.labels, strict=True):
        if label in gone and id_ in cleaned.left_out:
            unreadable[label].append(id_)
        elif label in gone:
            readable.add(label)  # it went for another reason, which the notices name
    lost = [
        f"{label!r} ({count(ids, 'image')}, such as {cleaned.left_out[ids[0]]})"
        for label, ids in unreadable.items()
        if label not in readable
    ]
    if not lost:
        return []
    said = f"{count(lost, 'class', 'classes')} of which no image can be read"
    if recipe.data.rare_classes == "drop":
        return [f"left out, {said} (data.rare_classes): {'; '.join(lost)}"]
    raise DataError(
        f"{recipe.data.train}: {said}: {'; '.join(lost)}. Mend these files, or leave them out: remove them, name them "
        'in data.exclude or their classes in data.drop_classes, or set data.rare_classes = "drop"'
    )
