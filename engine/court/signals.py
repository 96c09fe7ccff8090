"""What speaks against a label, as numbers: for the labels that photos have, and for any other that they might have had.

That each can be had for any label is what lets their weights be learnt (see `ranking`): what a wrong label looks like
is seen on labels that are put there on purpose.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engine.court.evidence import Evidence
from engine.court.noise import Noise

NAMES = {
    "answer": ("own", "other", "margin", "entropy"),
    "confident learning": ("confident",),
    "noise": ("told", "common"),
    "kept epochs": ("apart",),
    "training": ("learnt", "late"),
    "neighbours": ("neighbours", "other neighbours"),
    "near-duplicates": ("twins",),
}
"""The signals of each kind of evidence."""

_LEAST = 1e-5  # probability, below which its logarithm is not told apart
_SHARPNESS = 10.0  # a neighbour counts exp(sharpness * (its cosine - the nearest one's))
_AT_ONCE = 8192  # photos

Probabilities = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Signals:
    """What is known of N photos and C classes, ready to be asked about any label of theirs.

    p_NC: what the run answers out of fold. label_N: the given labels. twins: for each photo the labels of its
    near-duplicates. without: kinds of evidence, of `NAMES`, that are left out.
    """

    evidence: Evidence
    p_NC: Probabilities
    label_N: Labels
    noise: Noise
    twins: tuple[tuple[int, ...], ...] = ()
    without: tuple[str, ...] = ()

    @classmethod
    def of(cls, evidence: Evidence, twins: tuple[tuple[int, ...], ...] = (), without: tuple[str, ...] = ()) -> Signals:
        label_N = evidence.answers.labels_N
        p_NC = _answer(evidence, label_N)
        return cls(evidence, p_NC, label_N, Noise.fit(p_NC, label_N), twins, without)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the signals that there are."""
        evidence = self.evidence
        lacking = {
            "kept epochs": len(evidence.members_MNC) < 2,
            "training": evidence.by_epoch is None,
            "neighbours": evidence.nearby is None,
            "near-duplicates": not any(self.twins),
        }
        kinds = [kind for kind in NAMES if kind not in self.without and not lacking.get(kind, False)]
        return tuple(name for kind in kinds for name in NAMES[kind])

    def about(self, label_N: Labels) -> NDArray[np.float64]:
        """The signals (N, F), in the order of `names`, were these the photos' labels."""
        return np.concatenate(
            [
                self._about(slice(start, start + _AT_ONCE), label_N[start : start + _AT_ONCE])
                for start in range(0, len(label_N), _AT_ONCE)
            ]
        )

    def _about(self, rows: slice, label_Q: Labels) -> NDArray[np.float64]:
        p_QC = self.p_NC[rows]
        own_Q, other_Q = own_and_other(p_QC, label_Q)
        found = {
            "own": _log(own_Q),
            "other": _log(other_Q),
            "margin": other_Q - own_Q,
            "entropy": -(p_QC * _log(p_QC)).sum(1),
            "confident": self._confident(p_QC, label_Q),
            "told": _log(self.noise.told(p_QC, label_Q)),
            "common": _log(self._shares_C[label_Q]),
        }
        wanted = self.names
        if "apart" in wanted:
            members_MQ = self.evidence.members_MNC[:, rows][:, np.arange(len(label_Q)), label_Q]
            found["apart"] = np.ptp(_log(members_MQ.astype(np.float64)), axis=0)
        if "learnt" in wanted:
            learnt_QE = self._best_NE[rows] == label_Q[:, None]
            found["learnt"] = learnt_QE.mean(1)
            found["late"] = first_learnt(learnt_QE) / max(1, learnt_QE.shape[1])
        if "neighbours" in wanted:
            own_Q, other_Q = own_and_other(self.votes_NC[rows], label_Q)
            found |= {"neighbours": _log(own_Q), "other neighbours": _log(other_Q)}
        if "twins" in wanted:
            found["twins"] = np.array([_against(*one) for one in zip(self.twins[rows], label_Q.tolist(), strict=True)])
        return np.stack([found[name] for name in wanted], axis=1)

    @cached_property
    def _shares_C(self) -> NDArray[np.float64]:
        """Of the classes among the given labels."""
        return np.bincount(self.label_N, minlength=self.p_NC.shape[1]) / len(self.label_N)

    @cached_property
    def _best_NE(self) -> NDArray[np.int64]:
        """The likeliest class after each epoch, as a column of the answers; -1 where not answered."""
        by_epoch = self.evidence.by_epoch
        assert by_epoch is not None  # asked for by who has looked
        column = {name: number for number, name in enumerate(self.evidence.answers.classes)}
        column_C = np.array([*(column.get(name, -1) for name in by_epoch.classes), -1], dtype=np.int64)
        return np.asarray(column_C[by_epoch.best_NE])

    @cached_property
    def votes_NC(self) -> Probabilities:
        """The classes' shares among the neighbours, the nearer the more; one more neighbour has the shares of all."""
        nearby = self.evidence.nearby
        assert nearby is not None  # asked for by who has looked
        weight_NK = np.exp(_SHARPNESS * (nearby.cosines_NK - nearby.cosines_NK[:, :1])) * (nearby.labels_NK >= 0)
        votes_NC = np.tile(self._shares_C, (len(self.label_N), 1))
        for rank in range(weight_NK.shape[1]):
            votes_NC[np.arange(len(votes_NC)), nearby.labels_NK[:, rank]] += weight_NK[:, rank]
        return np.asarray(votes_NC / votes_NC.sum(1, keepdims=True))

    @cached_property
    def _thresholds_C(self) -> NDArray[np.float64]:
        """What confident learning holds for a confident answer of each class (Northcutt et al. 2021)."""
        from cleanlab.count import get_confident_thresholds  # slow to import

        return np.asarray(get_confident_thresholds(self.label_N, self.p_NC))

    def _confident(self, p_QC: Probabilities, label_Q: Labels) -> NDArray[np.float64]:
        """1 where confident learning counts the photo for another class, -1 where for its own, else 0."""
        sure_QC = np.where(p_QC >= self._thresholds_C, p_QC, 0.0)
        best_Q = sure_QC.argmax(1)
        return np.where(sure_QC.max(1) > 0, np.where(best_Q == label_Q, -1.0, 1.0), 0.0)


