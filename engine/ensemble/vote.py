"""Voting: several answers to the same questions become one.

Answers carry their sample ids and class names, and a vote joins them by both. The obvious other way, averaging arrays
row by row, is silently wrong as soon as one of them was made from a differently sorted folder or by a model whose
classes are listed in another order; here such answers are put in order first, and answers about other samples or other
classes are refused.

Two rules. "soft" is the arithmetic mean of probabilities. "logit" is the mean of logits followed by softmax, computed
as the normalised geometric mean of probabilities, which is the same thing: log-probabilities differ from logits by a
constant per sample and the softmax does not see it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rule = Literal["soft", "logit"]
RULES: tuple[Rule, ...] = ("soft", "logit")

_TINY = np.finfo(np.float64).tiny  # stands in for a probability of 0 where its logarithm is taken
_SUM_TOLERANCE = 1e-3  # rows that came through float32 or a CSV file sum to 1 only roughly


@dataclasses.dataclass(frozen=True)
class Answers:
    """Class probabilities for N samples: `ids` names the rows, `classes` the columns of `probabilities_NC`.

    Raises ValueError when the shapes disagree, an id or class is named twice, or a row is no probability distribution.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities_NC: NDArray[np.float64]

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.classes))
        if self.probabilities_NC.shape != expected:
            raise ValueError(
                f"probabilities have shape {self.probabilities_NC.shape}, ids and classes call for {expected}"
            )
        for name, values in (("sample id", self.ids), ("class", self.classes)):
            if len(set(values)) != len(values):
                twice = sorted(value for value, times in Counter(values).items() if times > 1)
                raise ValueError(f"{name} named twice: {some(twice)}; make them distinct")
        sums_N = self.probabilities_NC.sum(1)
        wrong_N = ~(np.abs(sums_N - 1) < _SUM_TOLERANCE) | (self.probabilities_NC < 0).any(1)
        if wrong_N.any():
            row = int(np.flatnonzero(wrong_N)[0])
            raise ValueError(
                f"sample {self.ids[row]!r}: not a probability distribution (sums to {sums_N[row]:.6g}); "
                "give probabilities, not logits"
            )

    def in_order(self, ids: Sequence[str], classes: Sequence[str]) -> Answers:
        """The same answers with rows and columns as listed; raises ValueError unless both lists hold the same names."""
        rows = _places(self.ids, ids, "sample ids")
        columns = _places(self.classes, classes, "classes")
        return Answers(tuple(ids), tuple(classes), self.probabilities_NC[np.ix_(rows, columns)])


def vote(answers: Sequence[Answers], rule: Rule = "soft", weights: Sequence[float] | None = None) -> Answers:
    """One answer per sample from several voters, joined by sample id and class name; ordered as the first voter's.

    `weights`, one per voter, need not sum to 1. Raises ValueError when the voters answer about different samples or
    classes, or there are none.
    """
    if not answers:
        raise ValueError("nobody voted: give at least one set of answers")
    first = answers[0]
    voters_KNC = np.stack([a.in_order(first.ids, first.classes).probabilities_NC for a in answers])
    return Answers(first.ids, first.classes, blend(voters_KNC, rule, weights))


def blend(
    voters_KNC: NDArray[np.floating], rule: Rule = "soft", weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """The vote itself, over the first axis, for voters whose rows and columns already agree: (K, N, C) -> (N, C)."""
    weights_K = np.ones(len(voters_KNC)) if weights is None else np.asarray(weights, np.float64)
    if weights_K.shape != (len(voters_KNC),) or not (weights_K >= 0).all() or not 0 < weights_K.sum() < np.inf:
        raise ValueError(f"weights: expected {len(voters_KNC)} numbers of at least 0, not all 0, got {weights_K}")
    weights_K = weights_K / weights_K.sum()
    if rule == "soft":
        return np.einsum("k,knc->nc", weights_K, voters_KNC.astype(np.float64))
    if rule == "logit":
        logs_NC = np.einsum("k,knc->nc", weights_K, np.log(np.maximum(voters_KNC.astype(np.float64), _TINY)))
        shares_NC = np.exp(logs_NC - logs_NC.max(1, keepdims=True, initial=-np.inf))
        return shares_NC / shares_NC.sum(1, keepdims=True)
    raise ValueError(f"rule {rule!r} does not exist; choose one of {', '.join(RULES)}")


def some(names: Sequence[str], most: int = 5) -> str:
    """A list of names cut to a readable length, for messages."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _places(have: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    if have == wanted:
        return list(range(len(have)))
    place = {name: i for i, name in enumerate(have)}
    missing = [name for name in wanted if name not in place]
    wanted_set = set(wanted)
    extra = [name for name in have if name not in wanted_set]
    if missing or extra or len(wanted) != len(have):
        raise ValueError(
            f"these answers have different {what}: "
            + "; ".join(
                part
                for part in (
                    f"one lacks {some(missing)}" if missing else "",
                    f"only one has {some(extra)}" if extra else "",
                    "a name is asked for twice" if not missing and not extra else "",
                )
                if part
            )
            + ". Vote only over models trained on the same classes and run on the same images"
        )
    return [place[name] for name in wanted]
