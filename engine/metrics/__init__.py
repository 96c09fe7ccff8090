"""How good predicted probabilities are: log loss first, and its company.

All in numpy. scikit-learn has most of these and is what the tests ask, but is slow to import, and a command that only
wants to know whether higher is better should not wait for it.
"""

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
    group_accuracy,
    log_loss,
    metric_of,
    score,
)

__all__ = [
    "LABEL_METRICS",
    "METRICS",
    "ConfusedPair",
    "Metric",
    "Scores",
    "Weighted",
    "better",
    "class_share_log_loss",
    "confused_pairs",
    "confusion",
    "evaluate",
    "group_accuracy",
    "log_loss",
    "metric_of",
    "score",
]
