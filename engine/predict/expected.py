"""Class shares among the images to predict, estimated from the answers to all of them: known only once all are there,
so answers are moved when they are read back, part by part."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engine.data.manifest import OK
from engine.ensemble.prior import estimate, shift
from engine.predict.asking import shares_of
from engine.predict.models import Models
from engine.predict.outcome import Change, Transform, as_they_are
from engine.predict.parts import Part, Parts
from engine.predictions import Predictions


def expecting(models: Models) -> Transform:
    """Moves answers to the estimated shares where `predict.prior` asks for that, else leaves them as they are."""
    if models.recipe.predict.prior != "estimate":
        return as_they_are
    from_C = shares_of(models, models.classes)

    def estimated(parts: Parts) -> Change:
        to_C = estimate(_Seen(parts), from_C)

        def moved(part: Part) -> Part:
            ids = tuple(map(str, range(len(part.p_NC))))
            answers = shift(Predictions(ids, models.classes, part.p_NC), from_C, to_C)
            return dataclasses.replace(part, p_NC=answers.probabilities_NC.astype(np.float64))

        return moved

    return estimated


class _Seen:
    """The answers about images that could be seen, gone through as often as one likes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[NDArray[np.floating]]:
        for _, part in self._parts.each():
            yield part.p_NC[np.array(part.status) == OK]
