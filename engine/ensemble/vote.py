"""Voting: several answers to the same questions become one.

Predictions carry their sample ids and class names, and a vote joins them by both. The obvious other way, averaging
arrays row by row, is silently wrong as soon as one of them was made from a differently sorted folder or by a model
whose classes are listed in another order; here such predictions are put in order first, and those about other samples
or other classes are refused.

Two rules. "soft" is the arithmetic mean of probabilities. "logit" is the mean of logits followed by softmax, computed
as the normalised geometric mean of probabilities, which is the same thing: log-probabilities differ from logits by a
constant per sample and the softmax does not see it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.predictions import Predictions

Rule = Literal["soft", "logit"]
RULES: tuple[Rule, ...] = ("soft", "logit")

_TINY = np.finfo(np.float64).tiny  # stands in for a probability of 0 where its logarithm is taken

P = TypeVar("P", bound=Predictions)


def vote(voters: Sequence[P], rule: Rule = "soft", weights: Sequence[float] | None = None) -> P:
    """One answer per sample from several voters, joined by sample id and class name; float64, ordered, and labelled
    where it is, as the first voter's. Logits and features are no voter's any more and are left out.

    `weights`, one per voter, need not sum to 1. Raises ValueError when the voters answer about different samples or
    classes, or there are none.
    """
    if not voters:
        raise ValueError("nobody votes: give at least one set of predictions")
    first = voters[0]
    voters_KNC = np.stack([one.in_order(first.ids, first.classes).probabilities_NC for one in voters])
    voted_NC = blend(voters_KNC, rule, weights)
    return dataclasses.replace(first, probabilities_NC=voted_NC, logits_NC=None, features_NE=None)


def vote_of_fold(voters: Sequence[P], rule: Rule = "soft") -> P:
    """Those who answer for one fold (its kept epochs, or its best one alone) as one model: float32, as what each of
    them answers is, so that it does not matter whether they were read from files or have answered just now."""
    if len(voters) == 1:
        return voters[0]
    voted = vote(voters, rule)
    return dataclasses.replace(voted, probabilities_NC=voted.probabilities_NC.astype(np.float32))


def blend(
    voters_KNC: NDArray[np.floating], rule: Rule = "soft", weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """The vote itself, over the first axis, for voters whose rows and columns already agree: (K, N, C) -> (N, C)."""
    weights_K = np.ones(len(voters_KNC)) if weights is None else np.asarray(weights, np.float64)
    if weights_K.shape != (len(voters_KNC),) or not (weights_K >= 0).all() or not 0 < weights_K.sum() < np.inf:
        raise ValueError(f"weights: expected {len(voters_KNC)} numbers of at least 0, not all 0, got {weights_K}")
    weights_K = weights_K / weights_K.sum()
    if rule == "soft":
        return np.einsum("k,knc->nc", weights_K, voters_KNC.astype(np.float64))
    if rule == "logit":
        logs_NC = np.einsum("k,knc->nc", weights_K, np.log(np.maximum(voters_KNC.astype(np.float64), _TINY)))
        shares_NC = np.exp(logs_NC - logs_NC.max(1, keepdims=True, initial=-np.inf))
        return shares_NC / shares_NC.sum(1, keepdims=True)
    raise ValueError(f"rule {rule!r} does not exist; choose one of {', '.join(RULES)}")
