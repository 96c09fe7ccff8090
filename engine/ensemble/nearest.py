"""The nearest of many vectors by cosine, exactly: the same to the last bit whatever the batch, the order, the machine
and the number of threads.

Vectors are float16 and of length 1. A product of two float16 is a multiple of 2^-48, and a sum of such products of unit
vectors stays below 2, so all of it has room in float64's 53 bits: nothing is ever rounded, and a sum in which nothing
is rounded has no order. The obvious other way, float32, is faster and decides by its rounding who of two is nearer.

Of equally near vectors the first is nearer.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FAISS_FROM = 200_000  # vectors to search, from which on faiss is asked where it is installed

_AT_ONCE = 256  # vectors asked about, and
_ROWS = 1 << 14  # vectors that they are compared with, together: 32 MiB of cosines
_EXACT = 2.0**48  # cosines are multiples of its inverse
_SPARE = 64  # more candidates than are wanted, among which float32 may have put them in another order
_ROUNDED = 2.0**-26  # what float32 may be off by for each term: a rounding of 2^-24, added up in four or more sums
_GATHERED = 32  # vectors asked about whose candidates are compared together: up to some 100 MB

Places = NDArray[np.int64]
Cosines = NDArray[np.float64]


def nearest_of_all(asked_NE: Tensor, bank_BE: Tensor, k: int) -> tuple[Places, Cosines]:
    """The k nearest of the bank to each vector, nearest first: their places and cosines, (N, k). Both are float16 and
    on one device; k is at most the size of the bank. Every vector is compared with every other, a bounded number at a
    time."""
    places, cosines = [np.zeros((0, k), np.int64)], [np.zeros((0, k))]
    for asked_QE in asked_NE.split(_AT_ONCE):
        place_QK, cosine_QK = _nearest(asked_QE.double(), bank_BE, k)
        places.append(place_QK.cpu().numpy())
        cosines.append(cosine_QK.cpu().numpy())
    return np.concatenate(places), np.concatenate(cosines)


def nearest_by_faiss(asked_NE: Tensor, bank_BE: Tensor, k: int) -> tuple[Places, Cosines]:
    """The same, on the CPU, of candidates that faiss names by float32 (Douze et al. 2024, "The Faiss library"), with
    room for its rounding; where that does not settle who is among the nearest, of all.

    The bank is held once more, as float32. Raises ImportError without faiss.
    """
    import faiss

    index = faiss.IndexFlatIP(bank_BE.shape[1])
    for rows_RE in bank_BE.split(_ROWS):
        index.add(rows_RE.float().numpy())
    places, cosines = [np.zeros((0, k), np.int64)], [np.zeros((0, k))]
    for asked_QE in asked_NE.split(_AT_ONCE):
        near_QS, candidate_QS = index.search(asked_QE.float().numpy(), min(k + _SPARE, len(bank_BE)))
        place_QK, cosine_QK = _of_candidates(asked_QE, bank_BE, candidate_QS, k)
        if near_QS.shape[1] < len(bank_BE):
            could_Q = near_QS[:, -1] + _ROUNDED * bank_BE.shape[1] >= cosine_QK[:, -1]
            unsettled = np.flatnonzero(could_Q)  # one that is no candidate may be as near
            place_QK[unsettled], cosine_QK[unsettled] = nearest_of_all(asked_QE[unsettled], bank_BE, k)
        places.append(place_QK)
        cosines.append(cosine_QK)
    return np.concatenate(places), np.concatenate(cosines)


def _of_candidates(asked_QE: Tensor, bank_BE: Tensor, candidate_QS: Places, k: int) -> tuple[Places, Cosines]:
    """The k nearest of each vector's own candidates, given by place."""
    candidate_QS.sort(axis=1)  # of equally near ones the first is nearer
    parts = []
    for asked_GE, candidate_GS in zip(
        asked_QE.split(_GATHERED), torch.from_numpy(candidate_QS).split(_GATHERED), strict=True
    ):
        cosine_GS = torch.bmm(bank_BE[candidate_GS].double(), asked_GE.double()[:, :, None])[:, :, 0]
        order_GK = cosine_GS.sort(dim=1, descending=True, stable=True).indices[:, :k]
        parts.append((candidate_GS.gather(1, order_GK), cosine_GS.gather(1, order_GK)))
    return torch.cat([places for places, _ in parts]).numpy(), torch.cat([cosines for _, cosines in parts]).numpy()


def _nearest(asked_QE: Tensor, bank_BE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Places and cosines, (Q, k)."""
    device = asked_QE.device
    scaled_QK = torch.zeros(len(asked_QE), 0, dtype=torch.int64, device=device)
    place_QK = scaled_QK
    for start in range(0, len(bank_BE), _ROWS):
        rows_RE = bank_BE[start : start + _ROWS].double()
        scaled_QR = ((asked_QE @ rows_RE.T) * _EXACT).long()  # whole numbers already
        # One number for how near and, of equals, which is first: no two are equal, so topk has nothing to decide.
        from_last_R = _ROWS - 1 - torch.arange(len(rows_RE), device=device)
        best_QT = (scaled_QR * _ROWS + from_last_R).topk(min(k, len(rows_RE)), dim=1).values
        scaled_QK = torch.cat([scaled_QK, best_QT.div(_ROWS, rounding_mode="floor")], dim=1)
        place_QK = torch.cat([place_QK, start + _ROWS - 1 - best_QT.remainder(_ROWS)], dim=1)
        order_QK = scaled_QK.sort(dim=1, descending=True, stable=True).indices[:, :k]
        scaled_QK, place_QK = scaled_QK.gather(1, order_QK), place_QK.gather(1, order_QK)
    return place_QK, scaled_QK.double() / _EXACT
