"""How a specialist's answer joins the main model's: what moves, what stays, and that it is still a probability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.ensemble.specialist import Specialist, effect_of
from engine.predictions import Predictions

CLASSES = ("a", "b", "c", "d", "e")
PAIR, TRIO, YES_NO = (Specialist("s", classes) for classes in (("b", "d"), ("a", "b", "e"), ("c",)))


def distributions(rows: int, columns: int) -> st.SearchStrategy[np.ndarray]:
    """Rows that sum to 1, with zeros, ones and very small numbers among them."""
    numbers = st.sampled_from([0.0, 1.0, 1e-300, 1e-320, 1e-12]) | st.floats(0, 1)
    raw = hnp.arrays(np.float64, (rows, columns), elements=numbers)

    def scaled(raw_NC: np.ndarray) -> np.ndarray:
        raw_NC[raw_NC.sum(1) < 1e-3, 0] = 1.0
        return raw_NC / raw_NC.sum(1, keepdims=True)

    return raw.map(scaled)


def join(specialist: Specialist, main_NC: np.ndarray, own_NS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(joined, which rows were asked)."""
    asked_N = specialist.asked(main_NC, CLASSES)
    rows = np.flatnonzero(asked_N)
    return specialist.joined(main_NC, CLASSES, rows, own_NS[rows]), asked_N


main_answers = distributions(6, len(CLASSES))
specialists = st.sampled_from([PAIR, TRIO, YES_NO])


@given(st.data(), specialists, main_answers, st.floats(0, 1))
def test_rows_stay_distributions_and_who_is_not_asked_changes_nothing(
    data: st.DataObject, base: Specialist, main_NC: np.ndarray, blend: float
) -> None:
    specialist = Specialist("s", base.classes, blend)
    own_NS = data.draw(distributions(6, len(specialist.answers)))
    joined_NC, asked_N = join(specialist, main_NC, own_NS)
    np.testing.assert_allclose(joined_NC.sum(1), 1, atol=1e-9)
    assert joined_NC.min() >= 0
    assert joined_NC[~asked_N].tobytes() == main_NC[~asked_N].tobytes()
    for row in range(6):
        assert asked_N[row] == (CLASSES[main_NC[row].argmax()] in specialist.classes)


@given(st.data(), specialists, main_answers)
def test_a_share_of_nothing_leaves_every_bit(data: st.DataObject, base: Specialist, main_NC: np.ndarray) -> None:
    own_NS = data.draw(distributions(6, len(base.answers)))
    joined_NC, _ = join(Specialist("s", base.classes, 0.0), main_NC, own_NS)
    np.testing.assert_array_equal(joined_NC, main_NC)


@given(st.data(), st.sampled_from([PAIR, TRIO]), main_answers)
def test_a_whole_share_divides_the_classes_as_the_specialist_says(
    data: st.DataObject, base: Specialist, main_NC: np.ndarray
) -> None:
    own_NS = data.draw(distributions(6, len(base.answers)))
    joined_NC, asked_N = join(base, main_NC, own_NS)
    columns = [CLASSES.index(name) for name in base.classes]
    others = [i for i in range(len(CLASSES)) if i not in columns]
    np.testing.assert_array_equal(joined_NC[:, others], main_NC[:, others])
    mass_N1 = main_NC[asked_N][:, columns].sum(1, keepdims=True)
    np.testing.assert_allclose(joined_NC[asked_N][:, columns], mass_N1 * own_NS[asked_N], atol=1e-12)


@given(main_answers, distributions(6, 2), st.floats(0, 1))
def test_a_yes_is_taken_over_and_the_others_keep_their_proportions(
    main_NC: np.ndarray, own_N2: np.ndarray, blend: float
) -> None:
    joined_NC, asked_N = join(Specialist("s", ("c",), blend), main_NC, own_N2)
    before, after = main_NC[asked_N], joined_NC[asked_N]
    np.testing.assert_allclose(after[:, 2], (1 - blend) * before[:, 2] + blend * own_N2[asked_N, 0], atol=1e-9)
    for a in (0, 1, 3):
        rest = before[:, [0, 1, 3, 4]].sum(1) > 1e-3
        np.testing.assert_allclose((after[:, a] * before[:, 4])[rest], (after[:, 4] * before[:, a])[rest], atol=1e-9)


