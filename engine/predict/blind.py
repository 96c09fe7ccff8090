"""What models answer about an image that they cannot see: the class shares of what they were trained on, which is the
best answer of somebody who sees nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.vote import blend
from engine.predict.models import Models
from engine.store.checkpoint import Checkpoint


def blind(saved: Checkpoint, classes: Sequence[str]) -> NDArray[np.float64]:
    """What a model answers about an image that it cannot see, (1, C): its class shares."""
    counts = dict(zip(saved.classes, saved.class_counts, strict=True))
    counts_C = np.array([counts[name] for name in classes], dtype=np.float64)
    return (counts_C / counts_C.sum())[None]


def blind_together(models: Models) -> NDArray[np.float64]:
    """What all of them answer about an image that nobody can see, (C,)."""
    weights, rule = [len(places) for places in models.folds], models.recipe.ensemble.vote
    shares = [blind(models.checkpoints[places[0]], models.classes) for places in models.folds]
    # Nobody has answered, so there are no first answers to count and no places: shares are averaged.
    return blend(np.stack(shares), "logit" if rule == "logit" else "soft", weights)[0]
