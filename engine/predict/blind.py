"""What models answer about an image that they cannot see: the class shares of what they were trained on, which is the
best answer of somebody who sees nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.vote import Rule, blend
from engine.predict.models import Models
from engine.recipe.sections import Recipe
from engine.store.checkpoint import Checkpoint


def blind(saved: Checkpoint, classes: Sequence[str]) -> NDArray[np.float64]:
    """What a model answers about an image that it cannot see, (1, C): its class shares."""
    counts = dict(zip(saved.classes, saved.class_counts, strict=True))
    counts_C = np.array([counts[name] for name in classes], dtype=np.float64)
    return (counts_C / counts_C.sum())[None]


def blind_together(models: Models) -> NDArray[np.float64]:
    """What all of them answer about an image that nobody can see, (C,): the shares that are expected, where given."""
    prior = models.recipe.predict.prior
    if not isinstance(prior, str):
        expected_C = np.array([prior[name] for name in models.classes])
        return np.asarray(expected_C / expected_C.sum())
    shares = []
    for run in models.runs:
        own = [blind(run.checkpoints[places[0]], models.classes) for places in run.folds]
        shares.append(blend(np.stack(own), _average(run.recipe), [len(places) for places in run.folds]))
    return blend(np.stack(shares), _average(models.recipe), [run.weight for run in models.runs])[0]


def _average(recipe: Recipe) -> Rule:
    """Nobody has answered, so there are no first answers to count and no places: shares are averaged."""
    return "logit" if recipe.ensemble.vote == "logit" else "soft"
