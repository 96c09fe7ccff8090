"""Weights of candidates in a vote: by their score, or those of the lowest log loss.

Each rule's log loss is a convex function of the weights where the outcome is a mean, of ballots or of logarithms:
-log of a linear function, or a log-sum-exp of linear ones minus a linear one. So there is one lowest value, and a
general solver finds it (SLSQP of scipy, with the gradient). A median is no mean, and has weights by score alone.

Forward selection is the other way to it: it is a little worse than the optimum where it was fitted and less bold, since
after n picks no weight is finer than 1/n, which is what helps with many candidates and few samples.

Fitted weights flatter themselves: judge them by `engine.ensemble.nested.honest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.candidates import fitted_on, stacked
from engine.ensemble.vote import Rule, ballots, log_sum_exp, logs, softmax
from engine.metrics import METRICS, score
from engine.predictions import LabelledPredictions
from engine.text import nearest

ROUNDS = 50
_CLIP = 1e-15  # as the log loss is scored
_NOTHING = 1e-6  # a weight, or a gain in nats, below this is the solver's noise
_FIRST_PICKS, _MANY = 10, 20  # rounds of selection that a fit begins with; candidates that are no trouble all at once

Loss = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
"""Weights (K,) -> mean log loss in nats, and its gradient (K,)."""


def by_score(candidates: Sequence[LabelledPredictions], metric: str = "log_loss") -> list[float]:
    """Weights in proportion to how good each candidate is: the metric's value, or one over it where lower is better.
    They sum to 1. Raises ValueError for a metric that there is not, and as `fitted_on`."""
    known, labels_N = fitted_on(candidates)
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} does not exist; nearest: {nearest(metric, METRICS, 1)[0]}")
    values_K = np.array([score(one.probabilities_NC, labels_N, [metric])[metric] for one in known])
    good_K = values_K if METRICS[metric].higher_is_better else 1 / np.maximum(values_K, 1e-9)
    return _shares(good_K if good_K.sum() > 0 else np.ones(len(known)))


def fit_simplex(candidates: Sequence[LabelledPredictions], rule: Rule = "soft") -> list[float]:
    """Of all weights of at least 0 that sum to 1 those with which `rule` has the lowest log loss on the candidates'
    labelled samples. Raises ValueError for "median", and as `fitted_on`."""
    loss = _loss_of(candidates, rule)
    count = len(candidates)
    starts = [np.full(count, 1 / count), np.array(select(candidates, rule, _FIRST_PICKS), np.float64)]
    weights_K = min(starts, key=lambda each_K: loss(each_K)[0])
    among = np.flatnonzero(weights_K) if count > _MANY else np.arange(count)
    for _ in range(count):  # candidates come in as long as one would help: nearly all of hundreds never do
        weights_K = _solved(loss, weights_K, among)
        slope_K = loss(weights_K)[1]
        gain_K = slope_K @ weights_K - slope_K  # in nats, a share of 1 moved over to the candidate; at first
        most = np.argsort(-gain_K)[:_MANY]
        helps = np.setdiff1d(most[gain_K[most] > _NOTHING], among)
        if not len(helps):
            break
        among = np.union1d(among, helps)
    return _shares(weights_K)


def select(
    candidates: Sequence[LabelledPredictions],
    rule: Rule = "soft",
    rounds: int = ROUNDS,
    bags: int = 0,
    seed: int = 0,
) -> list[float]:
    """Weights by forward selection with replacement: round by round the candidate that lowers the log loss of the vote
    most gets one more vote, and of all rounds the best is kept. With `bags`, the mean over so many selections, each
    among a random half of the candidates.

    Source: Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004. Raises ValueError as `fit_simplex`
    does.
    """
    known, labels_N = fitted_on(candidates)
    picked = _picking_of(stacked(known), labels_N, rule)
    count = len(known)
    if not bags:
        return _shares(picked(np.arange(count), rounds))
    random = np.random.default_rng(seed)
    halves = [np.sort(random.choice(count, (count + 1) // 2, replace=False)) for _ in range(bags)]
    return _shares(np.mean([_shares(picked(half, rounds)) for half in halves], axis=0))


def _solved(loss: Loss, start_K: NDArray[np.float64], among: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weights (K,) of the lowest loss that are 0 but for the candidates `among`; as at the start where the solver
    finds none that are better."""
    from scipy.optimize import minimize

    def loss_among(part_S: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights_K = np.zeros(len(start_K))
        weights_K[among] = part_S
        value, slope_K = loss(weights_K)
        return value, slope_K[among]

    found = minimize(
        loss_among,
        start_K[among],
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(among),
        constraints={"type": "eq", "fun": lambda part_S: part_S.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 500, "ftol": 1e-10},
    )
    found_K = np.zeros(len(start_K))
    found_K[among] = np.where(found.x < _NOTHING, 0, found.x)
    if not 0 < found_K.sum() < np.inf:
        return start_K
    return min((start_K, found_K / found_K.sum()), key=lambda each_K: loss(each_K)[0])


def _shares(weights_K: NDArray[np.float64]) -> list[float]:
    return [float(weight) for weight in weights_K / weights_K.sum()]


def _no_median(rule: Rule) -> None:
    if rule == "median":
        raise ValueError('no weights are fitted for the rule "median"; weigh by score, or choose another rule')


def _true(p_KNC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """What stands at the true class, (N, K)."""
    return np.ascontiguousarray(p_KNC[:, np.arange(len(labels_N)), labels_N].T)


def _loss_of(candidates: Sequence[LabelledPredictions], rule: Rule) -> Loss:
    _no_median(rule)
    known, labels_N = fitted_on(candidates)
    p_KNC = stacked(known)
    return _loss_of_logs(logs(p_KNC), labels_N) if rule == "logit" else _loss_of_ballots(ballots(p_KNC, rule), labels_N)


def _loss_of_ballots(ballots_KNC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Loss:
    true_NK = np.maximum(_true(ballots_KNC, labels_N), _CLIP)

    def loss(weights_K: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p_N = np.maximum(true_NK @ weights_K, _CLIP)  # the solver may step outside for a moment
        return float(-np.log(p_N).mean()), -(true_NK / p_N[:, None]).mean(0)

    return loss


def _loss_of_logs(logs_KNC: NDArray[np.float64], labels_N: NDArray[np.int64]) -> Loss:
    true_NK = _true(logs_KNC, labels_N)

    def loss(weights_K: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        pooled_NC = np.einsum("k,knc->nc", weights_K, logs_KNC)
        p_NC = softmax(pooled_NC)
        lost_N = log_sum_exp(pooled_NC) - true_NK @ weights_K
        return float(lost_N.mean()), (np.einsum("nc,knc->k", p_NC, logs_KNC) - true_NK.sum(0)) / len(labels_N)

    return loss


def _picking_of(
    p_KNC: NDArray[np.float64], labels_N: NDArray[np.int64], rule: Rule
) -> Callable[[NDArray[np.int64], int], NDArray[np.float64]]:
    """A function of (candidates that may be picked, rounds) that counts how often each of all of them is."""
    _no_median(rule)
    if rule == "logit":
        logs_KNC = logs(p_KNC)
        true_NK = _true(logs_KNC, labels_N)

        def losses(sum_NC: NDArray[np.float64], votes: int, among: NDArray[np.int64]) -> list[float]:
            """Of the vote so far with each of the candidates in it."""
            pooled = (((sum_NC + logs_KNC[k]) / votes) for k in among)
            true_N = sum_NC[np.arange(len(labels_N)), labels_N]
            return [
                float((log_sum_exp(pooled_NC) - (true_N + true_NK[:, k]) / votes).mean())
                for k, pooled_NC in zip(among, pooled, strict=True)
            ]

        return lambda among, rounds: _picked(logs_KNC, among, rounds, losses)
    chosen_KN = _true(ballots(p_KNC, rule), labels_N).T

    def losses_of_ballots(sum_N: NDArray[np.float64], votes: int, among: NDArray[np.int64]) -> list[float]:
        mixed_KN = (sum_N + chosen_KN[among]) / votes
        return [float(value) for value in -np.log(np.maximum(mixed_KN, _CLIP)).mean(1)]

    return lambda among, rounds: _picked(chosen_KN, among, rounds, losses_of_ballots)


def _picked(
    terms: NDArray[np.float64],
    among: NDArray[np.int64],
    rounds: int,
    losses: Callable[[NDArray[np.float64], int, NDArray[np.int64]], list[float]],
) -> NDArray[np.float64]:
    """How often each candidate, whose terms (K, ...) are added up, is picked; as of the best round."""
    counts_K, total = np.zeros(len(terms)), np.zeros(terms.shape[1:])
    best, lowest = counts_K, np.inf
    for votes in range(1, rounds + 1):
        lost = losses(total, votes, among)
        pick = int(among[int(np.argmin(lost))])
        counts_K = counts_K.copy()
        counts_K[pick] += 1
        total = total + terms[pick]
        if min(lost) < lowest:
            best, lowest = counts_K, min(lost)
    return best
