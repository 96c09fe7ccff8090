"""Stacking: a model that is shown what all candidates answer about a sample and learns what is true then.

It sees the logarithms of the candidates' probabilities (of a model they are its logits, but for a constant a sample).
Two kinds, both scikit-learn's:

* "logistic": multinomial logistic regression on standardised features. How much it is held back (C) is chosen by the
  log loss in parts that it was not fitted on. A weighted logit vote, with weights a class, is one of the things it can
  learn.
* "boosting": gradient-boosted trees that begin at the logit vote and correct it. A tree for each class and round: for
  some dozens of classes, not for hundreds.

What is kept is numbers, evaluated here in numpy: it is saved as JSON, nothing is pickled, and answering needs no
scikit-learn. A class that no sample it was fitted on belongs to is unknown to it; such a class keeps the probability
that the candidates give it on average, and the stack divides the rest. So no log loss is infinite because of it.

A stack flatters itself on what it was fitted on: judge it by `engine.ensemble.nested.honest`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.candidates import aligned, fitted_on, stacked
from engine.ensemble.nested import honest
from engine.ensemble.vote import softmax
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions

Kind = Literal["logistic", "boosting"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LEAST = 1e-7  # a probability below this is seen as this: the difference is noise, its logarithm far out
_HELD_BACK = (1e-3, 1e-2, 1e-1, 1.0)  # values of C: the first holds back most
_STEPS = 300
_ROUNDS, _RATE, _DEPTH, _SHARE = 40, 0.1, 3, 0.5  # of boosting; the last is of samples and features seen by a tree

P = TypeVar("P", bound=Predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Logits (N, S) as a linear function of features (N, F)."""

    weights_SF: NDArray[np.float64]
    bias_S: NDArray[np.float64]

    @classmethod
    def fit(cls, features_NF: NDArray[np.float64], labels_N: NDArray[np.int64], c: float) -> Self:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features_NF)
        found = LogisticRegression(C=c, max_iter=_STEPS).fit(scaler.transform(features_NF), labels_N)
        weights_SF, bias_S = found.coef_, found.intercept_
        if len(weights_SF) == 1:  # of two classes it has the second's logit alone
            weights_SF, bias_S = np.vstack([0 * weights_SF, weights_SF]), np.append(0 * bias_S, bias_S)
        weights_SF = weights_SF / scaler.scale_
        return cls(weights_SF, bias_S - weights_SF @ scaler.mean_)

    def logits(self, features_NF: NDArray[np.float64], start_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(features_NF @ self.weights_SF.T + self.bias_S)

    def to_dict(self) -> dict[str, Any]:
        return {"weights": self.weights_SF.tolist(), "bias": self.bias_S.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(np.array(content["weights"], np.float64), np.array(content["bias"], np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """A regression tree as arrays of its nodes: the feature and the threshold up to which a sample goes left, the nodes
    to both sides (-1 in a leaf), and the value of a leaf."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]

    def values(self, features_NF: NDArray[np.float32]) -> NDArray[np.float64]:
        """The value (N,) of the leaf that each sample ends in."""
        node_N = np.zeros(len(features_NF), dtype=np.int64)
        rows_N = np.arange(len(features_NF))
        while (inner_N := self.left[node_N] >= 0).any():
            below_N = features_NF[rows_N, self.feature[node_N]] <= self.threshold[node_N]
            node_N = np.where(inner_N, np.where(below_N, self.left[node_N], self.right[node_N]), node_N)
        return self.value[node_N]

    def to_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name).tolist() for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        whole = {name: np.array(content[name], np.int64) for name in ("feature", "left", "right")}
        return cls(**whole, **{name: np.array(content[name], np.float64) for name in ("threshold", "value")})


@dataclasses.dataclass(frozen=True, eq=False)
class Trees:
    """Logits that begin somewhere and are corrected round by round, by a tree for each class; of two classes by one
    tree, for the second."""

    rounds: tuple[tuple[Tree, ...], ...]

    @classmethod
    def fit(cls, features_NF: NDArray[np.float64], labels_N: NDArray[np.int64], start: Start) -> Self:
        trees = boosted(features_NF, labels_N, start).estimators_
        return cls(tuple(tuple(_tree(each.tree_) for each in of_round) for of_round in trees))

    def logits(self, features_NF: NDArray[np.float64], start_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        seen_NF = features_NF.astype(np.float32)  # as the trees were fitted
        logits_NS = start_NS.copy()
        for trees in self.rounds:
            for column, tree in enumerate(trees, start=logits_NS.shape[1] - len(trees)):
                logits_NS[:, column] += _RATE * tree.values(seen_NF)
        return logits_NS

    def to_dict(self) -> dict[str, Any]:
        return {"rounds": [[tree.to_dict() for tree in trees] for trees in self.rounds]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(tuple(tuple(map(Tree.from_dict, trees)) for trees in content["rounds"]))


class Start:
    """Where boosting begins, as scikit-learn asks for it: the logit vote of `count` candidates among the classes
    `seen_S`, columns of their `classes`."""

    def __init__(self, count: int, classes: int, seen_S: NDArray[np.int64]) -> None:
        self._shape, self._seen_S = (count, classes), seen_S

    def fit(self, *_: object) -> Start:
        return self

    def predict_proba(self, features_NF: NDArray[np.floating]) -> NDArray[np.float64]:
        logs_NKC = features_NF.astype(np.float32).astype(np.float64).reshape(len(features_NF), *self._shape)
        return softmax(logs_NKC.mean(1)[:, self._seen_S])

    def logits(self, features_NF: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, S), summing to 0; of two classes those of the second over the first, and 0."""
        p_NS = self.predict_proba(features_NF)
        if p_NS.shape[1] == 2:
            return np.stack([np.zeros(len(p_NS)), _log_odds(p_NS[:, 1])], axis=1)
        logs_NS = np.log(np.clip(p_NS, *_INSIDE))
        return np.asarray(logs_NS - logs_NS.mean(1, keepdims=True))


_INSIDE = (np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """A fitted stack of `count` candidates over `classes`, of which `seen` were among the labels that it was fitted
    on."""

    kind: Kind
    count: int
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    model: Linear | Trees

    @classmethod
    def fit(cls, candidates: Sequence[LabelledPredictions], kind: Kind) -> Self:
        """Fitted on the labelled samples of the candidates. Raises ValueError when their labels are of one class only,
        for a kind that there is not, and as `fitted_on`."""
        known, _ = fitted_on(candidates)
        if kind == "logistic":
            return cls._linear(known, _held_back(known))
        if kind == "boosting":
            seen_S, labels_N = _seen(known)
            start = Start(len(known), len(known[0].classes), seen_S)
            return cls._of(known, kind, Trees.fit(_features(known), labels_N, start))
        raise ValueError(f"stack {kind!r} does not exist; choose one of {', '.join(KINDS)}")

    @classmethod
    def _linear(cls, known: Sequence[LabelledPredictions], c: float) -> Self:
        return cls._of(known, "logistic", Linear.fit(_features(known), _seen(known)[1], c))

    @classmethod
    def _of(cls, known: Sequence[LabelledPredictions], kind: Kind, model: Linear | Trees) -> Self:
        classes = known[0].classes
        return cls(kind, len(known), classes, tuple(classes[column] for column in _seen(known)[0]), model)

    def apply(self, candidates: Sequence[P]) -> P:
        """The stack's answers: samples and classes ordered, and labelled where it is, as the first candidate; float64.
        The candidates stand in the order in which it was fitted on them. Raises ValueError when they are not as many,
        or of other samples or classes."""
        if len(candidates) != self.count:
            raise ValueError(f"this stack was fitted on {self.count} candidates and is given {len(candidates)}")
        first = candidates[0]
        ordered = aligned([first.in_order(first.ids, self.classes), *candidates[1:]])
        features_NF = _features(ordered)
        column_of = {name: column for column, name in enumerate(self.classes)}
        seen_S = np.array([column_of[name] for name in self.seen], dtype=np.int64)
        start_NS = Start(self.count, len(self.classes), seen_S).logits(features_NF)
        p_NC = stacked(ordered).mean(0)
        p_NC /= p_NC.sum(1, keepdims=True)
        unseen_N = np.delete(p_NC, seen_S, axis=1).sum(1)
        p_NC[:, seen_S] = (1 - unseen_N)[:, None] * softmax(self.model.logits(features_NF, start_NS))
        answered = dataclasses.replace(ordered[0], probabilities_NC=p_NC, logits_NC=None, features_NE=None)
        return answered.in_order(first.ids, first.classes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "count": self.count,
            "classes": list(self.classes),
            "seen": list(self.seen),
            "model": self.model.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` made. Raises KeyError, TypeError or ValueError when it is no such thing."""
        if content["kind"] not in KINDS:
            raise ValueError(f"stack {content['kind']!r}")
        model = (Linear if content["kind"] == "logistic" else Trees).from_dict(content["model"])
        names = (tuple(map(str, content[what])) for what in ("classes", "seen"))
        return cls(content["kind"], int(content["count"]), *names, model)


def boosted(features_NF: NDArray[np.float64], labels_N: NDArray[np.int64], start: Start) -> Any:
    """scikit-learn's classifier, fitted; `Trees` is to answer as it does."""
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(
        init=start,
        n_estimators=_ROUNDS,
        learning_rate=_RATE,
        max_depth=_DEPTH,
        subsample=_SHARE,
        max_features=_SHARE,
        random_state=0,
    ).fit(features_NF, labels_N)


def _tree(found: Any) -> Tree:
    """scikit-learn's arrays of a tree."""
    return Tree(
        np.maximum(found.feature, 0).astype(np.int64),
        found.threshold.astype(np.float64),
        found.children_left.astype(np.int64),
        found.children_right.astype(np.int64),
        found.value[:, 0, 0].astype(np.float64),
    )


def _log_odds(p_N: NDArray[np.float64]) -> NDArray[np.float64]:
    p_N = np.clip(p_N, *_INSIDE)
    return np.asarray(np.log(p_N / (1 - p_N)))


def _features(candidates: Sequence[Predictions]) -> NDArray[np.float64]:
    """Logarithms of the probabilities of candidates in one order, side by side: (N, F), F = K * C."""
    logs_KNC = np.log(np.maximum(stacked(candidates), _LEAST))
    return np.ascontiguousarray(logs_KNC.transpose(1, 0, 2)).reshape(logs_KNC.shape[1], -1)


def _seen(known: Sequence[LabelledPredictions]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The classes (S,) that occur among the labels, as columns, and the labels (N,) as places among these."""
    seen_S, labels_N = np.unique(known[0].labels_N, return_inverse=True)
    if len(seen_S) < 2:
        raise ValueError("the labels are of one class only, and so there is nothing to learn from them")
    return seen_S, labels_N.astype(np.int64)


def _held_back(known: Sequence[LabelledPredictions]) -> float:
    """The C of the lowest log loss on parts that were not fitted on; where there are no parts, that which holds back
    most."""
    losses = []
    for c in _HELD_BACK:
        try:
            nested = honest(known, lambda some, c=c: Stack._linear(some, c).apply)  # type: ignore[misc]
        except ValueError:
            return _HELD_BACK[0]
        losses.append(evaluate(nested).metrics["log_loss"])
    return _HELD_BACK[int(np.argmin(losses))]
