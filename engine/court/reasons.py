"""Why a label is suspected, in words that a person can check by looking."""

from __future__ import annotations

from collections import Counter

import numpy as np

from engine.court.ranking import Ranking
from engine.court.signals import first_learnt
from engine.text import count

_NEAREST = 10  # neighbours that are counted


def reasons(ranking: Ranking, row: int) -> list[str]:
    """What speaks for or against the label of the photo at `row`, the models' own answer first."""
    return [*_answer(ranking, row), *_training(ranking, row), *_neighbours(ranking, row), *_members(ranking, row)]


def _answer(ranking: Ranking, row: int) -> list[str]:
    answers = ranking.evidence.answers
    p_C, label = ranking.signals.p_NC[row], int(ranking.signals.label_N[row])
    best = int(p_C.argmax())
    if best == label:
        return [f"held out, it was taken for {answers.classes[label]} ({_share(p_C[label])})"]
    return [f"held out, it was taken for {answers.classes[best]} ({_share(p_C[best])}, its label {_share(p_C[label])})"]


def _training(ranking: Ranking, row: int) -> list[str]:
    by_epoch = ranking.evidence.by_epoch
    if by_epoch is None:
        return []
    best_E = by_epoch.best_NE[row][by_epoch.best_NE[row] >= 0]
    if not len(best_E):
        return []
    learnt_E = best_E == by_epoch.classes.index(ranking.evidence.answers.labels[row])
    epochs = len(learnt_E)
    if not learnt_E.any():
        return [f"learnt in none of {count(epochs, 'epoch')}"]
    if learnt_E.all():
        return []
    first = int(first_learnt(learnt_E[None])[0])
    lost = int((np.diff(learnt_E.astype(int)) < 0).sum())
    forgotten = f", then lost {count(lost, 'time')}" if lost else ""
    return [f"learnt first in epoch {first + 1} of {epochs}{forgotten}"]


def _neighbours(ranking: Ranking, row: int) -> list[str]:
    nearby = ranking.evidence.nearby
    if nearby is None:
        return []
    labels = [one for one in nearby.labels_NK[row].tolist() if one >= 0][:_NEAREST]
    if not labels:
        return []
    answers, own = ranking.evidence.answers, int(ranking.signals.label_N[row])
    best, times = Counter(labels).most_common(1)[0]
    mine = labels.count(own)
    if best == own:
        return [f"{times} of {len(labels)} neighbours are {answers.classes[own]}, as it is"]
    told = "none of them has its label" if not mine else f"{mine} of them {'has' if mine == 1 else 'have'} its label"
    return [f"{times} of {len(labels)} neighbours are {answers.classes[best]}, {told}"]


def _members(ranking: Ranking, row: int) -> list[str]:
    members_MNC = ranking.evidence.members_MNC
    best_M = members_MNC[:, row].argmax(1) if len(members_MNC) else []
    if len(set(best_M)) < 2:
        return []
    names = [ranking.evidence.answers.classes[int(one)] for one in dict.fromkeys(best_M)]
    return [f"its kept epochs do not agree: {', '.join(names)}"]


def _share(p: float) -> str:
    return "under 1%" if p < 0.01 else f"{p:.0%}"
