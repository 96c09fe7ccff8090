"""Images like nothing in training, told by a score that is higher the stranger an image is to a fold:

* "probability": 1 - the highest probability (Hendrycks & Gimpel 2017), to which others have to be better;
* "energy": minus the log-sum-exp of the logits (Liu et al. 2020, "Energy-based Out-of-distribution Detection");
* "distance": 1 - the cosine to the k-th neighbour in the fold's bank (Sun et al. 2022, "Out-of-Distribution Detection
  with Deep Nearest Neighbors").

Which of them is measured: each class in turn is the stranger, whose images are to score higher than those of all other
classes when the score does without the class: its logit, its probability, its images in the bank. Training anew
without each class would be the honest way, and as dear as all that training again. The measure at hand is
not that: the network has learnt from the class, so it may be too good, and prefer another score, than for real
strangers. `benchmarks/bench_strangers.py` measures both, side by side.

A score by itself means nothing, so what is told of an image is which share of ordinary images is at least as strange:
the conformal p-value, with out-of-fold images as the ordinary ones (Vovk et al. 2005; Bates et al. 2023, "Testing for
outliers with conformal p-values"). At a share of 5%, one ordinary image in twenty is called strange. Of several folds
the mean is taken, which calls fewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from engine.ensemble.neighbours import Found, search_out_of_fold
from engine.ensemble.vote import log_sum_exp
from engine.predictions import LabelledPredictions, Predictions
from engine.store.bank import Bank

Kind = Literal["probability", "energy", "distance"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KS = (1, 10, 50)  # which neighbour's distance is tried
JUDGED_BY = 10_000  # images, drawn from more: with hundreds of classes to leave out, more would take minutes

_KEPT = 500  # scores of ordinary images that are kept: so many of the strangest, and so many evenly over all

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Signs:
    """What a fold's strangeness is told by, of N images: the fold's probabilities, the mean of its models' logits, and
    the neighbours found in its bank; None where they were not asked for."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probabilities_NC: NDArray[np.floating]
    logits_NC: Array | None = None
    found: Found | None = None

    @classmethod
    def of(cls, members: Sequence[Predictions], found: Found | None = None) -> Self:
        """Of a fold whose models (kept epochs) answered so, about the same images."""
        first = members[0]
        ordered = [one.in_order(first.ids, first.classes) for one in members]
        logits = [one.logits_NC for one in ordered if one.logits_NC is not None]
        return cls(
            first.ids,
            first.classes,
            _mean([one.probabilities_NC for one in ordered]),
            _mean(logits) if len(logits) == len(members) else None,
            None if found is None else found.of(first.ids),
        )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scores that can be made of them."""
        known = {"probability": True, "energy": self.logits_NC is not None, "distance": self.found is not None}
        return tuple(kind for kind in KINDS if known[kind])

    def scores(self, kind: Kind, k: int = 1, without: str = "") -> Array:
        """How strange each image is, (N,), to a fold that does `without` a class. Where fewer neighbours than k were
        found, the last one counts; NaN where fewer of other classes than the one left out.

        Raises ValueError for a kind that is not among `kinds`.
        """
        if kind not in self.kinds:
            raise ValueError(f"strangeness by {kind} needs {'logits' if kind == 'energy' else 'neighbours'}")
        kept_C = np.array([name != without for name in self.classes])
        if kind == "distance":
            assert self.found is not None
            if not without:
                return 1 - self.found.cosines_NK[:, min(k, self.found.cosines_NK.shape[1]) - 1]
            return 1 - _kth_cosine(self.found, k, without)
        if kind == "energy":
            assert self.logits_NC is not None
            return -log_sum_exp(self.logits_NC[:, kept_C].astype(np.float64))
        p_NC = self.probabilities_NC[:, kept_C].astype(np.float64)
        sums_N = p_NC.sum(1) if without else np.ones(len(p_NC))
        return 1 - p_NC.max(1) / np.maximum(sums_N, np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True, eq=False)
class Strange:
    """The score, and what it is for ordinary images: of `count` of them, in rising order, those at `places` score
    `scores`. `k`: which neighbour's distance. `auroc`: by class, what the score came to when it was the stranger."""

    kind: Kind
    k: int
    count: int
    places: tuple[int, ...]
    scores: tuple[float, ...]
    auroc: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def fit(cls, scores_N: Array, kind: Kind, k: int = 1, auroc: Mapping[str, float] | None = None) -> Self:
        """Of the out-of-fold scores of ordinary images, of whichever fold. Raises ValueError when there are none."""
        if not len(scores_N):
            raise ValueError("what is ordinary is told by out-of-fold images; there are none")
        ordered_N, last = np.sort(scores_N), len(scores_N) - 1
        evenly = np.linspace(0, last, min(_KEPT, last + 1)).round().astype(np.int64)
        places = np.union1d(evenly, np.arange(max(0, last + 1 - _KEPT), last + 1))
        return cls(kind, k, last + 1, tuple(places.tolist()), tuple(ordered_N[places].tolist()), dict(auroc or {}))

    def p_values(self, signs: Signs) -> Array:
        """Which share of ordinary images is at least as strange to this fold, (N,), the image itself among them; never
        too low, for what is not kept. An ordinary image has p or less in no more than p of cases."""
        below_N = np.searchsorted(np.array(self.scores), signs.scores(self.kind, self.k), side="left")
        stranger_N = self.count - np.array([0, *(place + 1 for place in self.places)])[below_N]
        return np.asarray((1 + stranger_N) / (self.count + 1))

    def apply(self, folds: Sequence[Signs]) -> Strangeness:
        """Of all folds that answered, about the same images: the mean of their shares."""
        first = folds[0]
        values_FN = np.array([_ordered(self.p_values(one), one.ids, first.ids) for one in folds])
        return Strangeness(first.ids, _mean(list(values_FN)))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "kind": self.kind,
            "k": self.k,
            "count": self.count,
            "places": list(self.places),
            "scores": list(self.scores),
            "auroc": dict(self.auroc),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError when it is something else."""
        places, scores = tuple(map(int, content["places"])), tuple(map(float, content["scores"]))
        if content["kind"] not in KINDS or len(places) != len(scores) or not places:
            raise ValueError(f"strangeness by {content['kind']!r}, of {len(places)} places and {len(scores)} scores")
        return cls(content["kind"], int(content["k"]), int(content["count"]), places, scores, dict(content["auroc"]))


@dataclasses.dataclass(frozen=True, eq=False)
class Strangeness:
    """For each of N images the share of ordinary images that is at least as strange: small is strange."""

    ids: tuple[str, ...]
    p_N: Array

    def strange_N(self, false_alarms: float) -> NDArray[np.bool_]:
        """Which are called strange, when that may happen to this share of ordinary images."""
        return self.p_N <= false_alarms

    def columns(self, false_alarms: float) -> dict[str, pa.Array]:
        """As predictions.parquet holds it: `strange`, and `strangeness`, the share."""
        return {
            "strange": pa.array(self.strange_N(false_alarms), pa.bool_()),
            "strangeness": pa.array(self.p_N, pa.float64()),
        }


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a score comes to with each class in turn as the stranger: AUROC by class, 0.5 for no idea."""

    kind: Kind
    k: int
    auroc: dict[str, float]

    @property
    def mean(self) -> float:
        """Each class counts the same."""
        return float(np.mean(list(self.auroc.values())))


