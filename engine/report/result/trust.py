"""How far a confidence can be believed, and what is won by not answering where it is low: curves, each with the band in
which it would come to lie with other photos like these.

The reliability curve is the isotonic one of CORP: the rising function of the confidence that fits best, by the
pool-adjacent-violators algorithm. Bins would have to be chosen, and another choice shows another curve; this one has
nothing to choose, and its parts add up to the score (Dimitriadis, Gneiting, Jordan, "Stable reliability diagrams for
probabilistic classifiers", PNAS 2021). Bands are bootstrapped, by whole groups where there are groups.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.risk import Risk
from engine.intervals import drawn_weights
from engine.report.result.answers import Answers, rows_of

DRAWS = 200
_POINTS = 61  # at which the reliability curve is drawn
_COVERAGES = 40  # at which risk is told
_LEVEL = 0.95
_SETS_OF = 5000  # images, drawn from more, of which all probabilities are looked at

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Values y_K at x_K, and between what they may lie; low_K and high_K are None where one group is all there is."""

    x_K: Array
    y_K: Array
    low_K: Array | None
    high_K: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """How often answers of each confidence are right. crowd_B: how many images have a confidence in each of B equal
    ranges from 0 to 1. miscalibration, discrimination, uncertainty: the parts of the Brier score of `right` by
    confidence: score = miscalibration - discrimination + uncertainty."""

    curve: Curve
    crowd_B: NDArray[np.int64]
    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float


def reliability(answers: Answers) -> Reliability:
    """Of the answers given, against how often they are right."""
    from sklearn.isotonic import IsotonicRegression

    said_N, right_N = answers.confidence_N.astype(np.float64), answers.right_N.astype(np.float64)
    order_N = np.argsort(said_N, kind="stable")
    said_N, right_N = said_N[order_N], right_N[order_N]

    def fitted(weights_N: Array | None, at: Array) -> Array:
        rule = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        return np.asarray(rule.fit(said_N, right_N, sample_weight=weights_N).predict(at))

    # Not the very ends: there the rule is 0 or 1 in every draw, and a band of no width would look like knowledge.
    grid_K = np.unique(np.quantile(said_N, np.linspace(0.005, 0.995, _POINTS)))
    drawn = [fitted(w_N[order_N], grid_K) for block in _draws(answers) for w_N in block]
    seen_N = fitted(None, said_N)
    score, known = float(np.mean((said_N - right_N) ** 2)), float(np.mean((seen_N - right_N) ** 2))
    base = float(right_N.mean())
    return Reliability(
        curve=Curve(grid_K, fitted(None, grid_K), *_band(drawn)),
        crowd_B=np.histogram(said_N, bins=40, range=(0, 1))[0],
        score=score,
        miscalibration=score - known,
        discrimination=base * (1 - base) - known,
        uncertainty=base * (1 - base),
    )


def selective(answers: Answers) -> Curve:
    """Which share of the answers given is wrong (y), when only so large a share of images (x) is answered, those first
    about which the models are surest."""
    order_N = np.argsort(-answers.confidence_N, kind="stable")
    wrong_N = (~answers.right_N)[order_N].astype(np.float64)
    last = len(wrong_N) - 1
    places_K = np.unique(np.ceil(np.linspace(0.025, 1, _COVERAGES) * len(wrong_N) - 1e-9).astype(np.int64)) - 1
    ones_1N = np.ones((1, len(wrong_N)))
    coverage_K = (places_K + 1) / len(wrong_N)

    def risk(weights_DN: Array) -> Array:
        mass_DN = np.cumsum(weights_DN, axis=1)
        bad_DN = np.cumsum(weights_DN * wrong_N, axis=1)
        share_DN = mass_DN / mass_DN[:, -1:]
        at_DK = np.array([np.minimum(np.searchsorted(row_N, coverage_K - 1e-12), last) for row_N in share_DN])
        mass_DK, bad_DK = (np.take_along_axis(each, at_DK, 1) for each in (mass_DN, bad_DN))
        return np.asarray(bad_DK / np.maximum(mass_DK, 1e-12))

    drawn = [row_K for block in _draws(answers) for row_K in risk(block[:, order_N])]
    return Curve(coverage_K, risk(ones_1N)[0], *_band(drawn))


def _draws(answers: Answers) -> Iterator[Array]:
    """Blocks of weights, (D, N); none where one group is all there is."""
    one = len(answers) < 2 or (len(set(answers.groups)) == 1 and "" not in answers.groups)
    return iter(()) if one else drawn_weights(answers.groups, len(answers), DRAWS)


def _band(drawn: list[Array]) -> tuple[Array | None, Array | None]:
    if not drawn:
        return None, None
    low_K, high_K = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return low_K, high_K


@dataclasses.dataclass(frozen=True)
class SetsSeen:
    """What sets came to out of fold: which share holds the truth, how many classes one holds on average, of how many
    images this is told."""

    coverage: float
    size: float
    images: int


def sets_seen(path: Path, answers: Answers, risk: Risk) -> SetsSeen | None:
    """Of each image by its fold's answer, judged by the images that the other folds held out (by all where there is but
    one judge). None where the file's classes are not those of the sets."""
    rows_M = np.sort(np.random.default_rng(0).permutation(len(answers))[:_SETS_OF])
    if tuple(answers.classes) != tuple(risk.classes):
        return None
    p_MC, truth_M = rows_of(path, answers, rows_M), answers.truth_N[rows_M]
    scores_MC = risk.score.of(p_MC)
    in_MC = np.zeros(p_MC.shape, dtype=bool)
    for fold in np.unique(answers.fold_N).tolist():
        own_M = answers.fold_N[rows_M] == fold
        others = {other: held for other, held in risk.held.items() if other != fold} or dict(risk.held)
        judge = dataclasses.replace(risk, held=others, labels={other: risk.labels[other] for other in others})
        in_MC[own_M] = judge.fits(dict.fromkeys(others, scores_MC[own_M]))
    empty_M = ~in_MC.any(1)
    in_MC[empty_M, p_MC[empty_M].argmax(1)] = True
    return SetsSeen(float(in_MC[np.arange(len(rows_M)), truth_M].mean()), float(in_MC.sum(1).mean()), len(rows_M))
