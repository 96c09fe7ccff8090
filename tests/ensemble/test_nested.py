"""What is judged on a sample was fitted without it, and without its group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from engine.ensemble.nested import honest, parts_of
from engine.predictions import NO_FOLD, LabelledPredictions, Predictions


def answers(count: int, folds: Sequence[int], groups: Sequence[str] = ()) -> LabelledPredictions:
    random = np.random.default_rng(0)
    p_NC = random.dirichlet(np.ones(3), count)
    labels = [f"class {i % 3}" for i in range(count)]
    one = Predictions(tuple(f"image {i}" for i in range(count)), ("class 0", "class 1", "class 2"), p_NC)
    return one.labelled(labels, folds, groups)


def test_the_folds_of_a_run_are_the_parts() -> None:
    one = answers(6, [4, 2, 7, 7, 2, 4])
    assert parts_of(one).tolist() == [1, 0, 2, 2, 0, 1]


@pytest.mark.parametrize("fold", [NO_FOLD, 0])
def test_without_folds_groups_stay_together(fold: int) -> None:
    groups = [f"sender {i // 4}" for i in range(36)] + [""] * 4
    part_N = parts_of(answers(40, [fold] * 40, groups))
    assert len(np.unique(part_N)) == 5
    for sender in range(9):
        assert len(set(part_N[4 * sender : 4 * sender + 4])) == 1


def test_one_group_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="cannot be divided"):
        parts_of(answers(4, [NO_FOLD] * 4, ["one sender"] * 4))


@pytest.mark.parametrize("folds", [[0, 1, 2] * 10, [NO_FOLD] * 30])
def test_nobody_is_answered_by_what_was_fitted_on_them(folds: list[int]) -> None:
    groups = [f"sender {i // 3}" for i in range(30)]
    one = answers(30, folds if folds[0] == NO_FOLD else [i // 3 % 3 for i in range(30)], groups)
    other = one.in_order(one.ids[::-1], one.classes[::-1])

    def fit(candidates: Sequence[LabelledPredictions]):  # type: ignore[no-untyped-def]
        learnt = {id_ for candidate in candidates for id_ in candidate.ids}
        seen = {group for candidate in candidates for group in candidate.groups}

        def apply(asked: Sequence[LabelledPredictions]) -> LabelledPredictions:
            assert asked[0].ids == asked[1].ids
            assert not learnt & set(asked[0].ids) and not seen & set(asked[0].groups)
            return asked[0]

        return apply

    found = honest([one, other], fit)
    assert found.ids == one.ids and found.labels == one.labels
    np.testing.assert_array_equal(found.probabilities_NC, one.probabilities_NC)
