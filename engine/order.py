"""Which samples make up which batch: pure functions, so that nothing has to be saved to go on where a run stopped.

An epoch's order is addressed by (seed, epoch), never by how many numbers were drawn before. It is the sort order of raw
Philox words and not numpy's `permutation`, because the words of a bit generator are promised to stay the same in every
numpy version and the methods of a Generator are not.

The order is cut into *global* batches first and each is then divided over the ranks, so that a step sees the same
samples on one rank or on eight. (mosaicml/streaming keeps its shuffle pure in the same way.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_ORDER = 0x6F72646572  # b"order": other uses of the same seed and epoch draw other numbers


def epoch_order(rows_N: Rows, seed: int, epoch: int) -> Rows:
    """`rows_N` shuffled, pure in (rows_N, seed, epoch)."""
    words_N = np.random.Philox(np.random.SeedSequence((_ORDER, seed, epoch))).random_raw(len(rows_N))
    return rows_N[np.argsort(words_N, kind="stable")]


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
        kept = max(whole, len(order_N) // whole * whole)
        order_N = np.resize(order_N, kept)  # cuts, or repeats from the start
    return [np.array_split(order_N[at : at + whole], world)[rank] for at in range(0, len(order_N), whole)]


def eval_batches(rows_N: Rows, batch: int, rank: int = 0, world: int = 1) -> list[Rows]:
    """Every row once, in the order given: `rank` takes each `world`-th batch. The last batch may be short, ranks may
    differ by one batch, and no rows make no batches. Raises ValueError as `epoch_batches` does."""
    _check(batch, rank, world)
    return [rows_N[at : at + batch] for at in range(rank * batch, len(rows_N), world * batch)]


def _check(batch: int, rank: int, world: int) -> None:
    if batch < 1:
        raise ValueError(f"batch: {batch}, expected at least 1")
    if not 0 <= rank < world:
        raise ValueError(f"rank: {rank} of {world}, expected 0 to world - 1")
