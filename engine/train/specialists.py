"""Specialists: models for classes that look alike, trained beside the main one on the same folds.

A specialist is a run of its own over some of the samples, by a recipe of its own, so `FoldTrainer` trains it as it
trains everything. What is particular is what it is scored by. The main model also gives a specialist's classes to
images of others, and in use the specialist is asked about those, too. So its fold models answer for *all* images that
the main fold held out, and the gain is counted over what comes out of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engine.data.names import ClassNames
from engine.ensemble.specialist import Specialist
from engine.errors import DataError, EngineError, RecipeError
from engine.inference.member import restore
from engine.loader.batches import Loader, Samples
from engine.metrics import score
from engine.order import eval_batches
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, SpecialistSection
from engine.store import checkpoint
from engine.store.run_folder import FoldFolder
from engine.text import nearest, nfc
from engine.train.feed import FoldData
from engine.train.oof import Held, mean_held
from engine.train.step import probabilities

_SHOWN = ("log_loss", "accuracy", "macro_f1")
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


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a specialist did to the out-of-fold answers, after those before it."""

    name: str
    classes: tuple[str, ...]
    blend: float
    images: int
    asked: int
    wrong_to_right: int
    right_to_wrong: int
    before: dict[str, float]
    after: dict[str, float]


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


def answers(course: Course, main: FoldData, fold: FoldFolder, ranks: Ranks) -> Held:
    """What its models in the folder `fold` answer, on all ranks together, about every image that `main` holds out:
    probabilities of its answers, labels of the main model. Raises EngineError when no image can be read."""
    voters = [_answered(course, main, member.path, ranks) for member in fold.members()]
    return mean_held(voters)


def _answered(course: Course, main: FoldData, folder: Path, ranks: Ranks) -> Held:
    recipe = course.recipe
    member = restore(checkpoint.load(folder), ranks.device)
    loader = Loader(main.samples, recipe.decode, ranks.device, recipe.augment.executor, member.runtime.dtype)
    batches = eval_batches(main.held_rows_N, recipe.stage[-1].batch, ranks.rank, ranks.world)
    pieces = ranks.gather(probabilities(member.model, loader.valid(batches, member.contract), member.runtime))
    if not (parts := [own_BS for own_BS, _ in pieces if len(own_BS)]):
        raise EngineError(
            f"specialist {course.name}: none of the held-out images could be read: {loader.quarantine.some(1)}"
        )
    rows_N = np.concatenate([rows_B for _, rows_B in pieces])
    order = np.argsort(rows_N)
    rows_N = rows_N[order]
    return Held([main.ids[row] for row in rows_N], main.samples.labels_N[rows_N], np.concatenate(parts)[order])


def apply(specialist: Specialist, held: Held, own: Held, classes: Sequence[str]) -> tuple[Held, int]:
    """A fold's out-of-fold answers `held` once the specialist was asked, and how often it was. Images that `own` knows
    nothing of keep their answer."""
    place = {id_: row for row, id_ in enumerate(own.ids)}
    known_N = np.array([id_ in place for id_ in held.ids], dtype=bool)
    rows_A = np.flatnonzero(specialist.asked(held.probabilities_NC, classes) & known_N)
    own_AS = own.probabilities_NC[[place[held.ids[row]] for row in rows_A]]
    joined_NC = specialist.joined(held.probabilities_NC, classes, rows_A, own_AS)
    return dataclasses.replace(held, probabilities_NC=joined_NC), len(rows_A)


def effect_of(specialist: Specialist, before: Held, after: Held, asked: int) -> Effect:
    """What changed between the out-of-fold answers before and after a specialist was asked."""
    was_right_N, is_right_N = (held.probabilities_NC.argmax(1) == held.labels_N for held in (before, after))
    return Effect(
        name=specialist.name,
        classes=specialist.classes,
        blend=specialist.blend,
        images=len(before.ids),
        asked=asked,
        wrong_to_right=int((~was_right_N & is_right_N).sum()),
        right_to_wrong=int((was_right_N & ~is_right_N).sum()),
        before=score(before.probabilities_NC, before.labels_N, _SHOWN),
        after=score(after.probabilities_NC, after.labels_N, _SHOWN),
    )
