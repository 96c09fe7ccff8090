"""Order: pure, complete, shared out without overlap, the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.order import Sampler, epoch_batches, epoch_order, eval_batches
from engine.recipe.sections import SamplingSection

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


def sampler(counts: list[int], seed: int = 1, boost: list[float] | None = None, **section: float) -> Sampler:
    """Trains on the even rows of twice as many samples; class c has `counts[c]` of them, mixed up."""
    labels_N = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    labels_M = np.zeros(2 * len(labels_N), dtype=np.int64)
    labels_M[::2] = labels_N
    boost_C = None if boost is None else np.array(boost)
    rows_N = np.arange(0, len(labels_M), 2)
    return Sampler(rows_N, labels_M, SamplingSection(**section), seed, boost_C)  # type: ignore[arg-type]


def rows_of(sampler: Sampler, draws: list[Rows]) -> Rows:
    return np.concatenate(draws) % len(sampler.labels_M)


class_counts = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(class_counts, st.integers(1, 12), seeds, epochs, st.integers(1, 3))
def test_plain_sampling_is_the_plain_order(counts: list[int], batch: int, seed: int, epoch: int, world: int) -> None:
    plain = sampler(counts, seed)
    drawn = plain.epoch(epoch, batch, world - 1, world)
    expected = epoch_batches(plain.rows_N, batch, seed, epoch, world - 1, world)
    assert [(b % len(plain.labels_M)).tolist() for b in drawn] == [b.tolist() for b in expected]
    if sum(counts) >= batch * world:
        assert np.concatenate(drawn).max() < len(plain.labels_M)  # nothing comes twice


@given(class_counts, st.integers(1, 12), st.floats(0, 1), seeds, epochs, st.integers(1, 3))
def test_any_sampling_is_pure_and_the_same_on_any_number_of_ranks(
    counts: list[int], batch: int, power: float, seed: int, epoch: int, world: int
) -> None:
    one = sampler(counts, seed, power=power, hard_pairs=3)
    pairs = [(0, len(counts) - 1, 3)] if len(counts) > 1 else []
    alone = one.epoch(epoch, batch * world, pairs=pairs)
    assert len(alone) == one.steps(batch * world)
    ranks = [one.epoch(epoch, batch, rank, world, pairs) for rank in range(world)]
    for step, whole in enumerate(alone):
        assert np.concatenate([batches[step] for batches in ranks]).tolist() == whole.tolist()
    drawn = np.concatenate(alone)
    assert len(set(drawn.tolist())) == len(drawn)  # every draw has a number of its own
    rows = drawn % len(one.labels_M)
    assert set(rows.tolist()) <= set(one.rows_N.tolist())
    for row in set(rows.tolist()):  # numbered from 0 on, in the order in which they come
        assert (drawn[rows == row] // len(one.labels_M)).tolist() == list(range((rows == row).sum()))


@given(class_counts, st.floats(0, 1), seeds, epochs)
def test_classes_are_drawn_in_the_proportions_asked_for(counts: list[int], power: float, seed: int, epoch: int) -> None:
    one = sampler(counts, seed, power=power)
    total = sum(counts)
    rows = rows_of(one, one.epoch(epoch, 1))
    assert len(rows) == total
    drawn_C = np.bincount(one.labels_M[rows], minlength=len(counts))
    shares_C = np.array(counts, dtype=float) ** (1 - power)
    expected_C = total * shares_C / shares_C.sum()
    assert np.abs(drawn_C - expected_C).max() < 1 + 1e-6
    times_M = np.bincount(rows, minlength=len(one.labels_M))
    for c in range(len(counts)):  # within a class all rows come equally often, but for one
        mine = times_M[one.rows_N[one.labels_M[one.rows_N] == c]]
        assert mine.max() - mine.min() <= 1


def test_the_rows_of_a_large_class_take_turns_over_the_epochs() -> None:
    one = sampler([40, 4], power=1.0)
    seen: set[int] = set()
    for epoch in range(12):
        seen |= set(rows_of(one, one.epoch(epoch, 4)).tolist())
    assert seen == set(one.rows_N.tolist())


def test_a_boosted_class_comes_that_much_more_often() -> None:
    one = sampler([30, 30, 30], boost=[1.0, 4.0, 1.0])
    drawn = np.bincount(one.labels_M[rows_of(one, one.epoch(0, 1))])
    assert drawn.tolist() == [15, 60, 15]


PAIRS = [(0, 2, 6), (1, 3, 2)]


@given(st.integers(2, 9), st.floats(0.05, 1.0), seeds, epochs)
def test_hard_pairs_fill_their_share_of_the_batches_with_both_ends(
    batch: int, share: float, seed: int, epoch: int
) -> None:
    one = sampler([20, 5, 12, 9, 14], seed, hard_pairs=2, hard_share=share)
    plain = [set(b.tolist()) for b in epoch_batches(one.rows_N, batch, seed, epoch)]
    batches = [b % len(one.labels_M) for b in one.epoch(epoch, batch, pairs=PAIRS)]
    hard = [b for b, before in zip(batches, plain, strict=True) if set(b.tolist()) != before]
    wanted = max(1, round(share * len(plain)))
    assert wanted - 1 <= len(hard) <= wanted  # one may happen to be what it was
    partner = {0: 2, 2: 0, 1: 3, 3: 1}
    for rows in hard:
        classes = one.labels_M[rows].tolist()
        for a, b in zip(classes[0 : batch - 1 : 2], classes[1::2], strict=True):
            assert partner[a] == b
        assert 4 not in classes


def test_pairs_come_as_often_as_they_were_confused_and_their_rows_in_turn() -> None:
    one = sampler([20, 20, 20, 20], hard_pairs=2, hard_share=1.0)
    rows = rows_of(one, one.epoch(0, 8, pairs=PAIRS))
    assert np.bincount(one.labels_M[rows]).tolist() == [30, 10, 30, 10]
    times = np.bincount(rows, minlength=len(one.labels_M))
    for c in range(4):
        mine = times[one.rows_N[one.labels_M[one.rows_N] == c]]
        assert mine.max() - mine.min() <= 1


def test_pairs_change_with_epoch_and_seed_and_what_was_confused() -> None:
    def drawn(seed: int, epoch: int, pairs: list[tuple[int, int, int]]) -> tuple[int, ...]:
        one = sampler([20, 20, 20, 20], seed, hard_pairs=2, hard_share=1.0)
        return tuple(np.concatenate(one.epoch(epoch, 8, pairs=pairs)))

    base = drawn(1, 1, PAIRS)
    assert base == drawn(1, 1, PAIRS)
    assert len({base, drawn(2, 1, PAIRS), drawn(1, 2, PAIRS), drawn(1, 1, PAIRS[:1])}) == 4


def test_a_pair_without_images_to_train_on_is_passed_over() -> None:
    one = sampler([10, 10, 10], hard_pairs=2, hard_share=1.0)
    rows = rows_of(one, one.epoch(0, 4, pairs=[(0, 7, 100), (1, 2, 1)]))
    assert set(one.labels_M[rows].tolist()) == {1, 2}
    only_unknown = one.epoch(0, 4, pairs=[(0, 7, 100)])
    assert rows_of(one, only_unknown).tolist() == rows_of(one, one.epoch(0, 4)).tolist()
