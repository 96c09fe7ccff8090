"""Calibration: probabilities come to mean what they say, by a few numbers that were fitted out of fold.

Fitted and applied on logarithms of float64 probabilities (of 0: of the smallest that float32 holds in full), before
aliases are merged and before the log loss clips anything. Logits themselves are not asked for: after views, folds and
neighbours were blended there are none, and a softmax gives the same for both. Kinds, simplest first:

* "temperature": all log-probabilities times one scale. Never changes which class is likeliest.
* "groups": one scale a class group; the group of the likeliest class decides over a row, so the likeliest class stays.
  (The other way, each class's log-probability times its own group's scale, is a vector scaling of fewer numbers.) Where
  no groups are given, classes are grouped by how often they occur: rare ones are where networks are surest of
  themselves for nothing.
* "vector": a scale and a bias a class.
* "isotonic": for each class a rising curve from its probability to its share, then rows are made to sum to 1.
* "dirichlet": all log-probabilities times a matrix, and a bias a class.

Which kind, and whether any, is decided by `choose` on answers of fits that had not seen the sample. The obvious other
way, always a temperature, makes a well calibrated model worse by the noise of the fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from engine.ensemble import rescale
from engine.ensemble.nested import Apply, honest
from engine.intervals import Difference, compare
from engine.metrics import score
from engine.predictions import LabelledPredictions, Predictions

Kind = Literal["temperature", "groups", "vector", "isotonic", "dirichlet"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # simplest first

DIRICHLET_CLASSES = 64  # above, its C * C numbers take minutes to fit, and more images than there are
_GROUPS_BY_SHARE = 3
_SMALLEST = float(np.finfo(np.float32).tiny)

P = TypeVar("P", bound=Predictions)
Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What is done to the log-probabilities of `classes`, in their order.

    scale: () for "temperature", (C,) for "groups" (of the rows whose likeliest class it is) and "vector", (C, C) for
    "dirichlet", None for "isotonic". bias_C: of "vector" and "dirichlet". curves: of "isotonic", for each class corners
    (K,) and values (K,). Raises ValueError when the numbers are not those of the kind.
    """

    kind: Kind
    classes: tuple[str, ...]
    scale: Array | None = None
    bias_C: Array | None = None
    curves: tuple[tuple[Array, Array], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.classes)
        shapes = {"temperature": (), "groups": (count,), "vector": (count,), "dirichlet": (count, count)}
        if self.kind not in KINDS:
            raise ValueError(f"calibration {self.kind!r} does not exist; choose one of {', '.join(KINDS)}")
        found = (None if self.scale is None else self.scale.shape, None if self.bias_C is None else self.bias_C.shape)
        expected = (shapes.get(self.kind), (count,) if self.kind in ("vector", "dirichlet") else None)
        if found != expected or len(self.curves) != (count if self.kind == "isotonic" else 0):
            raise ValueError(f"calibration {self.kind!r}: its numbers are not those of {count} classes")
        arrays = (self.scale, self.bias_C, *(side for curve in self.curves for side in curve))
        if not all(array is None or np.isfinite(array).all() for array in arrays):
            raise ValueError(f"calibration {self.kind!r}: a number is not finite")

    @classmethod
    def fit(cls, kind: Kind, predictions: LabelledPredictions, groups: Sequence[str] = ()) -> Self:
        """The calibration of this kind under which the labels are likeliest; samples whose label is no class are left
        out. `groups` names the group of each class, in their order: for "groups" alone.

        Raises ValueError when no label is known, or `groups` are not those of the classes.
        """
        known = predictions.known
        if not len(known):
            raise ValueError("a calibration is fitted on samples whose true class is known; none is")
        if groups and len(groups) != len(known.classes):
            raise ValueError(f"{len(groups)} groups for {len(known.classes)} classes")
        z_NC, y_N = _logs(known.probabilities_NC), known.labels_N
        if kind == "temperature":
            return cls(kind, known.classes, np.array(rescale.scale_of_all(z_NC, y_N)))
        if kind == "groups":
            group_C = np.unique(groups, return_inverse=True)[1] if groups else _by_share(y_N, known.classes)
            return cls(kind, known.classes, rescale.scale_of_groups(z_NC, y_N, group_C))
        if kind == "vector":
            return cls(kind, known.classes, *rescale.scale_and_bias(z_NC, y_N))
        if kind == "dirichlet":
            return cls(kind, known.classes, *rescale.matrix_and_bias(z_NC, y_N))
        p_NC = np.exp(z_NC)
        curves = tuple(rescale.isotonic_curve(p_NC[:, c], y_N == c) for c in range(len(known.classes)))
        return cls(kind, known.classes, curves=curves)

    def apply(self, predictions: P) -> P:
        """The same samples, calibrated: float64, classes in any order. Features stay; logits, which are no longer these
        probabilities', do not. A row's answer depends on the row alone, to the last bit.

        Raises ValueError when the classes are not those that it was fitted on.
        """
        ordered = predictions.in_order(predictions.ids, self.classes)
        p_NC = self._calibrated(_logs(ordered.probabilities_NC))
        answered = dataclasses.replace(ordered, probabilities_NC=p_NC, logits_NC=None)
        return answered.in_order(predictions.ids, predictions.classes)

    def _calibrated(self, z_NC: Array) -> Array:
        if self.kind == "isotonic":
            p_NC = np.exp(z_NC)
            for column, curve in enumerate(self.curves):
                p_NC[:, column] = np.interp(p_NC[:, column], *curve)
            return p_NC / p_NC.sum(1, keepdims=True)
        assert self.scale is not None
        if self.kind == "groups":
            return _softmax(z_NC * self.scale[z_NC.argmax(1)][:, None])
        if self.kind != "dirichlet":
            return _softmax(z_NC * self.scale + (0.0 if self.bias_C is None else self.bias_C))
        assert self.bias_C is not None
        # A matrix product adds in an order that depends on how many rows there are, so class by class.
        mixed_NC = np.tile(self.bias_C, (len(z_NC), 1))
        for column in range(len(self.classes)):
            mixed_NC += z_NC[:, column : column + 1] * self.scale[:, column]
        return _softmax(mixed_NC)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "kind": self.kind,
            "classes": list(self.classes),
            "scale": None if self.scale is None else self.scale.tolist(),
            "bias": None if self.bias_C is None else self.bias_C.tolist(),
            "curves": [[corners.tolist(), values.tolist()] for corners, values in self.curves],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError when it is something else."""
        scale, bias_C = (
            None if content[name] is None else np.array(content[name], np.float64) for name in ("scale", "bias")
        )
        curves = tuple((np.array(xs, np.float64), np.array(ys, np.float64)) for xs, ys in content["curves"])
        return cls(content["kind"], tuple(content["classes"]), scale, bias_C, curves)


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a kind of calibration comes to on samples that it was not fitted on. difference: of log loss, after what it
    is without. The scores are None where the kind was not tried, and `reason` says why."""

    kind: Kind | Literal["none"]
    log_loss: float | None = None
    calibration_error: float | None = None
    difference: Difference | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """The calibration that is worth having, fitted on all samples, or None where none is; and how each kind did, the
    first row without any. answers: those by which it was judged, of fits that had not seen the sample; without it, the
    ones that were given."""

    calibration: Calibration | None
    table: tuple[Judged, ...]
    answers: LabelledPredictions


