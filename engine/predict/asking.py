"""Models are asked about images: the fold models, then the specialists that each fold's answers call for.

Whoever predicts asks here, a folder at a time or a photo at a time. Models are restored when they are first asked and
stay, so that the second question costs no more than its images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from engine.ensemble.vote import blend, vote, vote_of_fold
from engine.inference.ask import ask, members_for
from engine.inference.members import Members
from engine.loader.batches import Samples
from engine.predict.models import Models
from engine.predict.panel import Asked, hear
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.ranks import Ranks
from engine.store.checkpoint import Checkpoint


@dataclasses.dataclass(frozen=True)
class Answered:
    """What came back about the images that could be read: of each model alone (`alone`), of all together, and of all
    without specialists; about how many images each specialist was `asked`; and what could not be read."""

    alone: list[Predictions]
    together: Predictions
    without_specialists: Predictions
    asked: dict[str, int]
    quarantine: Quarantine


class Asking:
    """`models` on `device`, as a function of samples."""

    def __init__(self, models: Models, device: torch.device) -> None:
        self._models, self._ranks = models, Ranks(0, 1, device)
        self._restored: dict[str, Members] = {}  # the main models under "", specialists under their names

    def __call__(
        self, samples: Samples, rows_N: NDArray[np.int64], told: Callable[[int], None] = lambda done: None
    ) -> Answered | Quarantine:
        """Views are averaged within each model, then models with each other, both by the recipe's `ensemble.vote`; in
        between, specialists are asked. The quarantine alone when none of the rows can be read.

        `told` hears how many rows the main models are done with.
        """
        models, rule = self._models, self._models.recipe.ensemble.vote
        alone, quarantine = self._ask("", models.checkpoints, samples, rows_N, told)
        if not len(alone[0]):
            return quarantine
        folds = [vote_of_fold([alone[place] for place in places], rule) for places in models.folds]
        row_of = {samples.ids[row]: row for row in rows_N.tolist()}

        def ask_specialist(one: Asked, ids: Sequence[str]) -> list[Predictions]:
            about_N = np.array(sorted(row_of[id_] for id_ in ids), dtype=np.int64)
            checkpoints = [saved for voters in one.folds for saved in voters]
            return self._ask(one.specialist.name, checkpoints, samples, about_N)[0]

        heard, asked = hear(models.specialists, folds, rule, ask_specialist)
        weights = [len(places) for places in models.folds]  # every kept epoch has one vote
        together, without = (vote(each, rule, weights) for each in (heard, folds))
        return Answered(alone, together, without, asked, quarantine)

    def _ask(
        self,
        name: str,
        checkpoints: Sequence[Checkpoint],
        samples: Samples,
        rows_N: NDArray[np.int64],
        told: Callable[[int], None] = lambda done: None,
    ) -> tuple[list[Predictions], Quarantine]:
        recipe = self._models.recipe
        if name not in self._restored:
            self._restored[name] = members_for(checkpoints, recipe, self._ranks.device)
        views = partial(blend, rule=recipe.ensemble.vote)
        return ask(self._restored[name], samples, rows_N, recipe, views, self._ranks, told)
