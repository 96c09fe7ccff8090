"""Everything that a run left that speaks for or against the labels it was given, read together and in one order.

All of it is out of fold: what a model says of a label that it was trained on is that label. What an older run or
another recipe has not (answers by epoch, neighbours) is None and is done without.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from engine.ensemble.nearest import nearest_of_all
from engine.ensemble.neighbours import embedding
from engine.errors import CheckpointError, DataError
from engine.predictions import LabelledPredictions, Predictions
from engine.store.bank import bank_of
from engine.store.epochs import EpochAnswers
from engine.store.run_folder import FoldFolder, RunFolder

NEIGHBOURS = 20  # training photos looked at for each; enough for a share, few enough to be like it


@dataclasses.dataclass(frozen=True, eq=False)
class Nearby:
    """The K training photos nearest to each of N, nearest first, as the fold that held it out sees them; none of them
    is in its group or a near-duplicate that a split keeps with it.

    labels_NK: int64, columns of the answers' classes, -1 where a bank is smaller than K. cosines_NK: float64. ids: of
    the photos, "" where there is none.
    """

    ids: tuple[tuple[str, ...], ...]
    labels_NK: NDArray[np.int64]
    cosines_NK: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks about the labels of N photos.

    answers: the run's out-of-fold answers, whose labels are all among its classes. members_MNC: the probabilities of
    each of the M kept epochs, where every fold kept as many (else M is 0). by_epoch, nearby: None where not kept.
    """

    answers: LabelledPredictions
    members_MNC: NDArray[np.floating]
    by_epoch: EpochAnswers | None = None
    nearby: Nearby | None = None

    @classmethod
    def read(cls, run: RunFolder) -> Evidence:
        """Of a finished run. Raises DataError where it has no out-of-fold answers."""
        if not run.out_of_fold.is_file():
            raise DataError(
                f"{run.out_of_fold}: no such file, and labels are judged by out-of-fold answers. Finish `engine train`"
                ", with data.folds.count of 2 or more, or give the folder that it wrote"
            )
        answers = Predictions.read(run.out_of_fold)
        if not isinstance(answers, LabelledPredictions):
            raise DataError(f"{run.out_of_fold}: out-of-fold answers without labels; run the same `engine train` again")
        answers = answers.known
        if not len(answers):
            raise DataError(f"{run.out_of_fold}: none of its labels is among its classes; run `engine train` again")
        folds = [run.fold(number) for number in np.unique(answers.fold_N).tolist()]
        members = [_members(fold) for fold in folds]
        return cls(answers, _kept(answers, members), _epochs(answers, folds), _nearby(answers, folds, members))

    def __len__(self) -> int:
        return len(self.answers)


_Members = list[LabelledPredictions]  # what each model of a fold answered


def _members(fold: FoldFolder) -> _Members:
    found = []
    for member in fold.epochs() or [fold]:
        try:
            read = Predictions.read(member.out_of_fold)
        except DataError:
            return []
        if isinstance(read, LabelledPredictions):
            found.append(read)
    return found


def _kept(answers: LabelledPredictions, members: list[_Members]) -> NDArray[np.floating]:
    """The kept epochs' probabilities, (M, N, C)."""
    place = {id_: row for row, id_ in enumerate(answers.ids)}
    counts = {len(of_fold) for of_fold in members}
    found_MNC = np.zeros((min(counts), len(answers), len(answers.classes)), dtype=np.float32)
    if len(counts) > 1:
        return found_MNC[:0]
    told_N = np.zeros(len(answers), dtype=bool)
    for of_fold in members:
        for number, one in enumerate(of_fold):
            mine = one.in_order(one.ids, answers.classes)
            rows = [place.get(id_, -1) for id_ in mine.ids]
            kept_N = np.array(rows) >= 0
            found_MNC[number, np.array(rows)[kept_N]] = mine.probabilities_NC[kept_N]
            told_N[np.array(rows)[kept_N]] = True
    return found_MNC if told_N.all() else found_MNC[:0]


def _epochs(answers: LabelledPredictions, folds: list[FoldFolder]) -> EpochAnswers | None:
    """Answers by epoch, where every fold has those of as many."""
    if not all(fold.epoch_answers.is_file() for fold in folds):
        return None
    read = [EpochAnswers.read(fold.epoch_answers) for fold in folds]
    if len({(one.epochs, one.classes) for one in read}) > 1:  # folds may end early: the epochs that all have
        shared = min((one.epochs for one in read), key=len)
        if any(one.epochs[: len(shared)] != shared or one.classes != read[0].classes for one in read):
            return None
        read = [one.before(shared[-1] + 1) for one in read]
    first = read[0]
    joined = dataclasses.replace(
        first,
        ids=tuple(id_ for one in read for id_ in one.ids),
        own_NE=np.concatenate([one.own_NE for one in read]),
        margin_NE=np.concatenate([one.margin_NE for one in read]),
        best_NE=np.concatenate([one.best_NE for one in read]),
    )
    return joined.of_ids(answers.ids)


def _nearby(answers: LabelledPredictions, folds: list[FoldFolder], members: list[_Members]) -> Nearby | None:
    place = {id_: row for row, id_ in enumerate(answers.ids)}
    column = {name: number for number, name in enumerate(answers.classes)}
    ids: list[tuple[str, ...]] = [("",) * NEIGHBOURS] * len(answers)
    labels_NK = np.full((len(answers), NEIGHBOURS), -1, dtype=np.int64)
    cosines_NK = np.zeros((len(answers), NEIGHBOURS))
    for fold, of_fold in zip(folds, members, strict=True):
        if not of_fold or any(one.features_NE is None for one in of_fold):
            return None
        try:
            bank = bank_of(fold)
        except CheckpointError:
            return None
        k = min(NEIGHBOURS, len(bank))
        asked_QE = torch.from_numpy(embedding(of_fold))
        place_QK, cosine_QK = nearest_of_all(asked_QE, torch.from_numpy(bank.features_BE), k)
        column_C = np.array([column[name] for name in bank.classes], dtype=np.int64)
        for number, id_ in enumerate(of_fold[0].ids):
            if (row := place.get(id_)) is not None:
                near_K = place_QK[number]
                ids[row] = tuple(bank.ids[one] for one in near_K)
                labels_NK[row, :k] = column_C[bank.labels_B[near_K]]
                cosines_NK[row, :k] = cosine_QK[number]
    return Nearby(tuple(ids), labels_NK, cosines_NK)
