"""A risk that is chosen: sets of classes that hold the truth as often as is asked, and answers withheld so that those
given are right as often as is asked.

**Sets** are conformal: a class is in an image's set unless it fits the image worse than the truth fitted nearly all
images that the models had not seen. That holds for any model, however badly calibrated, where images asked about come
like those fitted on. How badly a class fits is its score: what all likelier classes have together, plus a share of what
it has itself ("aps": Romano, Sesia, Candes, "Classification with Valid and Adaptive Coverage", NeurIPS 2020), plus a
penalty for every likelier class beyond a few ("raps": Angelopoulos et al., "Uncertainty Sets for Image Classifiers
using Conformal Prediction", ICLR 2021), which makes large sets smaller.

That share is drawn at random in the papers, without which sets hold the truth too often and are larger than they need
be. Here it is a hash of the answer itself, so that the same photo gets the same set, whatever it is called and in
whatever company it is asked about. What is proven of sets holds: a score is still a function of image and class.

The obvious way to scores needs images that no model was trained on. Folds have these already (cross-conformal: Vovk,
"Cross-conformal predictors", 2015; CV+ of Romano et al.): a fold's answer to a new image is compared with the scores of
the images which that fold had held out, and the folds' counts are added. Proven is then a risk of twice what was asked;
seen is what was asked, or less. Where one answer is all there is, it is compared with all scores (split conformal).

**Photos of one sender** are not independent witnesses. Sets keep their promise on average over senders like those
fitted on; with few senders one run's luck is wider than so many images suggest, and who sent many weighs more. The
bound of `threshold_for` counts how alike the errors of a group are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from engine.ensemble.nested import parts_of
from engine.ensemble.vote import vote
from engine.predictions import NO_FOLD, LabelledPredictions, Predictions
from engine.text import some

Method = Literal["aps", "raps"]
METHODS: tuple[Method, ...] = get_args(Method)

_PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)  # tried for "raps", as in its paper
_TUNED_ON = 0.2  # share of the images (whole groups) that "raps" is tuned on; they do not calibrate
_STEPS = 50  # coverages tried for a threshold
_ALMOST = 1e-12

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Score:
    """How badly each class fits. penalty: for every class that is likelier, beyond the first `free` ranks. randomised:
    whether a class's own share is drawn, by a hash of the answer; else it counts in full."""

    penalty: float = 0.0
    free: int = 0
    randomised: bool = True

    def of(self, p_NC: NDArray[np.floating]) -> Array:
        """(N, C), of each class for each sample; a row's depend on the row alone."""
        p_NC = np.ascontiguousarray(p_NC, dtype=np.float64)
        order_NC = np.argsort(-p_NC, axis=1, kind="stable")
        sorted_NC = np.take_along_axis(p_NC, order_NC, 1)
        likelier_NC = np.cumsum(sorted_NC, axis=1) - sorted_NC
        rows = (row_C.tobytes() for row_C in p_NC.astype(np.float32))  # as files hold them
        own_N1 = _drawn(rows)[:, None] if self.randomised else 1.0
        beyond_C = np.maximum(np.arange(1, p_NC.shape[1] + 1) - self.free, 0)
        scores_NC = np.empty_like(p_NC)
        np.put_along_axis(scores_NC, order_NC, likelier_NC + own_N1 * sorted_NC + self.penalty * beyond_C, 1)
        return scores_NC


