"""What follows the networks in a graph does what the ensemble does, part by part."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.ensemble import vote as votes
from engine.ensemble.calibrate import KINDS, Calibration
from engine.ensemble.join import HOWS, Join
from engine.ensemble.neighbours import Neighbours, embedded, search
from engine.ensemble.prior import shift
from engine.ensemble.specialist import Specialist
from engine.ensemble.stack import Stack, Trees
from engine.ensemble.vote import RULES
from engine.errors import RecipeError
from engine.export.answers import Calibrated, Heard, Joined, Shifted, WithNeighbours, folded, together, voted
from engine.predictions import LabelledPredictions, Predictions
from engine.store.bank import Bank

CLASSES = ("가방", "모자", "신발", "bag", "hat")


def answers(count: int = 60, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> LabelledPredictions:
    """Decided and undecided ones, with ties and noughts among them."""
    random = np.random.default_rng(seed)
    p_NC = random.dirichlet(np.full(len(classes), 0.4), count)
    p_NC[:3] = [
        [1, *[0] * (len(classes) - 1)],
        np.full(len(classes), 1 / len(classes)),
        [0.5, 0.5, *[0] * (len(classes) - 2)],
    ]
    labels = [classes[place] for place in random.integers(len(classes), size=count)]
    for row in range(0, count, 2):
        labels[row] = classes[int(p_NC[row].argmax())]
    ids = tuple(map(str, range(count)))
    return Predictions(ids, classes, p_NC.astype(np.float32)).labelled(labels, random.integers(3, size=count))


def tensor(one: Predictions) -> torch.Tensor:
    return torch.from_numpy(one.in_order(one.ids, CLASSES).probabilities_NC.copy())


def assert_same(found: torch.Tensor, expected: Predictions, within: float = 1e-9) -> None:
    np.testing.assert_allclose(found.numpy(), expected.in_order(expected.ids, CLASSES).probabilities_NC, atol=within)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weights", [None, (0.5, 0.3, 0.2), (1, 0, 1), (2, 1, 1)])
def test_a_vote_is_the_vote(rule: votes.Rule, weights: tuple[float, ...] | None) -> None:
    voters = [answers(seed=seed) for seed in range(3)]
    assert_same(voted([*map(tensor, voters)], rule, weights), votes.vote(voters, rule, weights))


@pytest.mark.parametrize("rule", RULES)
def test_who_votes_alone_has_its_way(rule: votes.Rule) -> None:
    one = answers()
    assert folded([tensor(one)], rule).equal(tensor(one))
    assert together([tensor(one)], rule, [2.0]).equal(tensor(one).double())
    assert folded([tensor(one), tensor(answers(seed=1))], rule).dtype == torch.float32


@pytest.mark.parametrize("how", [how for how in HOWS if how != "boosting"])
def test_a_join_is_the_join(how) -> None:
    candidates = [answers(seed=seed) for seed in range(2)]
    join = Join.fit(candidates, ("a", "b"), how)
    assert_same(Joined(join, "soft", CLASSES)([*map(tensor, candidates)]), join.apply(candidates), 1e-7)


@pytest.mark.parametrize("missing", ["", "모자"])
def test_a_stack_of_two_classes_and_of_one_that_was_never_seen(missing: str) -> None:
    for classes in (CLASSES[:2], CLASSES):
        own = [answers(90, seed, classes) for seed in range(2)]
        own = [one.labelled(own[0].labels, own[0].fold_N) for one in own]
        if missing and len(classes) > 2:
            own = [one.take([row for row, label in enumerate(one.labels) if label != missing]) for one in own]
        join = Join.fit(own, ("a", "b"), "logistic")
        found = Joined(join, "soft", classes)([torch.from_numpy(one.probabilities_NC.copy()) for one in own])
        np.testing.assert_allclose(found.numpy(), join.apply(own).probabilities_NC, atol=1e-7)


def test_trees_are_refused_with_what_to_do_instead() -> None:
    join = Join(("a", "b"), "boosting", "soft", (), Stack("boosting", (0.5, 0.5), CLASSES, CLASSES, Trees(())))
    with pytest.raises(RecipeError, match=r"trees.*engine ensemble RUN --set ensemble.stack=logistic"):
        Joined(join, "soft", CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_calibration_is_the_calibration_whatever_the_order_of_its_classes(kind) -> None:
    labelled = answers(200)
    calibration = Calibration.fit(kind, labelled.in_order(labelled.ids, CLASSES[::-1]))
    asked = answers(50, seed=9)
    assert_same(Calibrated(calibration, CLASSES)(tensor(asked)), calibration.apply(asked), 1e-7)


@pytest.mark.parametrize("classes", [("모자", "bag"), ("hat", "가방", "신발"), ("신발",)])
@pytest.mark.parametrize("blend", [1.0, 0.4])
def test_a_specialist_is_heard_where_it_is_asked(classes: tuple[str, ...], blend: float) -> None:
    one = Specialist("look-alikes", classes, blend)
    main = answers()
    own = answers(seed=3, classes=one.answers) if len(one.answers) > 2 else answers(seed=3)
    own_NS = own.probabilities_NC[:, : len(one.answers)] + 1e-6
    own = Predictions(main.ids, one.answers, own_NS / own_NS.sum(1, keepdims=True))
    heard = Heard(one, CLASSES)(tensor(main), torch.from_numpy(own.probabilities_NC.copy()))
    assert_same(heard, one.heard(main, own), 1e-6)
    assert not heard.equal(tensor(main))


@pytest.mark.parametrize("sharpness", [0.0, 10.0])
@pytest.mark.parametrize("size", [40, 4])
def test_neighbours_are_those_of_the_bank(sharpness: float, size: int) -> None:
    random = np.random.default_rng(0)
    members = [
        Predictions(one.ids, CLASSES, one.probabilities_NC, features_NE=random.normal(size=(60, 8)).astype(np.float32))
        for one in (answers(seed=0), answers(seed=1))
    ]
    vectors_BE = random.normal(size=(size, 16))
    vectors_BE = (vectors_BE / np.linalg.norm(vectors_BE, axis=1, keepdims=True)).astype(np.float16)
    bank = Bank(tuple(f"b{b}" for b in range(size)), CLASSES[::-1], random.integers(5, size=size), vectors_BE)
    part = Neighbours((1, 3, 5), sharpness, 0.3)
    expected = part.apply(members[0], search(embedded(members[0], members), bank, 5))
    features = [torch.from_numpy(one.features_NE) for one in members if one.features_NE is not None]
    assert_same(WithNeighbours(part, bank, CLASSES)(tensor(members[0]), features), expected, 1e-6)


def test_other_class_shares() -> None:
    from_C, to_C = [5, 1, 1, 1, 2], [0, 1, 2, 3, 4]
    assert_same(Shifted(from_C, to_C)(tensor(answers())), shift(answers(), from_C, to_C))
