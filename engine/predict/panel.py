"""Specialists answer: each fold model's answer about an image of look-alike classes is heard by that fold's specialist.

Fold by fold and before the folds vote, because that is what out-of-fold scores measured: a specialist acts on the very
probabilities that its own main model gives. Where a fold kept several epochs, they vote first and are then one model.

A specialist is shown only the images about which one of its folds is asked, which are decoded again for it. Asking it
batch by batch, while the main models' pixels are at hand, would save that and split its images into batches of every
size; they are few, and each specialist depends on what the one before it said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import Rule, vote_of_fold
from engine.errors import CheckpointError, DataError
from engine.predictions import Predictions
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import FoldFolder, MemberFolder, RunFolder
from engine.text import some


@dataclasses.dataclass(frozen=True)
class Asked:
    """A specialist and the checkpoints that answer for it in each of the main models' folds, in their order."""

    specialist: Specialist
    folds: tuple[tuple[Checkpoint, ...], ...]


def find_specialists(
    specialists: Sequence[Specialist], members: Sequence[MemberFolder], classes: Sequence[str]
) -> tuple[Asked, ...]:
    """These specialists with their checkpoints beside the models of `members`, which know `classes`.

    Raises CheckpointError when a fold of one is missing or damaged, DataError when it is of another training.
    """
    folds = list(dict.fromkeys(member.fold for member in members))
    return tuple(_found(one, folds, classes) for one in specialists)


def _found(one: Specialist, folds: Sequence[FoldFolder], classes: Sequence[str]) -> Asked:
    if unknown := sorted(set(one.classes) - set(classes)):
        raise DataError(
            f"specialist {one.name} knows classes that the models do not ({some(unknown)}): it is of another training. "
            "Copy the folder of the models again, or leave specialists out with --set predict.specialists=false"
        )
    voters = []
    for fold in folds:
        own = FoldFolder(RunFolder(fold.path.parent).specialist(one.name).path / fold.name)
        try:
            voters.append(tuple(checkpoint.load(member.path) for member in own.members()))
        except CheckpointError as error:
            raise CheckpointError(
                f"specialist {one.name} cannot answer for fold {fold.name}: {error}. Finish `engine train`, copy the "
                "folder again, or leave specialists out with --set predict.specialists=false"
            ) from error
        for saved in voters[-1]:
            if saved.classes != one.answers:
                raise DataError(
                    f"{own.path} answers {some(saved.classes)}, but specialist {one.name} is to answer "
                    f"{some(one.answers)}: it is of another training. Run the same `engine train` again"
                )
    return Asked(one, tuple(voters))


Ask = Callable[[Asked, Sequence[str]], list[Predictions]]
"""(specialist, ids) -> what each of its models answers about these images."""


def hear(
    panel: Sequence[Asked], folds: Sequence[Predictions], rule: Rule, ask: Ask
) -> tuple[list[Predictions], dict[str, int]]:
    """What each fold comes to with its specialists, asked in order, and about how many images each one was asked."""
    heard, asked = list(folds), {}
    for one in panel:
        about = _about(one.specialist, heard)
        asked[one.specialist.name] = len(about)
        if not about:
            continue
        answers = iter(ask(one, about))
        for place, voters in enumerate(one.folds):
            own = vote_of_fold([next(answers) for _ in voters], rule)
            heard[place] = one.specialist.heard(heard[place], own)
    return heard, asked


def _about(one: Specialist, folds: Sequence[Predictions]) -> list[str]:
    """The images about which at least one fold asks it."""
    asked: dict[str, None] = {}
    for fold in folds:
        rows = np.flatnonzero(one.asked(fold.probabilities_NC, fold.classes))
        asked |= dict.fromkeys(fold.ids[row] for row in rows.tolist())
    return list(asked)
