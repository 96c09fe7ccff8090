"""Labels ranked by how likely they are wrong.

Signals of many kinds speak against a label, and how much each should count is another for every data set: nobody has
the answers that weights could be fitted on. But wrong labels can be made. Photos get labels that the data set's own
noise (see `noise`) would have given them, and a logistic regression learns to tell these from the given ones: weights
from planted errors, and none from anybody's judgement. The obvious other ways, one score alone or a mean of ranks, hold
for one kind of noise and fail for another (benchmarks/results/court_cpu.json).

Among the given labels are wrong ones, which is what is asked. So each given label counts as a right one by how likely
it is, which is found out together with the weights, in a few rounds of expectation maximisation: what is right is
unknown, what is wrong is known by the planted ones (Elkan & Noto 2008, "Learning Classifiers from Only Positive and
Unlabeled Data", for unlabelled read given). Planted labels count together as much as there are wrong ones; then the
regression's answer is the probability that a label is wrong.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from engine.court.evidence import Evidence
from engine.court.signals import Signals

_PLANTED = 20_000  # wrong labels at least
_SEED = 0
_ROUNDS = 5  # after which little changes


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """score_N: the logarithm of the odds that each label is wrong; by it `order_N` goes, the likeliest wrong first (of
    equals the first by id). weights: of the signals, by name, each of spread 1."""

    signals: Signals
    score_N: NDArray[np.float64]
    weights: dict[str, float]

    @property
    def evidence(self) -> Evidence:
        return self.signals.evidence

    @property
    def wrong_N(self) -> NDArray[np.float64]:
        """About how likely each label is wrong, 0 to 1."""
        return 1 / (1 + np.exp(-self.score_N))

    @property
    def order_N(self) -> NDArray[np.int64]:
        return np.lexsort((np.array(self.evidence.answers.ids), -self.score_N))

    def suggested(self, row: int, most: int = 3) -> list[tuple[str, float]]:
        """Classes that the photo may be of instead, with their probabilities, the likeliest first."""
        p_C, label = self.signals.p_NC[row], self.signals.label_N[row]
        order = [int(one) for one in np.argsort(-p_C, kind="stable") if one != label]
        return [(self.evidence.answers.classes[one], float(p_C[one])) for one in order[:most]]


def rank(signals: Signals) -> Ranking:
    """Rank the given labels by these signals; the same to the last bit each time. Of a single class nothing can be
    said: all scores are equal."""
    label_N = signals.label_N
    if signals.p_NC.shape[1] < 2 or not signals.names:
        return Ranking(signals, np.zeros(len(label_N)), {})
    from sklearn.linear_model import LogisticRegression  # slow to import

    given_NF = signals.about(label_N)
    times = -(-_PLANTED // len(label_N))
    random = np.random.default_rng(_SEED)
    order_N = np.argsort(np.array(signals.evidence.answers.ids))  # whatever the order of the photos
    planted = []
    for _ in range(times):
        drawn_N = np.empty(len(label_N))
        drawn_N[order_N] = random.random(len(label_N))
        planted.append(signals.about(_drawn(signals.noise.transition_CC[label_N], drawn_N)))
    values_QF = _of_spread_one(np.concatenate([given_NF, *planted]))
    is_planted_Q = np.arange(len(values_QF)) >= len(given_NF)
    weight_Q = np.where(is_planted_Q, signals.noise.rate / times, 1.0)
    model = LogisticRegression(max_iter=1000)
    for _ in range(_ROUNDS):
        model.fit(values_QF, is_planted_Q, sample_weight=weight_Q / weight_Q.mean())
        score_N = np.asarray(model.decision_function(values_QF[: len(given_NF)]))
        weight_Q[: len(given_NF)] = 1 / (1 + np.exp(score_N))
    return Ranking(signals, score_N, dict(zip(signals.names, model.coef_[0].tolist(), strict=True)))


def _of_spread_one(values_QF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column of mean 0 and spread 1; what does not vary is 0."""
    spread_F = values_QF.std(0)
    return np.asarray((values_QF - values_QF.mean(0)) / np.where(spread_F > 0, spread_F, 1.0))


def _drawn(p_NC: NDArray[np.float64], drawn_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """A class for each row of probabilities, by a number from 0 to 1."""
    upto_NC = np.cumsum(p_NC, axis=1)
    return np.asarray((upto_NC < drawn_N[:, None] * upto_NC[:, -1:]).sum(1).astype(np.int64))
