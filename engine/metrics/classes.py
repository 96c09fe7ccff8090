"""How good an answer is class by class."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from engine.metrics.counts import count, f1_of_classes
from engine.metrics.means import Labels, Probabilities
from engine.metrics.ranking import auc_of_classes


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """Of one class: how many samples are of it (support), which share of its answers is right (precision), which share
    of its samples gets it as the answer (recall), and both in one (f1). auc: one against the rest. None: nothing to
    divide by, as for the precision of what is never answered."""

    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None


def scores_of_classes(p_NC: Probabilities, y_N: Labels) -> list[ClassScores]:
    """Of each class, in the order of the columns."""
    classes = p_NC.shape[1]
    counts = count(p_NC.argmax(1), y_N, classes, np.ones((1, len(y_N))))
    truth_C, answer_C, both_C = (each_1C[0] for each_1C in counts)
    f1_C, auc_C = f1_of_classes(counts)[0].tolist(), auc_of_classes(p_NC, y_N).tolist()
    return [
        ClassScores(
            support=int(truth_C[place]),
            precision=float(both_C[place] / answer_C[place]) if answer_C[place] else None,
            recall=float(both_C[place] / truth_C[place]) if truth_C[place] else None,
            f1=_known(f1_C[place]),
            auc=_known(auc_C[place]),
        )
        for place in range(classes)
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