def choose(predictions: LabelledPredictions, kinds: Sequence[Kind] = KINDS, groups: Sequence[str] = ()) -> Choice:
    """The simplest of the kinds that cannot be told apart from the best of them; None unless it beats no calibration.

    Each kind is judged by its log loss on samples that it was not fitted on (`engine.ensemble.nested.honest`), and
    "beats" is what a paired bootstrap says (`engine.intervals.compare`), by group where there are groups. `groups`
    names the group of each class, as for `Calibration.fit`. Raises ValueError when no label is known.
    """
    known = predictions.known
    table, winners = [_judged("none", known)], []
    for kind in sorted(set(kinds), key=KINDS.index):
        try:
            after = _honestly(kind, known, groups)
        except ValueError as error:
            table.append(Judged(kind, reason=str(error)))
            continue
        difference = compare(known, after)
        table.append(_judged(kind, after, difference))
        if difference.verdict == "better":
            winners.append((kind, after, difference.second))
    if not winners:
        return Choice(None, tuple(table), known)
    best = min(winners, key=lambda winner: winner[2])[1]
    kept, after, _ = next(one for one in winners if one[1] is best or compare(best, one[1]).verdict != "worse")
    return Choice(Calibration.fit(kept, known, groups), tuple(table), after)


def _honestly(kind: Kind, known: LabelledPredictions, groups: Sequence[str]) -> LabelledPredictions:
    """Raises ValueError where the kind cannot be tried, and says why."""
    count = len(known.classes)
    if kind == "dirichlet" and count > DIRICHLET_CLASSES:
        raise ValueError(
            f"{count} classes would need {count} x {count} numbers; it is tried up to {DIRICHLET_CLASSES} classes"
        )

    def fit(candidates: Sequence[LabelledPredictions]) -> Apply:
        calibration = Calibration.fit(kind, candidates[0], groups)
        return lambda asked: calibration.apply(asked[0])

    return honest([known], fit)


def _judged(kind: Kind | Literal["none"], after: LabelledPredictions, difference: Difference | None = None) -> Judged:
    found = score(after.probabilities_NC, after.labels_N, ("log_loss", "calibration_error"))
    return Judged(kind, found["log_loss"], found["calibration_error"], difference)


def _by_share(y_N: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.int64]:
    """A group a class, (C,): the most frequent classes that have a third of the samples together, the rarest that have
    a third, and those between them. Of equally frequent ones the order of their names decides."""
    counts_C = np.bincount(y_N, minlength=len(classes))
    order_C = np.array(sorted(range(len(classes)), key=lambda column: (-counts_C[column], classes[column])))
    before_C = np.cumsum(counts_C[order_C]) - counts_C[order_C]
    group_C = np.empty(len(classes), dtype=np.int64)
    group_C[order_C] = np.minimum(before_C * _GROUPS_BY_SHARE // len(y_N), _GROUPS_BY_SHARE - 1)
    return group_C


def _logs(p_NC: NDArray[np.floating]) -> Array:
    """Rows stand side by side in memory, whatever order they came in: sums are then the same to the last bit."""
    return np.log(np.maximum(np.ascontiguousarray(p_NC, dtype=np.float64), _SMALLEST))


def _softmax(z_NC: Array) -> Array:
    p_NC = np.exp(z_NC - z_NC.max(1, keepdims=True, initial=-np.inf))
    return p_NC / p_NC.sum(1, keepdims=True)