@dataclasses.dataclass(frozen=True, eq=False)
class Risk:
    """Sets of `classes` that hold the truth in a share `level` of cases.

    held: for each fold, sorted, how badly the truth fitted each of its held-out images, (n,); NO_FOLD where it is one
    answer for all. labels: the truth of the same images, as columns; used by class alone.
    by_class: the promise is kept within each class, not only over all (Mondrian). See `rare`.
    """

    classes: tuple[str, ...]
    level: float
    by_class: bool
    score: Score
    held: Mapping[int, Array]
    labels: Mapping[int, NDArray[np.int64]]

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level {self.level}: expected a share of cases above 0 and below 1, such as 0.99")
        if not self.held or {fold: len(one) for fold, one in self.held.items()} != {
            fold: len(one) for fold, one in self.labels.items()
        }:
            raise ValueError("a risk needs scores, and the label of each")

    @classmethod
    def fit(
        cls,
        labelled: LabelledPredictions,
        level: float,
        method: Method = "aps",
        by_class: bool = False,
        *,
        joint: bool = False,
        randomised: bool = True,
    ) -> Self:
        """From out-of-fold answers, as each fold gives them when it answers; samples whose label is no class are left
        out. `joint`: later there will be one answer to an image and not one a fold; so it is, too, where the samples
        were held out in one fold, or in none.

        "raps" sets its penalty and free ranks on a fifth of the images, which are not used for anything else: as many
        free ranks as hold the truth in a share `level` of them, and the penalty with the smallest sets. Raises
        ValueError when no label is known or the method or the level does not exist.
        """
        known = labelled.known
        if method not in METHODS:
            raise ValueError(f"method {method!r} does not exist; choose one of {', '.join(METHODS)}")
        if not len(known):
            raise ValueError("a risk is fitted on samples whose true class is known; none is")
        score = Score(randomised=randomised)
        if method == "raps":
            units = (group or id_ for id_, group in zip(known.ids, _groups(known), strict=True))
            tuned_N = _drawn(unit.encode(errors="surrogatepass") for unit in units)
            part_N = tuned_N < _TUNED_ON
            if 0 < part_N.sum() < len(known):
                score = _tuned(known.take(np.flatnonzero(part_N)), level, randomised)
                known = known.take(np.flatnonzero(~part_N))
        labels_N = known.labels_N
        scores_N = score.of(known.probabilities_NC)[np.arange(len(known)), labels_N]
        folds = np.unique(known.fold_N)
        alone = joint or len(folds) == 1 or NO_FOLD in folds
        held, labels = {}, {}
        for fold in [NO_FOLD] if alone else folds.tolist():
            rows = np.arange(len(known)) if alone else np.flatnonzero(known.fold_N == fold)
            rows = rows[np.argsort(scores_N[rows], kind="stable")]
            held[fold], labels[fold] = scores_N[rows], labels_N[rows]
        return cls(known.classes, level, by_class, score, held, labels)

    @property
    def images(self) -> int:
        """How many images the scores are of."""
        return sum(map(len, self.held.values()))

    @property
    def rare(self) -> tuple[str, ...]:
        """By class: the classes of too few images for a promise of their own (fewer than 1 / (1 - level) - 1), about
        which all images speak."""
        counts_C = self._counts()
        return tuple(name for name, count in zip(self.classes, counts_C, strict=True) if not self._enough(count))

    def sets(
        self, answers: Mapping[int, Predictions], answer: Predictions | None = None, abstain: bool = False
    ) -> list[tuple[str, ...]]:
        """For each sample the classes that may be the truth, likeliest first.

        answers: what each fold of `held` answers about the same samples, by its number; under NO_FOLD, or any number,
        where `held` has one. answer: what was made of them all, by which classes are ordered (else: their mean). Its
        likeliest class alone is the set where no class fits. abstain: a set of several classes becomes an empty one.

        Raises ValueError when a fold's answer is missing, or they are about other samples or classes.
        """
        asked = self._ordered(answers)
        first = next(iter(asked.values()))
        together = vote(list(asked.values())) if answer is None else answer
        p_NC = together.in_order(first.ids, self.classes).probabilities_NC
        scores = {fold: self.score.of(one.probabilities_NC) for fold, one in asked.items()}
        in_NC = self.fits(scores)
        order_NC = np.argsort(-p_NC, axis=1, kind="stable")
        in_NC[np.flatnonzero(~in_NC.any(1)), order_NC[~in_NC.any(1), 0]] = True
        if abstain:
            in_NC[in_NC.sum(1) > 1] = False
        names = np.array(self.classes, dtype=object)
        fits_NC = np.take_along_axis(in_NC, order_NC, 1)
        return [tuple(names[order_C[fits_C]]) for order_C, fits_C in zip(order_NC, fits_NC, strict=True)]

    def fits(self, scores: Mapping[int, Array]) -> NDArray[np.bool_]:
        """Which classes fit so well that they are in the sets, (N, C). scores: as for `p_values`."""
        return np.asarray(self.p_values(scores) > 1 - self.level + _ALMOST)

    def p_values(self, scores: Mapping[int, Array]) -> Array:
        """How much speaks for each class, (N, C): the share of images, this one included, that the truth fits no better
        than the class fits this one. scores: of each fold of `held`, (N, C)."""
        of_all_NC = self._p_values(scores, self.held)
        if self.by_class:
            for column, count in enumerate(self._counts()):
                if self._enough(count):
                    own = {fold: one[self.labels[fold] == column] for fold, one in self.held.items()}
                    of_class = {fold: scores_NC[:, column] for fold, scores_NC in scores.items()}
                    of_all_NC[:, column] = self._p_values(of_class, own)
        return of_all_NC

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "classes": list(self.classes),
            "level": self.level,
            "by_class": self.by_class,
            "score": dataclasses.asdict(self.score),
            "held": [
                {"fold": fold, "scores": one.tolist(), "labels": self.labels[fold].tolist()}
                for fold, one in self.held.items()
            ],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError when it is something else."""
        return cls(
            tuple(content["classes"]),
            float(content["level"]),
            bool(content["by_class"]),
            Score(**content["score"]),
            {int(one["fold"]): np.array(one["scores"], dtype=np.float64) for one in content["held"]},
            {int(one["fold"]): np.array(one["labels"], dtype=np.int64) for one in content["held"]},
        )

    @staticmethod
    def _p_values(scores: Mapping[int, Array], held: Mapping[int, Array]) -> Array:
        counts = [len(one) - np.searchsorted(one, scores[fold]) for fold, one in held.items()]
        return (1 + np.sum(counts, axis=0)) / (1 + sum(map(len, held.values())))

    def _counts(self) -> NDArray[np.int64]:
        return np.bincount(np.concatenate(list(self.labels.values())), minlength=len(self.classes))

    def _enough(self, count: int) -> bool:
        """Whether so many images can speak against a class at all."""
        return bool((count + 1) * (1 - self.level) > 1 - _ALMOST)

    def _ordered(self, answers: Mapping[int, Predictions]) -> dict[int, Predictions]:
        if len(self.held) == 1 and len(answers) == 1:
            answers = dict(zip(self.held, answers.values(), strict=True))
        if missing := [str(fold) for fold in self.held if fold not in answers]:
            raise ValueError(f"no answer of fold {some(missing)}, whose held-out images these sets are judged by")
        ids = answers[next(iter(self.held))].ids
        return {fold: answers[fold].in_order(ids, self.classes) for fold in self.held}


@dataclasses.dataclass(frozen=True)
class Threshold:
    """From which confidence (probability of the likeliest class) on an answer is given, so that a share `target` of
    those given are right. coverage, accuracy: of the samples that it was fitted on, how many are answered and how many
    of these rightly; honest_*: the same where each part has the threshold of the others, None where there are no parts.
    """

    target: float
    threshold: float
    coverage: float
    accuracy: float
    honest_coverage: float | None = None
    honest_accuracy: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises TypeError when it is something else."""
        return cls(**content)


