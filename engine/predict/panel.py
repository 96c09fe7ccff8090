"""Specialists answer: each fold model's answer about an image of look-alike classes is heard by that fold's specialist.

Fold by fold and before the folds vote, because that is what out-of-fold scores measured: a specialist acts on the very
probabilities that its own main model gives. Where a fold kept several epochs, they vote first and are then one model.

Specialists see the images that the main models saw, decoded once, and only those about which one of them is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.augment.views import View
from engine.ensemble import specialist
from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import Rule, blend
from engine.errors import DataError
from engine.inference.predictor import Predictor
from engine.kernels import Ragged
from engine.loader.passes import Name
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint, CheckpointError
from engine.text import some


@dataclasses.dataclass(frozen=True)
class Found:
    """A specialist and the checkpoints that answer for it in each of the main models' folds, in their order."""

    specialist: Specialist
    folds: tuple[tuple[Checkpoint, ...], ...]


def fold_of(folder: Path) -> Path:
    """The fold's folder that a checkpoint's folder is, or is a kept epoch of."""
    folder = folder.absolute()  # "." has no name and no parent
    return folder.parent if folder.name.startswith(checkpoint.EPOCH_PREFIX) else folder


def find_specialists(folders: Sequence[Path], classes: Sequence[str]) -> tuple[Found, ...]:
    """The specialists that were trained beside these models, which know `classes`; () when there are none.

    Raises CheckpointError when a fold of one is missing or damaged, DataError when it is of another training.
    """
    folds = list(dict.fromkeys(map(fold_of, folders)))
    return tuple(_found(one, folds, classes) for one in specialist.read_list(folds[0].parent))


def _found(one: Specialist, folds: Sequence[Path], classes: Sequence[str]) -> Found:
    if unknown := sorted(set(one.classes) - set(classes)):
        raise DataError(
            f"specialist {one.name} knows classes that the models do not ({some(unknown)}): it is of another training. "
            "Copy the folder of the models again, or leave specialists out with --set predict.specialists=false"
        )
    voters = []
    for fold in folds:
        folder = specialist.fold_folder(fold.parent, one.name, fold.name)
        try:
            voters.append(tuple(map(checkpoint.load, checkpoint.find_folds(folder))))
        except CheckpointError as error:
            raise CheckpointError(
                f"specialist {one.name} cannot answer for fold {fold.name}: {error}. Finish `engine train`, copy the "
                "folder again, or leave specialists out with --set predict.specialists=false"
            ) from error
        for saved in voters[-1]:
            if saved.classes != one.answers:
                raise DataError(
                    f"{folder} answers {some(saved.classes)}, but specialist {one.name} is to answer "
                    f"{some(one.answers)}: it is of another training. Run the same `engine train` again"
                )
    return Found(one, tuple(voters))


class Panel:
    """Specialists, asked in order about what main models in `folders` answered; they know `classes`, in the order of
    each one's columns."""

    def __init__(
        self,
        found: Sequence[Found],
        folders: Sequence[Path],
        classes: Sequence[Sequence[str]],
        device: torch.device,
        views: Sequence[View],
        executor: Name = "auto",
        rule: Rule = "soft",
    ) -> None:
        self._rule: Rule = rule
        self._specialists = [one.specialist for one in found]
        self._sizes = [[len(voters) for voters in one.folds] for one in found]
        self._predictors = [
            Predictor([saved for voters in one.folds for saved in voters], device, views, executor) for one in found
        ]
        of_fold: dict[Path, list[int]] = {}
        for voter, folder in enumerate(folders):
            of_fold.setdefault(fold_of(folder), []).append(voter)
        self.voters = list(of_fold.values())  # of each fold
        self._classes = [classes[voters[0]] for voters in self.voters]
        self.asked = dict.fromkeys((one.name for one in self._specialists), 0)  # images, by at least one fold

    def joined(self, images: Ragged, main_KBC: Sequence[NDArray[np.float64]]) -> list[NDArray[np.floating]]:
        """For each fold the probabilities (B, C) that it comes to with its specialists, of those of each main model."""
        folds: list[NDArray[np.floating]] = [
            blend(np.stack([main_KBC[voter] for voter in voters]), self._rule) for voters in self.voters
        ]
        for number, one in enumerate(self._specialists):
            asked_FB = np.stack([one.asked(p_BC, names) for p_BC, names in zip(folds, self._classes, strict=True)])
            rows_A = np.flatnonzero(asked_FB.any(0))
            if not len(rows_A):
                continue
            self.asked[one.name] += len(rows_A)
            answers = self._answers(number, Ragged([images.tensors[row] for row in rows_A.tolist()]))
            for fold, own_AS in enumerate(answers):
                mine_A = asked_FB[fold, rows_A]
                folds[fold] = one.joined(folds[fold], self._classes[fold], rows_A[mine_A], own_AS[mine_A])
        return folds

    def _answers(self, number: int, images: Ragged) -> list[NDArray[np.float64]]:
        """What each fold of a specialist answers about the images, (A, S): views averaged, then kept epochs."""
        logits = self._predictors[number].logits(images)
        voters = [blend(logits_VAS.double().softmax(dim=2).cpu().numpy(), self._rule) for logits_VAS in logits]
        ends = np.cumsum(self._sizes[number])[:-1]
        return [blend(part, self._rule) for part in np.split(np.stack(voters), ends)]
