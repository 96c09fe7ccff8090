"""Specialists: models for classes that look alike, trained beside the main one on the same folds.

A specialist is a run of its own over some of the samples, by a recipe of its own, so `FoldTrainer` trains it as it
trains everything. What is particular is what it is scored by. The main model also gives a specialist's classes to
images of others, and in use the specialist is asked about those, too. So its fold models answer for *all* images that
the main fold held out, and the gain is counted over what comes out of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from engine.data.names import ClassNames
from engine.ensemble.specialist import Specialist
from engine.errors import DataError, RecipeError
from engine.loader.batches import Samples
from engine.recipe.sections import Recipe, SpecialistSection
from engine.text import nearest, nfc
from engine.training.feed import FoldData

_OTHER = -1  # the label of images that it is neither trained on nor scored by


@dataclasses.dataclass(frozen=True)
class Course:
    """What a specialist learns, from which samples: they are labelled by its answers, with -1 where none is true."""

    specialist: Specialist
    recipe: Recipe
    samples: Samples

    @property
    def name(self) -> str:
        return self.specialist.name

    def fold_data(self, main: FoldData) -> FoldData:
        """Its part of the main model's fold: what that one holds out is held out here."""
        known_N = self.samples.labels_N != _OTHER
        return dataclasses.replace(
            main,
            samples=self.samples,
            classes=list(self.specialist.answers),
            train_rows_N=main.train_rows_N[known_N[main.train_rows_N]],
            held_rows_N=main.held_rows_N[known_N[main.held_rows_N]],
        )


def course_of(section: SpecialistSection, recipe: Recipe, samples: Samples, classes: Sequence[str]) -> Course:
    """The course of a specialist of `recipe`, whose `samples` are labelled by `classes`.

    Raises RecipeError for a class that is not among them, naming the nearest.
    """
    names = ClassNames.of(recipe.data)
    own = {_class(name, section, classes, names) for name in section.classes}
    if len(own) < len(section.classes):
        raise RecipeError(
            f"specialist {section.name}: classes: {', '.join(section.classes)} are names of the same class "
            "(data.aliases); name it once, or another one"
        )
    specialist = Specialist(section.name, tuple(name for name in classes if name in own), section.blend)
    place = {name: i for i, name in enumerate(specialist.classes)}
    other = _OTHER if len(own) > 1 else 1
    own_label_C = np.array([place.get(name, other) for name in classes], dtype=np.int64)
    own_samples = dataclasses.replace(samples, labels_N=own_label_C[samples.labels_N])
    return Course(specialist, recipe.of_specialist(section), own_samples)


def _class(name: str, section: SpecialistSection, classes: Sequence[str], names: ClassNames) -> str:
    found = nfc(name) if nfc(name) in classes else names.class_of(nfc(name))
    if found not in classes:
        near = ", ".join(map(repr, nearest(name, classes)))
        raise RecipeError(f"specialist {section.name}: classes: there is no class {name!r}; nearest: {near}")
    return found


def check_course(course: Course, folds: Mapping[int, FoldData]) -> None:
    """Raise DataError when there are images lacking to learn one of its answers, or to score them, in a fold."""
    for number, main in folds.items():
        data = course.fold_data(main)
        counts_S = np.bincount(data.samples.labels_N[data.train_rows_N], minlength=len(data.classes))
        if not counts_S.all():
            raise DataError(
                f"specialist {course.name}: none of the images that fold {number} is trained on is "
                f"{data.classes[int(counts_S.argmin())]!r}. Divide the folds otherwise, or leave the specialist out"
            )
        if len(main.held_rows_N) and not len(data.held_rows_N):
            raise DataError(
                f"specialist {course.name}: fold {number} holds out no image of {', '.join(data.classes)} to score it "
                "by. Divide the folds otherwise, or leave the specialist out"
            )