def threshold_for(labelled: LabelledPredictions, accuracy: float, confidence: float = 0.95) -> Threshold | None:
    """The lowest threshold at which, sure to `confidence`, a share `accuracy` of the answers given is right; None where
    no threshold is high enough, or there are too few samples to be sure.

    Fifty coverages are tried, each against its share of the doubt (learn then test: Angelopoulos et al., 2021, with
    Bonferroni), by the exact bound of Clopper and Pearson. Where samples have groups it counts fewer samples, by how
    alike the errors of a group are (Korn and Graubard, "Confidence Intervals for Proportions With Small Expected Number
    of Positive Counts Estimated From Survey Data", Survey Methodology 24, 1998).

    Answers that several folds give together are right more often than the single ones that this is fitted on, and are
    less sure of themselves: then fewer are given than could be. Raises ValueError when no label is known, or the
    shares are not between 0 and 1.
    """
    if not (0 < accuracy < 1 and 0 < confidence < 1):
        raise ValueError(f"accuracy {accuracy}, confidence {confidence}: expected shares above 0 and below 1")
    known = labelled.known
    sure_N, right_N = _sure_and_right(known)
    alike = _alike(right_N, _groups(known))
    threshold = _threshold(sure_N, right_N, accuracy, confidence, alike)
    if threshold is None:
        return None
    given_N = sure_N >= threshold
    found = Threshold(accuracy, threshold, float(given_N.mean()), float(right_N[given_N].mean()))
    try:
        part_N = parts_of(known)
    except ValueError:
        return found
    honest_N = np.zeros(len(known), dtype=bool)
    for part in np.unique(part_N):
        others_N = part_N != part
        of_others = _threshold(sure_N[others_N], right_N[others_N], accuracy, confidence, alike)
        honest_N[~others_N] = of_others is not None and sure_N[~others_N] >= of_others
    right = float(right_N[honest_N].mean()) if honest_N.any() else None
    return dataclasses.replace(found, honest_coverage=float(honest_N.mean()), honest_accuracy=right)


