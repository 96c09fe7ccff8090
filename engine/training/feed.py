"""What a fold learns from: the batches of its epochs on this rank.

Which samples make a batch and what is done to them follow from (seed, epoch, step) alone, so an epoch can be begun at
any step, ahead of its time, and by whoever wants the batches that training would see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np
import torch

from engine.augment.contract import Contract
from engine.augment.mix import mix_at
from engine.augment.policy import Policy
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.decoded_cache import DecodedCache
from engine.model.build import backbone_config
from engine.order import Pair, Sampler
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection


@dataclasses.dataclass(frozen=True)
class FoldData:
    """The samples of a run and who of them is trained on and held out (nobody, when all are trained on)."""

    ids: list[str]
    samples: Samples
    classes: list[str]
    train_rows_N: np.ndarray
    held_rows_N: np.ndarray
    fingerprint: str
    groups: Sequence[str] = ()  # of each sample, "" for none; () where there are no groups
    unlabelled: int = 0  # the last so many of `samples` are learnt from a teacher alone, and by no fold held out

    @property
    def learnt_rows_N(self) -> np.ndarray:
        """All that is learnt from: what is trained on, then the photos without labels."""
        end = len(self.samples.ids)
        return np.concatenate([self.train_rows_N, np.arange(end - self.unlabelled, end)])

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training samples of each class."""
        labels_N = self.samples.labels_N[self.train_rows_N]
        return tuple(np.bincount(labels_N, minlength=len(self.classes)).tolist())

    def labelled(self, predictions: Predictions, fold: int) -> LabelledPredictions:
        """Predictions about samples that fold number `fold` holds out, with their true classes and groups."""
        row_of = {self.ids[row]: row for row in self.held_rows_N.tolist()}
        rows = [row_of[id_] for id_ in predictions.ids]
        labels = [self.classes[self.samples.labels_N[row]] for row in rows]
        groups = [self.groups[row] for row in rows] if self.groups else ()
        return predictions.labelled(labels, [fold] * len(predictions), groups)


class Feed:
    """The training batches of a fold of `recipe`, of images of type `dtype` on the rank's device; and the contract by
    which its images are scored. `cache` keeps photos of the run decoded."""

    def __init__(
        self, recipe: Recipe, data: FoldData, ranks: Ranks, dtype: torch.dtype, cache: DecodedCache | None = None
    ) -> None:
        self._recipe, self._ranks = recipe, ranks
        self._backbone = own = backbone_config(recipe.model.backbone)
        self._policy = Policy(recipe.augment, own.mean, own.std, own.interpolation)
        self.loader = Loader(data.samples, recipe.decode, ranks.device, recipe.augment.executor, dtype, cache=cache)
        sampling = recipe.train.sampling
        boost_C = np.where(np.isin(data.classes, sampling.boost_classes), sampling.boost, 1.0)
        self._sampler = Sampler(data.learnt_rows_N, data.samples.labels_N, sampling, recipe.seed, boost_C)

    def steps(self, stage: StageSection) -> int:
        """Optimiser steps in an epoch of the stage."""
        return self._sampler.steps(stage.batch * stage.accumulate * self._ranks.world)

    def epoch(
        self, stage: StageSection, number: int, step: int = 0, pairs: Sequence[Pair] = ()
    ) -> Generator[Batch, None, None]:
        """The batches of epoch `number` of the run from `step` on, `stage.accumulate` to a step; decoding begins now.

        `pairs`: classes confused in the last validation, see `Sampler`.
        """
        ranks = self._ranks
        steps = self._sampler.epoch(number, stage.batch * stage.accumulate, ranks.rank, ranks.world, pairs)
        batches = [part for draws in steps[step:] for part in np.split(draws, stage.accumulate)]
        mix = stage.mix or mix_at(self._recipe.augment.mix, number)
        return self.loader.train(batches, self._policy, Epoch(self._recipe.seed, number, *stage.size, mix))

    def contract(self, stage: StageSection) -> Contract:
        """How images are scored after an epoch of the stage."""
        own = self._backbone
        return Contract.of(self._recipe.augment, stage.size, own.mean, own.std, own.interpolation)

    def some_bad_files(self) -> str:
        """The first files that could not be used, to stand behind an error's message; "" for none."""
        return f": {some}" if (some := self.loader.quarantine.some()) else ""
