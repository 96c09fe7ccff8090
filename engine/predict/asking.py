"""Models are asked about images, and their answers become one: the kept epochs of each fold, then the specialists that
each fold's answers call for, its neighbours and its calibration, then the folds, then the runs.

Whoever predicts asks here, a folder at a time or a photo at a time. Models are restored when they are first asked and
stay, so that the second question costs no more than its images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from engine.ensemble.near_duplicates import OF, near_duplicates
from engine.ensemble.neighbours import Found, embedded, search
from engine.ensemble.prior import shift
from engine.ensemble.strange import Signs
from engine.ensemble.vote import Rule, blend, vote
from engine.inference.ask import ask, members_for
from engine.inference.members import Members
from engine.inference.scoring import Extra
from engine.loader.batches import Samples
from engine.predict.models import Models, RunModels
from engine.predict.panel import Asked, hear
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.ranks import Ranks
from engine.store.bank import Bank, bank_of
from engine.store.checkpoint import Checkpoint

Told = Callable[[int], None]


def _nobody(_: int) -> None: ...


@dataclasses.dataclass(frozen=True)
class Answered:
    """What came back about the images that could be read: of each model `alone`, of each fold after all its steps
    (`folds`), of all together, and of all without specialists; about how many images each specialist was `asked`; what
    could not be read; `columns` of what stands beside the answers, in the order of `together`; and by what `signs` each
    fold tells strangers."""

    alone: list[Predictions]
    together: Predictions
    without_specialists: Predictions
    asked: dict[str, int]
    quarantine: Quarantine
    folds: list[Predictions] = dataclasses.field(default_factory=list)
    columns: dict[str, pa.Array] = dataclasses.field(default_factory=dict)
    signs: Sequence[Signs] = ()


class Asking:
    """`models` on `device`, as a function of samples."""

    def __init__(self, models: Models, device: torch.device) -> None:
        self._models = models
        self._runs = [_AskingRun(run, device) for run in models.runs]

    def __call__(self, samples: Samples, rows_N: NDArray[np.int64], told: Told = _nobody) -> Answered | Quarantine:
        """What all runs answer together. The quarantine alone when none of the rows can be read.

        `told` hears how many rows are done with, on the average over the runs.
        """
        found: list[Answered] = []
        for number, run in enumerate(self._runs):
            answered = run(samples, rows_N, partial(self._tell, told, len(rows_N) * number))
            if isinstance(answered, Quarantine):
                return answered
            found.append(answered)
        answered = found[0] if len(found) == 1 else self._together(found)
        return answered if isinstance(answered, Quarantine) else self._hedged(answered)

    def members(self) -> list[Members]:
        """The models of each run, without specialists."""
        return [run.main() for run in self._runs]

    def _tell(self, told: Told, begun: int, done: int) -> None:
        told((begun + done) // len(self._runs))

    def _hedged(self, answered: Answered) -> Answered:
        """With what is asked beside answers, and then moved to the class shares that are expected: what stands beside
        was fitted on answers for the shares of training."""
        models, predict = self._models, self._models.recipe.predict
        folds = {"": answered.together}
        if len(models.runs) == 1:
            names = [folder.path.name for folder in models.runs[0].fold_folders]
            folds = dict(zip(names, answered.folds, strict=True))
        columns = answered.columns | models.hedges.columns(predict, folds, answered.together, answered.signs)
        if isinstance(predict.prior, str):  # what is estimated needs all answers, see `expected`
            return dataclasses.replace(answered, columns=columns)
        classes = answered.together.classes
        to_C, from_C = [predict.prior[name] for name in classes], shares_of(models, classes)
        return dataclasses.replace(
            answered,
            together=shift(answered.together, from_C, to_C),
            without_specialists=shift(answered.without_specialists, from_C, to_C),
            columns=columns,
        )

    def _together(self, found: Sequence[Answered]) -> Answered | Quarantine:
        """Of several runs, about the images that all of them could read."""
        quarantine = Quarantine()
        for one in found:
            for entry in one.quarantine.values():
                quarantine.add(entry.id, entry.fault, entry.where)
        ids = [id_ for id_ in found[0].together.ids if id_ not in quarantine]
        if not ids:
            return quarantine
        classes = found[0].together.classes
        asked: dict[str, int] = {}
        for run, one in zip(self._models.runs, found, strict=True):
            asked |= {f"{run.name}{name}": count for name, count in one.asked.items()}
        return Answered(
            alone=[answers for one in found for answers in one.alone],
            folds=[answers for one in found for answers in one.folds],
            together=self._joined([_only(one.together, ids, classes) for one in found]),
            without_specialists=self._joined([_only(one.without_specialists, ids, classes) for one in found]),
            asked=asked,
            quarantine=quarantine,
        )

    def _joined(self, answers: Sequence[Predictions]) -> Predictions:
        models = self._models
        if models.parts.join is None:
            joined = _voted(answers, models.recipe.ensemble.vote, [run.weight for run in models.runs])
        else:
            joined = models.parts.join.apply(answers)
        return models.parts.finished(joined)


class _AskingRun:
    """The models of one run."""

    def __init__(self, run: RunModels, device: torch.device) -> None:
        self._run, self._ranks = run, Ranks(0, 1, device)
        self._restored: dict[str, Members] = {}  # the main models under "", specialists under their names
        strange = run.hedges.strange if run.recipe.predict.false_alarms else None
        self._kind = strange.kind if strange else ""
        self._most = max(
            run.parts.neighbours.most if run.parts.neighbours else 0,
            strange.k if strange and strange.kind == "distance" else 0,
        )
        self._banks: list[Bank] = [bank_of(folder) for folder in run.fold_folders] if self._most else []

    def __call__(self, samples: Samples, rows_N: NDArray[np.int64], told: Told = _nobody) -> Answered | Quarantine:
        """Views are averaged within each model by the recipe's `ensemble.vote`; so are folds, and kept epochs where
        nothing better was fitted."""
        run, rule = self._run, self._run.recipe.ensemble.vote
        alone, quarantine = self._ask("", run.checkpoints, samples, rows_N, told)
        if not len(alone[0]):
            return quarantine
        of_folds = [[alone[place] for place in places] for places in run.folds]
        folds = [run.parts.joined(candidates, rule) for candidates in of_folds]
        row_of = {samples.ids[row]: row for row in rows_N.tolist()}

        def ask_specialist(one: Asked, ids: Sequence[str]) -> list[Predictions]:
            about_N = np.array(sorted(row_of[id_] for id_ in ids), dtype=np.int64)
            checkpoints = [saved for voters in one.folds for saved in voters]
            return self._ask(one.specialist.name, checkpoints, samples, about_N)[0]

        heard, asked = hear(run.specialists, folds, rule, ask_specialist)
        found = [self._found(number, candidates) for number, candidates in enumerate(of_folds)]
        finished, without = (
            [run.parts.finished(answer, near) for answer, near in zip(answers, found, strict=True)]
            for answers in (heard, folds)
        )
        weights = [len(places) for places in run.folds]  # every kept epoch has one vote
        together, without_specialists = (_voted(each, rule, weights) for each in (finished, without))
        near = [one for one in found if one is not None]
        return Answered(
            alone,
            together,
            without_specialists,
            asked,
            quarantine,
            folds=finished,
            columns=near_duplicates(near).columns if near else {},
            signs=[Signs.of(own, one) for own, one in zip(of_folds, found, strict=True)] if self._kind else (),
        )

    def _found(self, fold: int, candidates: Sequence[Predictions]) -> Found | None:
        """The images' neighbours in the bank of a fold, whose kept epochs are these."""
        if not self._banks:
            return None
        asked = embedded(candidates[0], candidates)
        return search(asked, self._banks[fold], max(self._most, OF), self._ranks.device)

    def main(self) -> Members:
        """The models of the folds, restored when they are first asked for."""
        return self._members("", self._run.checkpoints)

    def _members(self, name: str, checkpoints: Sequence[Checkpoint]) -> Members:
        if name not in self._restored:
            self._restored[name] = members_for(checkpoints, self._run.recipe, self._ranks.device)
        return self._restored[name]

    def _ask(
        self,
        name: str,
        checkpoints: Sequence[Checkpoint],
        samples: Samples,
        rows_N: NDArray[np.int64],
        told: Told = _nobody,
    ) -> tuple[list[Predictions], Quarantine]:
        recipe = self._run.recipe
        views = partial(blend, rule=recipe.ensemble.vote)
        extras: tuple[Extra, ...] = ()
        if not name:  # a specialist is asked for its answer alone
            extras = (*(("features",) if self._banks else ()), *(("logits",) if self._kind == "energy" else ()))
        return ask(self._members(name, checkpoints), samples, rows_N, recipe, views, self._ranks, told, extras)


def shares_of(models: Models, classes: Sequence[str]) -> NDArray[np.float64]:
    """The shares of the classes in training, (C,): the mean over the folds."""
    counts = [dict(zip(saved.classes, saved.class_counts, strict=True)) for saved in models.checkpoints]
    shares_KC = np.array([[count[name] for name in classes] for count in counts], dtype=np.float64)
    return (shares_KC / shares_KC.sum(1, keepdims=True)).mean(0)


def _voted(answers: Sequence[Predictions], rule: Rule, weights: Sequence[float]) -> Predictions:
    """The vote; one alone has its way, since a rule that counts first answers or places would take its
    probabilities."""
    if len(answers) > 1:
        return vote(answers, rule, weights)
    alone_NC = answers[0].probabilities_NC.astype(np.float64)
    return dataclasses.replace(answers[0], probabilities_NC=alone_NC, logits_NC=None, features_NE=None)


def _only(answers: Predictions, ids: Sequence[str], classes: Sequence[str]) -> Predictions:
    place = {id_: row for row, id_ in enumerate(answers.ids)}
    return answers.take([place[id_] for id_ in ids]).in_order(ids, classes)