@dataclasses.dataclass(frozen=True, eq=False)
class RiskCoverage:
    """What it costs to answer more: for each confidence that occurs, highest first, (K,), which share of the samples is
    answered from there on and which share of these wrongly. area: mean risk over all coverages (AURC: Geifman, Uziel,
    El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019)."""

    threshold_K: Array
    coverage_K: Array
    risk_K: Array
    area: float


def risk_coverage(labelled: LabelledPredictions) -> RiskCoverage:
    """The curve of answers given by falling confidence. Raises ValueError when no label is known."""
    sure_N, right_N = _sure_and_right(labelled.known)
    order_N = np.argsort(-sure_N, kind="stable")
    sure_N, wrong_N = sure_N[order_N], np.cumsum(~right_N[order_N])
    last_K = np.flatnonzero(np.append(sure_N[1:] != sure_N[:-1], True))  # equals are answered together
    given_K = last_K + 1
    risk_K = wrong_N[last_K] / given_K
    area = float(np.sum(risk_K * np.diff(given_K, prepend=0)) / len(sure_N))
    return RiskCoverage(sure_N[last_K], given_K / len(sure_N), risk_K, area)


def _tuned(part: LabelledPredictions, level: float, randomised: bool) -> Score:
    p_NC, labels_N, rows_N = part.probabilities_NC, part.labels_N, np.arange(len(part))
    order_NC = np.argsort(-p_NC, axis=1, kind="stable")
    rank_N = (order_NC == labels_N[:, None]).argmax(1) + 1
    free = int(np.quantile(rank_N, level, method="inverted_cdf"))

    def size(score: Score) -> float:
        scores_NC = score.of(p_NC)
        return float((scores_NC <= np.quantile(scores_NC[rows_N, labels_N], level, method="higher")).sum(1).mean())

    return min((Score(penalty, free, randomised) for penalty in _PENALTIES), key=size)


def _threshold(
    sure_N: Array, right_N: NDArray[np.bool_], accuracy: float, confidence: float, alike: float
) -> float | None:
    from scipy.stats import beta

    order_N = np.argsort(-sure_N, kind="stable")
    places_K = -(-len(sure_N) * np.arange(1, _STEPS + 1) // _STEPS) - 1
    threshold_K = sure_N[order_N][places_K]
    given_K = np.searchsorted(-sure_N[order_N], -threshold_K, side="right")  # equals are answered together
    right_K = np.cumsum(right_N[order_N])[given_K - 1]
    wrong_K = given_K - right_K
    least_K = beta.ppf((1 - confidence) / _STEPS, np.maximum(right_K, 1) / alike, wrong_K / alike + 1)
    good = np.flatnonzero((right_K > 0) & (least_K >= accuracy))
    return float(threshold_K[good[-1]]) if len(good) else None


def _alike(right_N: NDArray[np.bool_], groups: Sequence[str]) -> float:
    """The design effect: how many samples say as much as one that stands alone; 1 or more. Where all is right or all
    is wrong, a group is one."""
    named = [f"g{group}" if group else f"s{row}" for row, group in enumerate(groups)]
    group_N = np.unique(named, return_inverse=True)[1]
    away_N = right_N - right_N.mean()
    alone = float(np.sum(away_N**2))
    if alone == 0:
        return len(group_N) / (int(group_N.max()) + 1)
    return max(1.0, float(np.sum(np.bincount(group_N, away_N) ** 2)) / alone)


def _sure_and_right(known: LabelledPredictions) -> tuple[Array, NDArray[np.bool_]]:
    if not len(known):
        raise ValueError("how often answers are right is told by samples whose true class is known; none is")
    p_NC = known.probabilities_NC.astype(np.float64)
    return p_NC.max(1), p_NC.argmax(1) == known.labels_N


def _groups(labelled: LabelledPredictions) -> Sequence[str]:
    return labelled.groups or [""] * len(labelled)


def _drawn(contents: Iterable[bytes]) -> Array:
    """A number from 0 to 1 for each content, (N,), evenly spread: the same wherever it is met."""
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.frombuffer(b"".join(digests), dtype="<u8") / 2.0**64
