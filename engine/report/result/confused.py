"""Which classes are taken for which, so that it can be read at four hundred of them: the worst pairs first, then a
matrix whose order puts look-alikes side by side.

Classes in the order of their names scatter what belongs together over the whole square. Here they are the leaves of a
tree of clusters, in which the nearest are those that are confused most, with the branches turned so that neighbours are
as near as they can be (Bar-Joseph et al., "Fast optimal leaf ordering for hierarchical clustering", 2001; scipy).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.metrics.counts import confused_pairs
from engine.report.result.answers import Answers

PAIRS, EXAMPLES = 12, 4
CELLS = 80_000  # of the matrix, at most
MISTAKES = 100  # kinds of them in the table behind the matrix
_TURNED = 1000  # classes, beyond which branches are left as they fall: turning them takes minutes


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two classes, how often the first was taken for the second and back, of how many images; `rows`: the mistakes that
    were made with the most confidence."""

    first: str
    second: str
    there: int
    back: int
    of_first: int
    of_second: int
    rows: tuple[int, ...]


def worst_pairs(answers: Answers) -> list[Pair]:
    """Those that were confused most often, most first."""
    confusion_CC = answers.confusion_CC
    images_C = confusion_CC.sum(1)
    found = []
    for pair in confused_pairs(confusion_CC, PAIRS):
        a, b, there, back = pair.first, pair.second, pair.first_as_second, pair.second_as_first
        if back > there:  # the commoner direction is the one that is told
            a, b, there, back = b, a, back, there
        wrong_N = ((answers.truth_N == a) & (answers.answer_N == b)) | (
            (answers.truth_N == b) & (answers.answer_N == a)
        )
        rows = np.flatnonzero(wrong_N)
        rows = rows[np.argsort(-answers.confidence_N[rows], kind="stable")][:EXAMPLES]
        names = answers.classes
        found.append(Pair(names[a], names[b], there, back, int(images_C[a]), int(images_C[b]), tuple(map(int, rows))))
    return found


def mistakes(answers: Answers) -> list[dict[str, Any]]:
    """The commonest, each a true class and an answer, with how often and the share of the true class."""
    confusion_CC = answers.confusion_CC
    images_C = confusion_CC.sum(1)
    wrong_CC = confusion_CC - np.diag(np.diag(confusion_CC))
    truth, answer = np.nonzero(wrong_CC)
    order = np.argsort(-wrong_CC[truth, answer], kind="stable")[:MISTAKES]
    cells = zip(truth[order].tolist(), answer[order].tolist(), strict=True)
    return [
        {
            "truth": answers.classes[a],
            "answer": answers.classes[b],
            "times": int(wrong_CC[a, b]),
            "share": float(wrong_CC[a, b] / images_C[a]),
        }
        for a, b in cells
    ]


def matrix(answers: Answers) -> dict[str, Any]:
    """For the page's script: names, images of each class, for each row [column, count, column, count, ...], and the
    order in which look-alikes stand together. Of very many cells the rarest are left out; `least` is what is shown."""
    confusion_CC = answers.confusion_CC
    least = _least(confusion_CC)
    rows = []
    for place, row_C in enumerate(confusion_CC):
        columns = np.flatnonzero((row_C >= least) | ((np.arange(len(row_C)) == place) & (row_C > 0)))
        rows.append(np.stack([columns, row_C[columns]], axis=1).reshape(-1).tolist())
    images = confusion_CC.sum(1).tolist()
    names, order = list(answers.classes), alike_order(confusion_CC)
    return {"names": names, "images": images, "rows": rows, "alike": order, "least": least}


def _least(confusion_CC: NDArray[np.int64]) -> int:
    """From how many photos on a cell is shown: 1, or what leaves no more than `CELLS`."""
    counts = np.sort(confusion_CC[confusion_CC > 0])
    return 1 if len(counts) <= CELLS else int(counts[-CELLS]) + 1


def alike_order(confusion_CC: NDArray[np.int64]) -> list[int]:
    """The classes, so that those that are taken for each other stand together."""
    count = len(confusion_CC)
    if count < 3:
        return list(range(count))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    share_CC = confusion_CC / np.maximum(confusion_CC.sum(1, keepdims=True), 1)
    near_CC = share_CC + share_CC.T
    np.fill_diagonal(near_CC, 0)
    far_CC = 1 / (1 + 20 * near_CC)  # a few hundredths tell classes apart, and beyond a half all is alike
    np.fill_diagonal(far_CC, 0)
    tree = linkage(squareform(far_CC, checks=False), "average", optimal_ordering=count <= _TURNED)
    return [int(leaf) for leaf in leaves_list(tree)]


def class_rows(answers: Answers) -> list[dict[str, Any]]:
    """A row a class for the table: support, precision, recall, F1, log loss, and what it is mostly taken for."""
    confusion_CC = answers.confusion_CC
    truth_C, answer_C, both_C = confusion_CC.sum(1), confusion_CC.sum(0), np.diag(confusion_CC)
    nats_C = np.bincount(answers.truth_N, answers.nats_N, len(answers.classes))
    wrong_CC = confusion_CC - np.diag(both_C)
    rows = []
    for column, name in enumerate(answers.classes):
        truth, answer, both = int(truth_C[column]), int(answer_C[column]), int(both_C[column])
        most = int(wrong_CC[column].argmax())
        times = int(wrong_CC[column, most])
        rows.append(
            {
                "name": name,
                "support": truth,
                "precision": both / answer if answer else None,
                "recall": both / truth if truth else None,
                "f1": 2 * both / (truth + answer) if truth + answer else None,
                "log_loss": float(nats_C[column] / truth) if truth else None,
                "taken_for": answers.classes[most] if times else "",
                "times": times,
            }
        )
    return sorted(rows, key=lambda row: (row["f1"] is None, row["f1"] or 0, row["name"]))
