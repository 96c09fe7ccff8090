"""How good predicted probabilities are: log loss first, and its company.

Handed probabilities and true classes, or `LabelledPredictions`; hands on numbers by name, each with its direction, and
`Scores`: of all samples, of each class, of each group. Every metric also knows its form under weights, which is what
intervals are made of.

It stands on the ground, before anything that trains or answers: the best epoch, early stopping, a fit of weights and
the report must not disagree about what better means. All in numpy. scikit-learn has most of these and is what the tests
ask, but is slow to import, and a command that only wants to know whether higher is better should not wait for it.
"""

from engine.metrics.calibration import BrierParts, brier_parts, chance_ece
from engine.metrics.classes import ClassScores
from engine.metrics.counts import ConfusedPair, confused_pairs, confusion
from engine.metrics.scores import (
    LABEL_METRICS,
    METRICS,
    Metric,
    Scores,
    Weighted,
    better,
    class_share_log_loss,
    evaluate,
    evaluate_groups,
    group_accuracy,
    log_loss,
    metric_of,
    score,
)

__all__ = [
    "LABEL_METRICS",
    "METRICS",
    "BrierParts",
    "ClassScores",
    "ConfusedPair",
    "Metric",
    "Scores",
    "Weighted",
    "better",
    "brier_parts",
    "chance_ece",
    "class_share_log_loss",
    "confused_pairs",
    "confusion",
    "evaluate",
    "evaluate_groups",
    "group_accuracy",
    "log_loss",
    "metric_of",
    "score",
]