def _answer(evidence: Evidence, label_N: Labels) -> Probabilities:
    """What the run answers: its settled answers, which may have heard the neighbours, and the mean of its kept epochs,
    which have not; their geometric mean, by a temperature as sure as it is right."""
    settled_NC = tempered(evidence.answers.probabilities_NC.astype(np.float64), label_N)
    if not len(evidence.members_MNC):
        return settled_NC
    plain_NC = tempered(evidence.members_MNC.mean(0, dtype=np.float64), label_N)
    return tempered(np.sqrt(settled_NC * plain_NC), label_N)


def _against(twins: tuple[int, ...], label: int) -> float:
    """Of the near-duplicates, how many more have another label than have this one."""
    return float(len(twins) - 2 * twins.count(label))


def own_and_other(p_NC: Probabilities, label_N: Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The probability of each label, and of the likeliest other class."""
    rows_N = np.arange(len(label_N))
    others_NC = p_NC.copy()
    others_NC[rows_N, label_N] = 0.0
    return p_NC[rows_N, label_N], others_NC.max(1, initial=0.0)


def first_learnt(learnt_NE: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The place of the epoch after which the label was the answer for the first time; E where it never was."""
    return np.where(learnt_NE.any(1), learnt_NE.argmax(1), learnt_NE.shape[1])


def tempered(p_NC: Probabilities, label_N: Labels) -> Probabilities:
    """The probabilities to the power that makes the log loss of the labels least."""
    from scipy.optimize import minimize_scalar

    log_NC = np.log(np.maximum(p_NC, 1e-9))
    rows_N = np.arange(len(label_N))

    def powered(power: float) -> Probabilities:
        raised_NC = np.exp(power * (log_NC - log_NC.max(1, keepdims=True)))
        return np.asarray(raised_NC / raised_NC.sum(1, keepdims=True))

    def loss(power: float) -> float:
        return float(-np.log(np.maximum(powered(power)[rows_N, label_N], 1e-12)).mean())

    return powered(float(minimize_scalar(loss, bounds=(0.05, 20), method="bounded").x))


def _log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(p, _LEAST)))
