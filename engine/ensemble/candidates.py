"""Candidates: several answers to the same questions, from which one is to be made. Before anything is fitted on them or
made of them they are put in one order, and those that do not belong together are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.predictions import LabelledPredictions, Predictions
from engine.text import nfc

P = TypeVar("P", bound=Predictions)


def aligned(candidates: Sequence[P], names: Sequence[str] = ()) -> list[P]:
    """The candidates with rows and columns as the first has them. Raises ValueError, which names the two (by `names`),
    when they are about different samples or classes, or there are none."""
    if not candidates:
        raise ValueError("nobody answers: give at least one set of predictions")
    first = candidates[0]
    ordered = [first]
    for place, one in enumerate(candidates[1:], start=1):
        try:
            ordered.append(one.in_order(first.ids, first.classes))
        except ValueError as error:
            told = f"{names[0]} and {names[place]} do not fit together: " if names else ""
            raise ValueError(f"{told}{error}") from None
    return ordered


def common(candidates: Sequence[P]) -> list[P]:
    """The candidates with the samples and classes that all of them have, in the order of the first, in any Unicode
    form; rows are made to sum to 1 again, evenly where nothing is left. Raises ValueError when no sample or no class is
    left, or there are no candidates."""
    if not candidates:
        raise ValueError("nobody answers: give at least one set of predictions")
    shared = [_shared([getattr(one, what) for one in candidates]) for what in ("ids", "classes")]
    for names, what in zip(shared, ("sample", "class"), strict=True):
        if not names:
            raise ValueError(f"there is no {what} that all of them have")
    return [_only(one, *shared) for one in candidates]


def stacked(candidates: Sequence[Predictions]) -> NDArray[np.float64]:
    """Probabilities (K, N, C) of candidates that are in one order."""
    return np.stack([one.probabilities_NC for one in candidates]).astype(np.float64)


def fitted_on(candidates: Sequence[LabelledPredictions]) -> tuple[list[LabelledPredictions], NDArray[np.int64]]:
    """What can be fitted on: the candidates in one order, of samples whose true class is among theirs, and the classes
    (N,) as columns. Raises ValueError when there are no such samples, and as `aligned`."""
    ordered = aligned(candidates)
    rows_N = np.flatnonzero(ordered[0].labels_N >= 0)
    if not len(rows_N):
        raise ValueError("none of the samples has a label among the classes, and without labels nothing is fitted")
    known = [one.take(rows_N) for one in ordered]
    return known, known[0].labels_N


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """The names of the first list that all have, composed, in its order."""
    composed = [list(map(nfc, names)) for names in lists]
    everywhere = set(composed[0]).intersection(*map(set, composed[1:]))
    return [name for name in composed[0] if name in everywhere]


def _only(one: P, ids: Sequence[str], classes: Sequence[str]) -> P:
    row = {nfc(name): place for place, name in enumerate(one.ids)}
    column = {nfc(name): place for place, name in enumerate(one.classes)}
    taken = one.take([row[name] for name in ids])
    p_NC = taken.probabilities_NC[:, [column[name] for name in classes]].astype(np.float64)
    if len(classes) < len(one.classes):
        p_NC[p_NC.sum(1) <= 0] = 1
        p_NC /= p_NC.sum(1, keepdims=True)
    return dataclasses.replace(
        taken, ids=tuple(ids), classes=tuple(classes), probabilities_NC=p_NC, logits_NC=None, features_NE=None
    )