def test_by_numbers() -> None:
    main_NC = np.array([[0.1, 0.5, 0.0, 0.3, 0.1], [0.2, 0.1, 0.6, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    half = Specialist("s", ("b", "d"), 0.5)
    joined_NC, asked_N = join(half, main_NC, np.array([[0.25, 0.75]] * 3))
    assert asked_N.tolist() == [True, False, False]
    np.testing.assert_allclose(joined_NC[0], [0.1, 0.5 * 0.5 + 0.5 * 0.2, 0.0, 0.5 * 0.3 + 0.5 * 0.6, 0.1])
    joined_NC, asked_N = join(YES_NO, main_NC, np.array([[0.2, 0.8]] * 3))
    assert asked_N.tolist() == [False, True, True]
    np.testing.assert_allclose(joined_NC[1], [0.4, 0.2, 0.2, 0.2, 0.0])
    np.testing.assert_allclose(joined_NC[2], [0.2] * 5)  # nobody else had anything: they share


def test_the_type_and_the_order_of_columns_are_the_main_models() -> None:
    main_NC = np.array([[0.6, 0.3, 0.1]], dtype=np.float32)
    joined_NC = PAIR.joined(main_NC, ("d", "b", "x"), np.array([0]), np.array([[1.0, 0.0]]))
    assert joined_NC.dtype == np.float32
    np.testing.assert_allclose(joined_NC, [[0.0, 0.9, 0.1]], atol=1e-7)
    with pytest.raises(ValueError, match=r"expected \(1, 2\) answers of s, got \(1, 3\)"):
        PAIR.joined(main_NC, ("d", "b", "x"), np.array([0]), np.ones((1, 3)))


def test_predictions_hear_it_by_id_and_class_name_and_keep_what_it_knows_nothing_of() -> None:
    main_NC = np.array([[0.1, 0.5, 0.0, 0.3, 0.1], [0.2, 0.1, 0.6, 0.1, 0.0], [0.0, 0.6, 0.0, 0.4, 0.0]])
    main = Predictions(("1", "2", "3"), CLASSES, main_NC).labelled(["d", "c", "b"], [0, 0, 1])
    own = Predictions(("0", "1"), ("d", "b"), np.array([[0.5, 0.5], [1.0, 0.0]]))  # another order, and not of "3"
    after = PAIR.heard(main, own)
    np.testing.assert_allclose(after.probabilities_NC, [[0.1, 0.0, 0.0, 0.8, 0.1], main_NC[1], main_NC[2]])
    assert (after.ids, after.labels, after.fold_N.tolist()) == (main.ids, main.labels, [0, 0, 1])
    effect = effect_of(PAIR, main, after, own)
    assert (effect.images, effect.asked, effect.wrong_to_right, effect.right_to_wrong) == (3, 1, 1, 0)
    assert effect.before["accuracy"] == pytest.approx(2 / 3) and effect.after["accuracy"] == 1


@pytest.mark.parametrize("count", [1, 10])
def test_a_row_has_the_same_bits_in_any_company(count: int) -> None:
    names, ids = tuple(f"c{i:02d}" for i in range(12)), tuple(map(str, range(60)))
    random = np.random.default_rng(0)
    main = Predictions(ids, names[::-1], random.dirichlet(np.ones(12), 60)).in_order(ids, names)
    one = Specialist("s", names[:count], 0.5)
    own = Predictions(ids, one.answers, random.dirichlet(np.ones(len(one.answers)), 60))
    together = one.heard(main, own)
    for rows in ([0], [*range(3, 10)], [40]):
        some = one.heard(main.take(rows), own)
        np.testing.assert_array_equal(some.probabilities_NC, together.probabilities_NC[rows])