@dataclasses.dataclass(frozen=True)
class Choice:
    """The score that tells strangers best, with what is ordinary; and how each did, best first."""

    strange: Strange
    table: tuple[Judged, ...]


def choose(
    answers: LabelledPredictions,
    signs: Signs,
    banks: Mapping[int, Bank] | None = None,
    ks: Sequence[int] = KS,
    device: torch.device | None = None,
) -> Choice:
    """The score with the highest mean AUROC, each class in turn left out; of equals the simplest. Of more than
    JUDGED_BY images so many, drawn at random, judge; what is ordinary is told by all.

    `answers` are out of fold, with the embeddings that `banks`, by fold, are searched by; `signs` is of the same
    images, in any order. Where there are neighbours there have to be banks. Raises ValueError when no label is known,
    or there is one class only.
    """
    every = answers.known
    rows_N = np.random.default_rng(0).permutation(len(every))[:JUDGED_BY]
    known = every.take(np.sort(rows_N))
    own = _of(signs, known.ids)
    labels = np.array(known.labels)
    classes = [name for name in known.classes if 0 < (labels == name).sum() < len(labels)]
    if not classes:
        raise ValueError("strangers are images of one class among others; there are not two classes")
    most = 0 if own.found is None else own.found.cosines_NK.shape[1]
    which = sorted({min(k, most) for k in ks})
    tried = [(kind, k) for kind in own.kinds for k in (which if kind == "distance" else [1])]
    found: dict[tuple[Kind, int], dict[str, float]] = {one: {} for one in tried}
    for name in classes:
        distances = _distances(known, own, banks or {}, which, device, name) if most else {}
        for kind, k in tried:
            scores_N = distances[k] if kind == "distance" else own.scores(kind, k, name)
            found[kind, k][name] = auroc(scores_N[labels != name], scores_N[labels == name])
    table = sorted((Judged(kind, k, by_class) for (kind, k), by_class in found.items()), key=lambda one: -one.mean)
    best = table[0]
    ordinary_N = _of(signs, every.ids).scores(best.kind, best.k)
    strange = Strange.fit(ordinary_N, best.kind, best.k, best.auroc)
    return Choice(strange, tuple(table))


