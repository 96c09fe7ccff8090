"""Neighbours: a photo's class is also what the training photos are that lie nearest to it in the fold's own embedding.

A network's last layer draws one border for all; neighbours see what is rare, or of two kinds under one name (Papernot &
McDaniel 2018, "Deep k-Nearest Neighbors"; Khandelwal et al. 2020, "Generalization through Memorization", whose blend
this is). Each fold has a bank of the images that it was trained on, and so never one of those that it is judged by.

The search is exact (`nearest`), so that an answer does not depend on what was asked along with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from engine.ensemble.nearest import FAISS_FROM, nearest_by_faiss, nearest_of_all
from engine.ensemble.nested import Apply, honest
from engine.predictions import LabelledPredictions, Predictions
from engine.store.bank import Bank
from engine.text import some

SHARPNESS = (0.0, 3.0, 10.0, 30.0)  # tried when fitting; by cosines from -1 to 1

_CLIP = 1e-15  # below which a probability's logarithm is not told apart

P = TypeVar("P", bound=Predictions)


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The K nearest images of a fold's bank to each of N images, nearest first.

    labels_NK: int64, columns of `classes`. cosines_NK: float64. nearest: the id of the nearest.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels_NK: NDArray[np.int64]
    cosines_NK: NDArray[np.float64]
    nearest: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: Sequence[str]) -> Self:
        """What was found for these images. Raises KeyError for one that was not asked about."""
        place = {id_: row for row, id_ in enumerate(self.ids)}
        rows = [place[id_] for id_ in ids]
        return dataclasses.replace(
            self,
            ids=tuple(ids),
            labels_NK=self.labels_NK[rows],
            cosines_NK=self.cosines_NK[rows],
            nearest=tuple(self.nearest[row] for row in rows),
        )

    def votes(self, classes: Sequence[str], ks: Sequence[int], sharpness: float) -> NDArray[np.float64]:
        """The shares of the classes among the k nearest, the mean over `ks`, (N, C) in the order of `classes`; rows sum
        to 1. A neighbour counts exp(sharpness * (its cosine - the nearest one's)): the same for all where that is 0."""
        column_C = np.array([list(classes).index(name) for name in self.classes], dtype=np.int64)
        weight_NK = self._weights(sharpness)
        wanted = self._within(ks)
        sums_NC, shares_NC = (np.zeros((len(self), len(classes))) for _ in range(2))
        total_N1 = np.zeros((len(self), 1))
        for rank in range(max(wanted)):  # one after the other: a rounded sum has an order
            sums_NC[np.arange(len(self)), column_C[self.labels_NK[:, rank]]] += weight_NK[:, rank]
            total_N1 += weight_NK[:, rank, None]
            shares_NC += wanted.count(rank + 1) / len(wanted) * (sums_NC / total_N1)
        return shares_NC

    def own_shares(self, labels: Sequence[str], ks: Sequence[int], sharpness: float) -> NDArray[np.float64]:
        """For each of `ks` alone the share of an image's own class, (ks, N): that column of `votes`, at less cost."""
        weight_NK = self._weights(sharpness)
        label_N = np.array([self.classes.index(label) for label in labels], dtype=np.int64)
        own_NK = np.cumsum(weight_NK * (self.labels_NK == label_N[:, None]), axis=1) / np.cumsum(weight_NK, axis=1)
        return own_NK[:, np.array(self._within(ks)) - 1].T

    def _weights(self, sharpness: float) -> NDArray[np.float64]:
        return torch.from_numpy(sharpness * (self.cosines_NK - self.cosines_NK[:, :1])).exp().numpy()

    def _within(self, ks: Sequence[int]) -> list[int]:
        """No more than were found: a bank may have fewer."""
        return [min(k, self.labels_NK.shape[1]) for k in ks]


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """How a fold's answer and its neighbours' become one: (1 - weight) of the former and `weight` of `Found.votes`."""

    ks: tuple[int, ...]
    sharpness: float
    weight: float

    @property
    def most(self) -> int:
        """How many to search for."""
        return max(self.ks)

    @classmethod
    def fit(cls, answers: LabelledPredictions, found: Found, ks: Sequence[int]) -> Self:
        """What makes the log loss of out-of-fold answers least: each of `ks` alone and all together, at some degrees of
        sharpness, each with the weight that suits it best. Where no weight gains, it is 0.

        Samples whose label is no class are left out. Raises ValueError when no label is known.
        """
        known = answers.known
        if not len(known):
            raise ValueError("neighbours are weighed by samples whose true class is known; none is")
        own_N = known.probabilities_NC[np.arange(len(known)), known.labels_N].astype(np.float64)
        mine = found.of(known.ids)
        best = (_loss(own_N), cls(tuple(ks), 0.0, 0.0))
        for sharpness in SHARPNESS:
            shares_SN = mine.own_shares(known.labels, ks, sharpness)
            tried = [((k,), share_N) for k, share_N in zip(ks, shares_SN, strict=True)]
            for some_ks, share_N in [*tried, (tuple(ks), shares_SN.mean(0))]:
                weight, loss = _best_weight(own_N, share_N)
                if loss < best[0]:
                    best = (loss, cls(some_ks, sharpness, weight))
        return best[1]

    def apply(self, answers: P, found: Found) -> P:
        """The same samples, with the neighbours heard: float64. Logits and features, which are no longer those of these
        probabilities, are left out. Raises KeyError for a sample that was not searched for."""
        mine = found.of(answers.ids)
        votes_NC = mine.votes(answers.classes, self.ks, self.sharpness)
        told_NC = (1 - self.weight) * answers.probabilities_NC.astype(np.float64) + self.weight * votes_NC
        return dataclasses.replace(answers, probabilities_NC=told_NC, logits_NC=None, features_NE=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"ks": list(self.ks), "sharpness": self.sharpness, "weight": self.weight}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises KeyError, TypeError or ValueError when it is something else."""
        made = cls(tuple(map(int, content["ks"])), float(content["sharpness"]), float(content["weight"]))
        if min(made.ks) < 1 or not 0 <= made.weight <= 1 or not 0 <= made.sharpness < np.inf:
            raise ValueError(f"neighbours {dict(content)}")
        return made


def honestly(answers: LabelledPredictions, found: Found, ks: Sequence[int]) -> LabelledPredictions:
    """Out-of-fold answers as they become when neighbours are heard by what was fitted on other samples."""

    def fit(candidates: Sequence[LabelledPredictions]) -> Apply:
        fitted = Neighbours.fit(candidates[0], found, ks)
        return lambda asked: fitted.apply(asked[0], found)

    return honest([answers], fit)


def _loss(own_N: NDArray[np.float64]) -> float:
    return float(-np.log(np.maximum(own_N, _CLIP)).mean())


def _best_weight(own_N: NDArray[np.float64], share_N: NDArray[np.float64]) -> tuple[float, float]:
    """The weight of the neighbours, and the log loss with it, of the probabilities that either gives to the truth. The
    loss is convex in the weight, so there is one."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda weight: _loss((1 - weight) * own_N + weight * share_N), bounds=(0, 1), method="bounded"
    )
    return float(found.x), float(found.fun)


# --- the embedding, and the search ------------------------------------------------------------------------------------


def embedding(members: Sequence[Predictions]) -> NDArray[np.float16]:
    """A fold's embedding of images, (N, E), of length 1: that of its models (kept epochs), each of length 1, side by
    side, so that a cosine is the mean of theirs. The models' predictions have features, of the same ids.

    Raises ValueError when they have none.
    """
    parts = []
    for one in members:
        features_NE = one.in_order(members[0].ids, one.classes).features_NE
        if features_NE is None:
            raise ValueError("predictions without features: have the models asked for them")
        parts.append(_of_length_one(features_NE.astype(np.float64)))
    return (np.concatenate(parts, axis=1) / np.sqrt(len(parts))).astype(np.float16)


def embedded(answer: P, members: Sequence[Predictions]) -> P:
    """A fold's answer with its embedding as its features, by which `search` looks."""
    ordered = [one.in_order(answer.ids, one.classes) for one in members]
    return dataclasses.replace(answer, features_NE=embedding(ordered))


def _of_length_one(vectors_NE: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors of 0 stay."""
    length_N1 = np.sqrt(np.square(vectors_NE).sum(1, keepdims=True))
    return vectors_NE / np.where(length_N1 > 0, length_N1, 1.0)


def search(asked: Predictions, bank: Bank, k: int, device: torch.device | None = None, without: str = "") -> Found:
    """The k nearest of the bank to each image by the cosine of their embeddings (see `embedded`), exactly; memory is
    bounded but for the bank itself. `without` a class of the bank, as if there were none of it.

    Raises ValueError when the embeddings are of different sizes.
    """
    features_NE = asked.features_NE
    if features_NE is None or features_NE.shape[1] != bank.features_BE.shape[1]:
        size = None if features_NE is None else features_NE.shape[1]
        raise ValueError(f"embeddings of {size} numbers are asked about in a bank of {bank.features_BE.shape[1]}")
    if without:
        kept_B = np.flatnonzero(bank.labels_B != bank.classes.index(without))
        bank = Bank(
            tuple(bank.ids[row] for row in kept_B), bank.classes, bank.labels_B[kept_B], bank.features_BE[kept_B]
        )
    k = min(k, len(bank))
    bank_BE = torch.from_numpy(bank.features_BE).to(device)
    asked_NE = torch.from_numpy(np.ascontiguousarray(features_NE, dtype=np.float16)).to(device)
    by_faiss = len(bank) >= FAISS_FROM and bank_BE.device.type == "cpu" and find_spec("faiss") is not None
    place_NK, cosine_NK = (nearest_by_faiss if by_faiss else nearest_of_all)(asked_NE, bank_BE, k)
    nearest = tuple(bank.ids[place] for place in place_NK[:, 0]) if k else ("",) * len(asked)
    return Found(asked.ids, bank.classes, bank.labels_B[place_NK], cosine_NK, nearest)


def search_out_of_fold(
    answers: LabelledPredictions,
    banks: Mapping[int, Bank],
    k: int,
    device: torch.device | None = None,
    without: str = "",
) -> Found:
    """`search` for out-of-fold answers, each in the bank of the fold that held it out; ordered as they are.

    Raises ValueError when a fold's bank holds an image that the fold is asked about.
    """
    parts = []
    for fold in np.unique(answers.fold_N).tolist():
        asked, bank = answers.take(np.flatnonzero(answers.fold_N == fold)), banks[fold]
        if own := set(asked.ids) & set(bank.ids):
            raise ValueError(f"the bank of fold {fold} holds {some(sorted(own))}, which the fold held out")
        parts.append(search(asked, bank, k, device, without))
    return _joined(parts).of(answers.ids)


def _joined(parts: Sequence[Found]) -> Found:
    """What was found in several banks, whose classes are the same, as one; as wide as the narrowest."""
    first = parts[0]
    width = min(part.labels_NK.shape[1] for part in parts)
    labels = []
    for part in parts:
        if set(part.classes) != set(first.classes):
            raise ValueError("banks of different classes; search only those of one run together")
        column_C = np.array([first.classes.index(name) for name in part.classes], dtype=np.int64)
        labels.append(column_C[part.labels_NK[:, :width]])
    return Found(
        ids=tuple(id_ for part in parts for id_ in part.ids),
        classes=first.classes,
        labels_NK=np.concatenate(labels),
        cosines_NK=np.concatenate([part.cosines_NK[:, :width] for part in parts]),
        nearest=tuple(id_ for part in parts for id_ in part.nearest),
    )
