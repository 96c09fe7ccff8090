"""Order: pure, complete, shared out without overlap, the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.order import epoch_batches, epoch_order, eval_batches

rows_strategy = st.lists(st.integers(0, 10**6), min_size=1, max_size=80, unique=True).map(
    lambda rows: np.array(rows, dtype=np.int64)
)
seeds = st.integers(0, 2**31 - 1)
epochs = st.integers(0, 1000)
Rows = np.ndarray


@given(rows_strategy, seeds, epochs)
def test_an_epoch_is_a_permutation_and_pure(rows_N: Rows, seed: int, epoch: int) -> None:
    before = rows_N.copy()
    order_N = epoch_order(rows_N, seed, epoch)
    assert sorted(order_N) == sorted(rows_N)
    epoch_order(rows_N, seed, epoch + 1)
    assert epoch_order(rows_N, seed, epoch).tolist() == order_N.tolist()
    assert rows_N.tolist() == before.tolist()


def test_epochs_and_seeds_differ() -> None:
    rows_N = np.arange(50)
    orders = {tuple(epoch_order(rows_N, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_every_place_in_the_order_is_equally_likely() -> None:
    # Over 3,000 epochs each of 6 rows is first about 500 times (standard deviation 20).
    first = [epoch_order(np.arange(6), 3, epoch)[0] for epoch in range(3000)]
    assert np.abs(np.bincount(first, minlength=6) - 500).max() < 100


def test_the_order_is_the_one_of_every_numpy_version() -> None:
    assert epoch_order(np.arange(8), 1, 2).tolist() == [5, 7, 3, 1, 4, 2, 0, 6]


@given(rows_strategy, st.integers(1, 6), seeds, epochs, st.integers(1, 5), st.booleans())
def test_a_step_sees_the_same_samples_on_any_number_of_ranks(
    rows_N: Rows, batch: int, seed: int, epoch: int, world: int, drop_last: bool
) -> None:
    alone = epoch_batches(rows_N, batch * world, seed, epoch, drop_last=drop_last)
    ranks = [epoch_batches(rows_N, batch, seed, epoch, rank, world, drop_last) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(alone)}
    for step, whole in enumerate(alone):
        assert np.concatenate([batches[step] for batches in ranks]).tolist() == whole.tolist()


@given(rows_strategy, st.integers(1, 20), seeds, epochs)
def test_full_batches_only_and_no_row_twice_unless_there_are_too_few(
    rows_N: Rows, batch: int, seed: int, epoch: int
) -> None:
    batches = epoch_batches(rows_N, batch, seed, epoch)
    assert len(batches) == max(1, len(rows_N) // batch)
    assert {len(b) for b in batches} == {batch}
    drawn = np.concatenate(batches).tolist()
    assert set(drawn) <= set(rows_N.tolist())
    if len(rows_N) >= batch:
        assert len(set(drawn)) == len(drawn)
    else:
        assert set(drawn) == set(rows_N.tolist())  # wrapped: all of them, as evenly as it goes
        counts = np.unique(drawn, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1


@given(rows_strategy, st.integers(1, 20), seeds, epochs, st.integers(1, 4))
def test_keeping_the_last_batch_every_row_comes_exactly_once(
    rows_N: Rows, batch: int, seed: int, epoch: int, world: int
) -> None:
    ranks = [epoch_batches(rows_N, batch, seed, epoch, rank, world, drop_last=False) for rank in range(world)]
    drawn = np.concatenate([b for batches in ranks for b in batches])
    assert sorted(drawn) == sorted(rows_N)
    last = [len(batches[-1]) for batches in ranks]
    assert max(last) - min(last) <= 1


@given(rows_strategy, st.integers(1, 20), st.integers(1, 4))
def test_evaluation_sees_every_row_once_and_in_order(rows_N: Rows, batch: int, world: int) -> None:
    ranks = [eval_batches(rows_N, batch, rank, world) for rank in range(world)]
    drawn = np.concatenate([b for batches in ranks for b in batches])
    assert sorted(drawn) == sorted(rows_N)
    assert all(0 < len(b) <= batch for batches in ranks for b in batches)
    assert np.concatenate(eval_batches(rows_N, batch)).tolist() == rows_N.tolist()


def test_nothing_to_evaluate_is_no_batches() -> None:
    assert eval_batches(np.array([], dtype=np.int64), 4) == []


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        epoch_batches(np.array([], dtype=np.int64), 4, 0, 0)


@pytest.mark.parametrize(("batch", "rank", "world"), [(0, 0, 1), (4, 2, 2), (4, -1, 2)])
def test_impossible_batches_and_ranks_are_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        epoch_batches(np.arange(9), batch, 0, 0, rank, world)
    with pytest.raises(ValueError, match="expected"):
        eval_batches(np.arange(9), batch, rank, world)
