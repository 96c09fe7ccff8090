"""Stacking: a model that is shown what all candidates answer about a sample and learns what is true then.

It sees the logarithms of the candidates' probabilities (of a model they are its logits, but for a constant a sample),
and it corrects the logit vote of the best weights instead of beginning at nothing. Where there is little to learn, as
of classes with a handful of samples, the vote stands; a model that is drawn towards zero forgets such classes. How far
it may go is chosen by the log loss in parts that it was not fitted on, and not at all is one of the choices. Two kinds:

* "logistic": multinomial logistic regression on standardised features, with weights and bias drawn towards 0. Solved by
  L-BFGS of scipy, since scikit-learn's can begin nowhere but at nothing; beginning there, they agree.
* "boosting": gradient-boosted trees (scikit-learn), one for each class and round: for some dozens of classes, not for
  hundreds.

What is kept is numbers, evaluated here in numpy: it is saved as JSON, nothing is pickled, and answering needs no
scikit-learn. A class that no sample it was fitted on belongs to is unknown to it; such a class keeps the probability
that the candidates give it on average, and the stack divides the rest. So no log loss is infinite because of it.

A stack flatters itself on what it was fitted on: judge it by `engine.ensemble.nested.honest`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.candidates import aligned, fitted_on, stacked
from engine.ensemble.nested import parts_of
from engine.ensemble.vote import log_sum_exp, softmax
from engine.ensemble.weights import fit_simplex
from engine.predictions import LabelledPredictions, Predictions

Kind = Literal["logistic", "boosting"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LEAST = 1e-7  # a probability below this is seen as this: the difference is noise, its logarithm far out
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # of half the sum of squared weights, beside the mean log loss in nats
_STEPS = 200
_LARGE = 1e9  # multiplications in one step
_ROUNDS, _RATE, _DEPTH, _LEAF, _SHARE = 20, 0.1, 2, 20, 0.5  # of boosting; the last is of samples that a tree sees

P = TypeVar("P", bound=Predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """Logits (N, S) that begin somewhere, and to which a linear function of features (N, F) is added."""

    weights_SF: NDArray[np.float64]
    bias_S: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        features_NF: NDArray[np.float64],
        labels_N: NDArray[np.int64],
        start_NS: NDArray[np.float64],
        penalty: float,
    ) -> Self:
        """What, added to `start_NS`, has the lowest mean log loss plus `penalty` times half of its squares."""
        from scipy.optimize import minimize

        mean_F, scale_F = features_NF.mean(0), features_NF.std(0)
        scale_F[scale_F < _LEAST] = 1
        ones_N1 = np.ones((len(features_NF), 1))
        seen_NF = np.hstack([(features_NF - mean_F) / scale_F, ones_N1])
        truth_NS = np.eye(start_NS.shape[1])[labels_N]
        shape = (start_NS.shape[1], seen_NF.shape[1])

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits_NS = start_NS + seen_NF @ flat.reshape(shape).T
            p_NS = softmax(logits_NS)
            lost = float((log_sum_exp(logits_NS) - (logits_NS * truth_NS).sum(1)).mean())
            slope_SF = (p_NS - truth_NS).T @ seen_NF / len(labels_N)
            return lost + penalty / 2 * float(flat @ flat), slope_SF.reshape(-1) + penalty * flat

        options = {"maxiter": _STEPS, "gtol": 1e-7}
        found = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options=options)
        weights_SF, bias_S = found.x.reshape(shape)[:, :-1] / scale_F, found.x.reshape(shape)[:, -1]
        return cls(weights_SF, bias_S - weights_SF @ mean_F)

    def logits(self, features_NF: NDArray[np.float64], start_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(start_NS + features_NF @ self.weights_SF.T + self.bias_S)

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
        feature, left, right = (np.array(content[name], np.int64) for name in ("feature", "left", "right"))
        threshold, value = (np.array(content[name], np.float64) for name in ("threshold", "value"))
        return cls(feature, threshold, left, right, value)


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
        return self.staged(features_NF, start_NS)[-1]

    def staged(self, features_NF: NDArray[np.float64], start_NS: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The logits before the first round, and after each."""
        seen_NF = features_NF.astype(np.float32)  # as the trees were fitted
        stages = [start_NS]
        for trees in self.rounds:
            logits_NS = stages[-1].copy()
            for column, tree in enumerate(trees, start=logits_NS.shape[1] - len(trees)):
                logits_NS[:, column] += _RATE * tree.values(seen_NF)
            stages.append(logits_NS)
        return stages

    def to_dict(self) -> dict[str, Any]:
        return {"rounds": [[tree.to_dict() for tree in trees] for trees in self.rounds]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(tuple(tuple(map(Tree.from_dict, trees)) for trees in content["rounds"]))


class Start:
    """Where a stack begins: the logit vote of candidates of these weights among the classes `seen_S`, columns of their
    `classes`. In the form in which scikit-learn asks for where boosting begins."""

    def __init__(self, weights_K: NDArray[np.float64], classes: int, seen_S: NDArray[np.int64]) -> None:
        self._weights_K, self._classes, self._seen_S = weights_K, classes, seen_S

    def fit(self, *_: object) -> Start:
        return self

    def predict_proba(self, features_NF: NDArray[np.floating]) -> NDArray[np.float64]:
        logs_NKC = features_NF.astype(np.float32).astype(np.float64)  # as the trees are fitted
        logs_NKC = logs_NKC.reshape(len(features_NF), len(self._weights_K), self._classes)
        return softmax(np.einsum("k,nkc->nc", self._weights_K, logs_NKC)[:, self._seen_S])

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
    """A fitted stack of candidates over `classes`, of which `seen` were among the labels that it was fitted on. It
    begins at the candidates' logit vote with these weights."""

    kind: Kind
    weights: tuple[float, ...]
    classes: tuple[str, ...]
    seen: tuple[str, ...]
    model: Linear | Trees

    @classmethod
    def fit(cls, candidates: Sequence[LabelledPredictions], kind: Kind) -> Self:
        """Fitted on the labelled samples of the candidates. Raises ValueError when their labels are of one class only,
        for a kind that there is not, and as `fitted_on`."""
        if kind not in KINDS:
            raise ValueError(f"stack {kind!r} does not exist; choose one of {', '.join(KINDS)}")
        from threadpoolctl import threadpool_limits

        known, _ = fitted_on(candidates)
        # Thousands of small products, in which threads would mostly wait for each other; where they are large, not.
        large = stacked(known).size * len(known[0].classes) > _LARGE
        with threadpool_limits(None if large else 1, "blas"):
            lesson = Lesson.of(known)
            model = _linear(known, lesson) if kind == "logistic" else _trees(known, lesson)
        classes = known[0].classes
        return cls(kind, lesson.weights, classes, tuple(classes[column] for column in lesson.seen_S), model)

    def apply(self, candidates: Sequence[P]) -> P:
        """The stack's answers: samples and classes ordered, and labelled where it is, as the first candidate; float64.
        The candidates stand in the order in which it was fitted on them. Raises ValueError when they are not as many,
        or of other samples or classes."""
        if len(candidates) != len(self.weights):
            raise ValueError(f"this stack was fitted on {len(self.weights)} candidates and is given {len(candidates)}")
        first = candidates[0]
        ordered = aligned([first.in_order(first.ids, self.classes), *candidates[1:]])
        features_NF = _features(ordered)
        column_of = {name: column for column, name in enumerate(self.classes)}
        seen_S = np.array([column_of[name] for name in self.seen], dtype=np.int64)
        start_NS = Start(np.array(self.weights), len(self.classes), seen_S).logits(features_NF)
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
            "weights": list(self.weights),
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
        classes, seen = (tuple(map(str, content[what])) for what in ("classes", "seen"))
        return cls(content["kind"], tuple(map(float, content["weights"])), classes, seen, model)


def boosted(features_NF: NDArray[np.float64], labels_N: NDArray[np.int64], start: Start) -> Any:
    """scikit-learn's classifier, fitted; `Trees` is to answer as it does."""
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(
        init=start,
        n_estimators=_ROUNDS,
        learning_rate=_RATE,
        max_depth=_DEPTH,
        min_samples_leaf=_LEAF,
        subsample=_SHARE,
        max_features="sqrt",
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


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """What a stack is fitted on: features (N, F), labels (N,) as places among the classes `seen_S` that occur, and the
    weights of the vote that it begins at."""

    features_NF: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    seen_S: NDArray[np.int64]
    weights: tuple[float, ...]
    start: Start

    @classmethod
    def of(cls, known: Sequence[LabelledPredictions]) -> Self:
        seen_S, labels_N = np.unique(known[0].labels_N, return_inverse=True)
        if len(seen_S) < 2:
            raise ValueError("the labels are of one class only, and so there is nothing to learn from them")
        weights = fit_simplex(known, "logit")
        start = Start(np.array(weights), len(known[0].classes), seen_S)
        return cls(_features(known), labels_N.astype(np.int64), seen_S, tuple(weights), start)

    def linear(self, penalty: float) -> Linear:
        return Linear.fit(self.features_NF, self.labels_N, self.start.logits(self.features_NF), penalty)

    def trees(self) -> Trees:
        return Trees.fit(self.features_NF, self.labels_N, self.start)


def _linear(known: Sequence[LabelledPredictions], lesson: Lesson) -> Linear:
    def held_out(taught: Lesson, asked_NF: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        start_NS = taught.start.logits(asked_NF)
        return [taught.linear(penalty).logits(asked_NF, start_NS) for penalty in _PENALTIES]

    return lesson.linear(_PENALTIES[_best(known, held_out, otherwise=len(_PENALTIES) - 1)])


def _trees(known: Sequence[LabelledPredictions], lesson: Lesson) -> Trees:
    def held_out(taught: Lesson, asked_NF: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        return taught.trees().staged(asked_NF, taught.start.logits(asked_NF))

    return Trees(lesson.trees().rounds[: _best(known, held_out, otherwise=0)])


def _best(
    known: Sequence[LabelledPredictions],
    held_out: Callable[[Lesson, NDArray[np.float64]], list[NDArray[np.float64]]],
    otherwise: int,
) -> int:
    """Which of the answers of `held_out` has the lowest log loss on parts that the lesson had nothing of; `otherwise`
    where there are no such parts. Samples of classes that the lesson had none of are passed over."""
    try:
        part_N = parts_of(known[0])
    except ValueError:
        return otherwise
    losses: list[NDArray[np.float64]] = []
    for part in np.unique(part_N):
        taught_N, asked_N = np.flatnonzero(part_N != part), np.flatnonzero(part_N == part)
        labels_N = known[0].labels_N
        if len(np.unique(labels_N[taught_N])) < 2:
            continue
        lesson = Lesson.of([one.take(taught_N) for one in known])
        asked_N = asked_N[np.isin(labels_N[asked_N], lesson.seen_S)]
        places_N = np.searchsorted(lesson.seen_S, labels_N[asked_N])
        answers = held_out(lesson, _features([one.take(asked_N) for one in known]))
        losses.append(np.stack([log_sum_exp(each) - each[np.arange(len(each)), places_N] for each in answers]))
    return int(np.concatenate(losses, axis=1).mean(1).argmin()) if losses else otherwise