def auroc(known_N: Array, strangers_M: Array) -> float:
    """How often a stranger scores higher than somebody known; a tie counts half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known_N, strangers_M]))[len(known_N) :]
    pairs = len(known_N) * len(strangers_M)
    return float((ranks.sum() - len(strangers_M) * (len(strangers_M) + 1) / 2) / pairs)


def _distances(
    known: LabelledPredictions,
    signs: Signs,
    banks: Mapping[int, Bank],
    ks: Sequence[int],
    device: torch.device | None,
    without: str,
) -> dict[int, Array]:
    """The scores by distance without a class, by k; for images with too few other neighbours at hand the banks are
    searched without it."""
    scores = {k: signs.scores("distance", k, without) for k in ks}
    lacking = np.flatnonzero(np.isnan(scores[max(ks)]))
    if len(lacking):
        cosines_LK = search_out_of_fold(known.take(lacking), banks, max(ks), device, without).cosines_NK
        for k, scores_N in scores.items():
            scores_N[lacking] = 1 - cosines_LK[:, min(k, cosines_LK.shape[1]) - 1]
    return scores


def _kth_cosine(found: Found, k: int, without: str) -> Array:
    """The cosine to the k-th neighbour that is not of that class, (N,); NaN where fewer were found."""
    place = found.classes.index(without)
    rank_NK = np.cumsum(found.labels_NK != place, axis=1)
    at_N = np.argmax(rank_NK >= k, axis=1)
    kth_N = found.cosines_NK[np.arange(len(found)), at_N]
    return np.where(rank_NK[:, -1] >= k, kth_N, np.nan)


def _of(signs: Signs, ids: Sequence[str]) -> Signs:
    """The same of these images."""
    place = {id_: row for row, id_ in enumerate(signs.ids)}
    rows = [place[id_] for id_ in ids]
    return dataclasses.replace(
        signs,
        ids=tuple(ids),
        probabilities_NC=signs.probabilities_NC[rows],
        logits_NC=None if signs.logits_NC is None else signs.logits_NC[rows],
        found=None if signs.found is None else signs.found.of(ids),
    )


def _ordered(values_N: Array, ids: Sequence[str], wanted: Sequence[str]) -> Array:
    place = {id_: row for row, id_ in enumerate(ids)}
    return values_N[[place[id_] for id_ in wanted]]


def _mean(arrays: Sequence[NDArray[np.floating]]) -> Array:
    """One after the other, so that the sum has an order."""
    total = np.zeros(arrays[0].shape)
    for array in arrays:
        total += array
    return np.asarray(total / len(arrays))
