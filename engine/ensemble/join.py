"""A join: which candidates become one answer, and how. Fitted on candidates whose samples are labelled, applied to the
same candidates' answers about any others.

    equal      every candidate counts the same
    score      by its log loss, see `weights.by_score`
    fit        the weights of the lowest log loss, see `weights.fit_simplex`
    select     forward selection, see `weights.select`
    logistic   a stack, see `stack.Stack`
    boosting   the same, of trees
    given      the weights that somebody says

In all but the stacks a rule of `engine.ensemble.vote` brings them together, with these weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, get_args

from engine.ensemble.candidates import aligned
from engine.ensemble.stack import KINDS, Stack
from engine.ensemble.vote import RULES, Rule, vote
from engine.ensemble.weights import by_score, fit_simplex, select
from engine.predictions import LabelledPredictions, Predictions

How = Literal["equal", "score", "fit", "select", "logistic", "boosting"]
HOWS: tuple[How, ...] = get_args(How)

P = TypeVar("P", bound=Predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class Join:
    """The candidates called `names`, in this order, by `rule` with `weights` that sum to 1, or by a `stack`."""

    names: tuple[str, ...]
    how: How | Literal["given"]
    rule: Rule
    weights: tuple[float, ...]
    stack: Stack | None = None

    @classmethod
    def fit(
        cls, candidates: Sequence[LabelledPredictions], names: Sequence[str], how: How = "equal", rule: Rule = "soft"
    ) -> Self:
        """What `how` makes of these candidates. Raises ValueError when they are about different samples or classes,
        naming them, when there is nothing to fit on, or nothing can be fitted for this rule."""
        ordered = aligned(candidates, names)
        if len(names) != len(ordered):
            raise ValueError(f"{len(ordered)} candidates and {len(names)} names")
        if how == "logistic" or how == "boosting":
            return cls(tuple(names), how, rule, (), Stack.fit(ordered, how))
        return cls(tuple(names), how, rule, tuple(_weights(ordered, how, rule)))

    @classmethod
    def equal(cls, names: Sequence[str], rule: Rule = "soft") -> Self:
        """One vote each, for which nothing has to be known."""
        return cls(tuple(names), "equal", rule, (1 / len(names),) * len(names))

    @classmethod
    def given(cls, names: Sequence[str], weights: Sequence[float], rule: Rule = "soft") -> Self:
        """The weights that somebody says. Raises ValueError unless there is one for each, of at least 0, not all 0."""
        total = sum(weights)
        if len(weights) != len(names) or not all(weight >= 0 for weight in weights) or not 0 < total < float("inf"):
            raise ValueError(f"expected {len(names)} weights of at least 0, not all 0, got {list(weights)}")
        return cls(tuple(names), "given", rule, tuple(weight / total for weight in weights))

    def apply(self, candidates: Sequence[P]) -> P:
        """One answer: samples and classes ordered, and labelled where it is, as the first candidate; float64.

        The candidates stand in the order of `names`; samples and classes in any. Raises ValueError when they are not as
        many, or about different samples or classes, naming them.
        """
        if len(candidates) != len(self.names):
            raise ValueError(f"expected answers of {', '.join(self.names)}, got {len(candidates)}")
        ordered = aligned(candidates, self.names)
        return vote(ordered, self.rule, self.weights) if self.stack is None else self.stack.apply(ordered)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "names": list(self.names),
            "how": self.how,
            "rule": self.rule,
            "weights": list(self.weights),
            "stack": None if self.stack is None else self.stack.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` made. Raises KeyError, TypeError or ValueError when it is no such thing."""
        how, rule, saved = content["how"], content["rule"], content["stack"]
        if how not in (*HOWS, "given") or rule not in RULES or (saved is None) == (how in KINDS):
            raise ValueError(f"a join of how {how!r}, rule {rule!r}")
        names, weights = tuple(map(str, content["names"])), tuple(map(float, content["weights"]))
        if saved is None and len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} names")
        return cls(names, how, rule, weights, None if saved is None else Stack.from_dict(saved))


def _weights(candidates: Sequence[LabelledPredictions], how: How, rule: Rule) -> list[float]:
    if how == "equal":
        return [1 / len(candidates)] * len(candidates)
    if how == "score":
        return by_score(candidates)
    if how == "fit":
        return fit_simplex(candidates, rule)
    if how == "select":
        return select(candidates, rule)
    raise ValueError(f"joining {how!r} does not exist; choose one of {', '.join(HOWS)}")
