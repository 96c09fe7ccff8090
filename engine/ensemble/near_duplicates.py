"""Near-duplicates of training images, met when new images are answered: such an answer is remembered and not known, and
a score that was measured on such images says little.

They are found in the embedding, among the neighbours that are searched for anyway. A cosine above a threshold is the
obvious rule, but how near two different photos of one kind lie depends on the network. What does not is how an image's
nearest neighbour compares with its tenth (Lowe 2004, "Distinctive Image Features", the ratio test): a copy is far
nearer to its original than to anything else.

Perceptual hashes, by which duplicates within the training data are found (`data.near`), see copies that were saved or
resized anew just as well, and those that were turned better, but no copy that was cropped by a twentieth; and each new
image would have to be decoded once more for them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.ensemble.neighbours import Found
from engine.text import count

OF = 10  # with which neighbour the nearest is compared: up to nine copies of an image in training are allowed for
RATIO = 0.3  # of their distances (1 - cosine), up to which the nearest is a near-duplicate


@dataclasses.dataclass(frozen=True, eq=False)
class NearDuplicates:
    """For each of N images the id of the training image that it is a near-duplicate of, "" for none, and the cosine of
    the two (the mean over the folds that say so; NaN for none)."""

    ids: tuple[str, ...]
    training: tuple[str, ...]
    cosine_N: NDArray[np.float64]

    @property
    def columns(self) -> dict[str, pa.Array]:
        """As predictions.parquet holds it: `near`, the training image."""
        return {"near": pa.array(self.training, pa.string())}

    @property
    def told(self) -> str:
        """In words; "" when there are none."""
        rows = [row for row, name in enumerate(self.training) if name]
        if not rows:
            return ""
        first = max(rows, key=lambda row: (self.cosine_N[row], -row))
        verb = "is a near-duplicate of a training image" if len(rows) == 1 else "are near-duplicates of training images"
        return f"{count(rows, 'image')} {verb}, such as {self.ids[first]} of {self.training[first]}"


def near_duplicates(folds: Sequence[Found], ratio: float = RATIO) -> NearDuplicates:
    """Which images are near-duplicates, by what was found in each fold's bank: at least half of the folds must name
    the same training image, which is in the banks of all folds but one. Of a search for fewer than OF neighbours, or in
    a bank of fewer, nothing is said."""
    first = folds[0]
    named = [_named(found.of(first.ids), ratio) for found in folds]
    cosine_FN = np.array([found.of(first.ids).cosines_NK[:, 0] for found in folds])
    training, cosines = [], np.full(len(first), np.nan)
    for row in range(len(first)):
        votes = Counter(name for names in named if (name := names[row]))
        best, times = max(votes.items(), key=lambda item: item[1], default=("", 0))
        if 2 * times < len(folds):
            best = ""
        training.append(best)
        if best:
            cosines[row] = cosine_FN[[names[row] == best for names in named], row].mean()
    return NearDuplicates(first.ids, tuple(training), cosines)


def _named(found: Found, ratio: float) -> list[str]:
    """For each image its nearest neighbour where it is a near-duplicate, else ""."""
    if found.cosines_NK.shape[1] < OF:
        return [""] * len(found)
    distance_NK = 1 - found.cosines_NK
    near_N = distance_NK[:, 0] < ratio * distance_NK[:, OF - 1]
    return [name if near else "" for name, near in zip(found.nearest, near_N.tolist(), strict=True)]
