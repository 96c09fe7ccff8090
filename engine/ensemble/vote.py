"""Voting: several answers to the same questions become one.

Predictions carry their sample ids and class names, and a vote joins them by both. The obvious other way, averaging
arrays row by row, is silently wrong as soon as one of them was made from a differently sorted folder or by a model
whose classes are listed in another order; here such predictions are put in order first, and those about other samples
or other classes are refused.

Five rules:

* "soft" is the arithmetic mean of probabilities.
* "logit" is the mean of logits followed by softmax, computed as the normalised geometric mean of probabilities, which
  is the same thing: log-probabilities differ from logits by a constant per sample and the softmax does not see it.
* "hard" counts first answers. A class's probability is its share of the votes, but for a hundredth of the whole: half
  of that is the voters' mean probability, which decides ties (and leads of less than half a hundredth), and half is
  spread evenly, so that a class without a vote costs a finite log loss. A voter who cannot decide divides its vote.
* "rank" counts places: a voter's first answer gets 1, its second 1/2, its third 1/3, then these are made to sum to 1
  and averaged (mean reciprocal rank). How sure a voter is does not matter, so neither does how it was calibrated, and
  the outcome says nothing of it either. Classes that a voter does not tell apart share their mean place.
* "median" is the median of each class's probabilities, made to sum to 1 again; the mean where all medians are 0. One
  voter who is far off does not move it.

Three of them are mean values of what each voter puts down on its own (its ballot). That is what lets weights be fitted
for them, see `engine.ensemble.weights`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.predictions import Predictions

Rule = Literal["soft", "logit", "hard", "rank", "median"]
RULES: tuple[Rule, ...] = ("soft", "logit", "hard", "rank", "median")

_TINY = np.finfo(np.float64).tiny  # stands in for a probability of 0 where its logarithm is taken
_UNVOTED = 0.005  # of a hard vote: what the mean probability has, and as much again is spread evenly
_EQUAL = 1e-9  # sums of weights this near to a half are a half: 0.1 + 0.4 is not

P = TypeVar("P", bound=Predictions)


def vote(voters: Sequence[P], rule: Rule = "soft", weights: Sequence[float] | None = None) -> P:
    """One answer per sample from several voters, joined by sample id and class name; float64, ordered, and labelled
    where it is, as the first voter's. Logits and features are no voter's any more and are left out. Who votes alone is
    heard in its own words: counting its first answers or places would only lose what it says.

    `weights`, one per voter, need not sum to 1. Raises ValueError when the voters answer about different samples or
    classes, or there are none.
    """
    if not voters:
        raise ValueError("nobody votes: give at least one set of predictions")
    first = voters[0]
    voters_KNC = np.stack([one.in_order(first.ids, first.classes).probabilities_NC for one in voters])
    alone = len(voters) == 1 and rule != "logit"
    voted_NC = blend(voters_KNC, "soft" if alone else rule, weights)
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
    # Rows stand side by side in memory, whatever order they came in: sums are then the same to the last bit.
    p_KNC = np.ascontiguousarray(voters_KNC, dtype=np.float64)
    if rule == "logit":
        return softmax(weighted(weights_K, logs(p_KNC)))
    if rule == "median":
        return _medians(p_KNC, weights_K)
    return weighted(weights_K, ballots(p_KNC, rule))


def weighted(weights_K: NDArray[np.float64], voters_KNC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Their weighted sum, (N, C). One voter after the other: einsum adds in an order that depends on the shape."""
    total_NC = np.zeros(voters_KNC.shape[1:])
    for weight, voter_NC in zip(weights_K, voters_KNC, strict=True):
        total_NC += weight * voter_NC
    return total_NC


def logs(p: NDArray[np.floating]) -> NDArray[np.float64]:
    """Natural logarithms of probabilities of any shape, float64; that of 0 is -708."""
    return np.asarray(np.log(np.maximum(p.astype(np.float64), _TINY)))


def softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (N, C) of logits (N, C)."""
    logits_NC = np.ascontiguousarray(logits_NC)
    shares_NC = np.exp(logits_NC - logits_NC.max(1, keepdims=True, initial=-np.inf))
    return np.asarray(shares_NC / shares_NC.sum(1, keepdims=True))


def log_sum_exp(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm (N,) of the sum of exponentials of logits (N, C)."""
    logits_NC = np.ascontiguousarray(logits_NC)
    most_N = logits_NC.max(1, initial=-np.inf)
    return np.asarray(most_N + np.log(np.exp(logits_NC - most_N[:, None]).sum(1)))


def ballots(voters_KNC: NDArray[np.floating], rule: Rule) -> NDArray[np.float64]:
    """What each voter puts down, (K, N, C), rows summing to 1 as the voters' do: the rule's outcome is their weighted
    mean. Raises ValueError for a rule that is no mean of ballots."""
    p_KNC = voters_KNC.astype(np.float64)
    if rule == "soft":
        return p_KNC
    if rule == "hard":
        first_KNC = (p_KNC == p_KNC.max(2, keepdims=True, initial=0)).astype(np.float64)
        votes_KNC = first_KNC / first_KNC.sum(2, keepdims=True)
        return (1 - 2 * _UNVOTED) * votes_KNC + _UNVOTED * p_KNC + _UNVOTED / max(p_KNC.shape[2], 1)
    if rule == "rank":
        points_KNC = 1 / _places(p_KNC)
        return np.asarray(points_KNC / points_KNC.sum(2, keepdims=True))
    known = ", ".join(RULES)
    told = "has no ballots" if rule in RULES else f"does not exist; choose one of {known}"
    raise ValueError(f"rule {rule!r} {told}")


def _places(p_KNC: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each class in a voter's order, from 1 for the likeliest; equals have the mean of their places."""
    order_KNC = np.argsort(-p_KNC, axis=2, kind="stable")
    sorted_KNC = np.take_along_axis(p_KNC, order_KNC, 2)
    row_C = np.arange(p_KNC.shape[2])
    begins_KNC = np.ones(p_KNC.shape, dtype=bool)
    begins_KNC[:, :, 1:] = sorted_KNC[:, :, 1:] != sorted_KNC[:, :, :-1]
    ends_KNC = np.ones(p_KNC.shape, dtype=bool)
    ends_KNC[:, :, :-1] = begins_KNC[:, :, 1:]
    first_KNC = np.maximum.accumulate(np.where(begins_KNC, row_C, 0), axis=2)
    last_KNC = np.minimum.accumulate(np.where(ends_KNC, row_C, len(row_C))[:, :, ::-1], axis=2)[:, :, ::-1]
    places_KNC = np.empty_like(p_KNC)
    np.put_along_axis(places_KNC, order_KNC, (first_KNC + last_KNC) / 2 + 1, 2)
    return places_KNC


def _medians(p_KNC: NDArray[np.float64], weights_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted medians of each class: of two in the middle the mean, as if a weight of 2 were two voters."""
    order_KNC = np.argsort(p_KNC, axis=0, kind="stable")
    sorted_KNC = np.take_along_axis(p_KNC, order_KNC, 0)
    below_KNC = np.cumsum(weights_K[order_KNC], axis=0)
    lower_NC, upper_NC = (
        np.take_along_axis(sorted_KNC, (below_KNC > half).argmax(0)[None], 0)[0]
        for half in (0.5 - _EQUAL, 0.5 + _EQUAL)
    )
    medians_NC = (lower_NC + upper_NC) / 2
    nothing_N = medians_NC.sum(1) <= 0
    medians_NC[nothing_N] = weighted(weights_K, p_KNC[:, nothing_N])
    return np.asarray(medians_NC / medians_NC.sum(1, keepdims=True))
