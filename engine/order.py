"""Which samples make up which batch: pure functions, so that nothing has to be saved to go on where a run stopped.

An epoch's order is addressed by (seed, epoch), never by how many numbers were drawn before. It is the sort order of raw
Philox words and not numpy's `permutation`, because the words of a bit generator are promised to stay the same in every
numpy version and the methods of a Generator are not.

The order is cut into *global* batches first and each is then divided over the ranks, so that a step sees the same
samples on one rank or on eight. (mosaicml/streaming keeps its shuffle pure in the same way.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.recipe.sections import SamplingSection

Rows = NDArray[np.int64]
Pair = tuple[int, int, int]  # two classes and how often one was taken for the other
_ORDER = 0x6F72646572  # b"order": other uses of the same seed and epoch draw other numbers
_PLACES = 0x706C61636573  # b"places"
_OFFSET = 0x6F6666736574  # b"offset"
_PAIRS = 0x7061697273  # b"pairs"
_MINGLE = 0x6D696E676C65  # b"mingle"


def epoch_order(rows_N: Rows, seed: int, epoch: int) -> Rows:
    """`rows_N` shuffled, pure in (rows_N, seed, epoch)."""
    return rows_N[_shuffle(len(rows_N), _ORDER, seed, epoch)]


def epoch_batches(
    rows_N: Rows, batch: int, seed: int, epoch: int, rank: int = 0, world: int = 1, drop_last: bool = True
) -> list[Rows]:
    """The batches that `rank` of `world` trains on in one epoch, `batch` rows each; all ranks get equally many.

    The ranks' n-th batches, put together in the order of the ranks, are the n-th batch that one rank would draw with
    `batch * world`. With `drop_last` every batch is full, so that shapes stay constant for a compiled step: the up to
    `batch * world - 1` rows left over wait for another epoch, which leaves out others; when there are fewer rows than
    one global batch, they are repeated to fill it. Without it, what is left over is spread over the ranks as evenly
    as it goes (a rank may get no rows of it) and each row comes exactly once.

    Raises ValueError for no rows, a batch below 1, or a rank that is not in the world.
    """
    _check(batch, rank, world)
    if not len(rows_N):
        raise ValueError("rows_N: no rows to draw batches from")
    whole = batch * world
    order_N = epoch_order(rows_N, seed, epoch)
    if drop_last:
        order_N = np.resize(order_N, _count(len(order_N), whole) * whole)  # cuts, or repeats from the start
    return [np.array_split(order_N[at : at + whole], world)[rank] for at in range(0, len(order_N), whole)]


def eval_batches(rows_N: Rows, batch: int, rank: int = 0, world: int = 1) -> list[Rows]:
    """Every row once, in the order given: `rank` takes each `world`-th batch. The last batch may be short, ranks may
    differ by one batch, and no rows make no batches. Raises ValueError as `epoch_batches` does."""
    _check(batch, rank, world)
    return [rows_N[at : at + batch] for at in range(rank * batch, len(rows_N), world * batch)]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The batches of training epochs: which rows, how often, and in whose company.

    `rows_N` are the rows to train on of `labels_M`, the class indices of all samples; `boost_C` multiplies how often
    each class is drawn (None: as 1 for all).
    """

    rows_N: Rows
    labels_M: Rows
    section: SamplingSection
    seed: int
    boost_C: NDArray[np.float64] | None = None

    def steps(self, batch: int) -> int:
        """Batches of `batch` rows in an epoch, at least one."""
        return _count(len(self.rows_N), batch)

    def epoch(
        self, epoch: int, batch: int, rank: int = 0, world: int = 1, pairs: Sequence[Pair] = ()
    ) -> list[NDArray[np.int64]]:
        """The batches of *draws* for `rank`: as `epoch_batches`, but a row that comes again in the epoch has another
        number: draw = row + M * (how often it came before). Pure in the arguments and the sampler.

        With `pairs`, `hard_share` of the batches, at random places, are made of them: two by two, a row of the one
        class and one of the other, pairs by how often they were confused. Raises ValueError as `epoch_batches` does.
        """
        _check(batch, rank, world)
        whole = batch * world
        steps = self.steps(whole)
        rows_SB = np.resize(self._order(epoch), (steps, whole))  # cuts, or repeats from the start
        there = set(self.labels_M[self.rows_N].tolist())
        pairs = [pair for pair in pairs if pair[0] in there and pair[1] in there]
        if pairs and self.section.hard_pairs:
            hard = max(1, round(self.section.hard_share * steps))
            places = _shuffle(steps, _PLACES, self.seed, epoch)[:hard]
            rows_SB[places] = self._hard(epoch, hard, whole, pairs)
        draws_SB = rows_SB + len(self.labels_M) * _times_before(rows_SB.reshape(-1)).reshape(rows_SB.shape)
        return [draws_B[rank * batch : (rank + 1) * batch] for draws_B in draws_SB]

    def _order(self, epoch: int) -> Rows:
        """As many rows as there are, in the proportions asked for, shuffled."""
        if self.section.power == 0 and (self.boost_C is None or (self.boost_C == 1).all()):
            return epoch_order(self.rows_N, self.seed, epoch)
        rows_N = self._by_class(epoch)
        drawn_N = _in_proportion(self._weights()[self.labels_M[rows_N]], len(rows_N), self._word(_OFFSET, epoch))
        return rows_N[drawn_N][_shuffle(len(drawn_N), _MINGLE, self.seed, epoch)]

    def _by_class(self, epoch: int) -> Rows:
        """The rows sorted by class, in a random order of the epoch within each."""
        shuffled_N = epoch_order(self.rows_N, self.seed, epoch)
        return shuffled_N[np.argsort(self.labels_M[shuffled_N], kind="stable")]

    def _weights(self) -> NDArray[np.float64]:
        """How often a row of each class is drawn, in proportion."""
        counts_C = np.bincount(self.labels_M[self.rows_N])
        weights_C = np.maximum(counts_C, 1).astype(np.float64) ** -self.section.power
        return weights_C if self.boost_C is None else weights_C * self.boost_C[: len(counts_C)]

    def _hard(self, epoch: int, batches: int, size: int, pairs: Sequence[Pair]) -> Rows:
        """(batches, size) rows, pair by pair of classes, pairs as often as they were confused."""
        rows_N = self._by_class(epoch)
        counts_C = np.bincount(self.labels_M[rows_N])
        first_C = np.cumsum(counts_C) - counts_C  # where each class begins in rows_N
        slots = batches * -(-size // 2)
        confused_P = np.array([count for _, _, count in pairs], dtype=np.float64)
        drawn_S = _in_proportion(confused_P, slots, self._word(_OFFSET, epoch))
        drawn_S = drawn_S[_shuffle(slots, _PAIRS, self.seed, epoch)]
        classes_S2 = np.array([(a, b) for a, b, _ in pairs], dtype=np.int64)[drawn_S]
        # Each class deals its rows in turn, and begins again when it has none left.
        dealt_S2 = _times_before(classes_S2.reshape(-1)).reshape(-1, 2) % counts_C[classes_S2]
        return rows_N[first_C[classes_S2] + dealt_S2].reshape(batches, -1)[:, :size]

    def _word(self, use: int, epoch: int) -> float:
        """A uniform number from 0 to 1."""
        return float(_words(1, use, self.seed, epoch)[0]) / 2**64


def _in_proportion(weights_N: NDArray[np.float64], count: int, offset: float) -> Rows:
    """`count` indices, each as often as its share of the weights says, rounded up or down (systematic sampling: an even
    comb is laid over the cumulated weights; Madow 1949). `offset`, from 0 to 1, moves the comb."""
    edges_N = np.cumsum(weights_N) * (count / weights_N.sum())
    return np.minimum(np.searchsorted(edges_N, np.arange(count) + offset, side="right"), len(weights_N) - 1)


def _times_before(values_N: Rows) -> Rows:
    """How often each value stands in the array before its place."""
    order_N = np.argsort(values_N, kind="stable")
    sorted_N = values_N[order_N]
    starts_N = np.searchsorted(sorted_N, sorted_N, side="left")
    before_N = np.empty_like(values_N)
    before_N[order_N] = np.arange(len(values_N)) - starts_N
    return before_N


def _shuffle(count: int, use: int, seed: int, epoch: int) -> Rows:
    """0 to `count` - 1 in an order that is pure in the arguments."""
    return np.argsort(_words(count, use, seed, epoch), kind="stable")


def _words(count: int, use: int, seed: int, epoch: int) -> NDArray[np.uint64]:
    return np.random.Philox(np.random.SeedSequence((use, seed, epoch))).random_raw(count)


def _count(rows: int, batch: int) -> int:
    """Full batches in so many rows, at least one."""
    return max(1, rows // batch)


def _check(batch: int, rank: int, world: int) -> None:
    if batch < 1:
        raise ValueError(f"batch: {batch}, expected at least 1")
    if not 0 <= rank < world:
        raise ValueError(f"rank: {rank} of {world}, expected 0 to world - 1")
