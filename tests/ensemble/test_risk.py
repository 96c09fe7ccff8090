"""Sets hold the truth as often as was asked, and answers that are given are right as often as was asked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest
from scipy.special import softmax

from engine.ensemble.risk import Method, Risk, Score, Threshold, risk_coverage, threshold_for
from engine.predictions import NO_FOLD, LabelledPredictions, Predictions

SPLITS = 1000


def world(
    count: int, classes: int = 6, seed: int = 0, folds: int = 1, clear: float = 2
) -> tuple[list[Predictions], np.ndarray]:
    """(what each of the folds' models answers, labels): overconfident models, each with errors of its own, and classes
    of unlike frequency of which the rarer ones are harder."""
    random = np.random.default_rng(seed)
    true_NC = clear * random.normal(size=(count, classes)) - 0.4 * np.arange(classes)
    y_N = (softmax(true_NC, axis=1).cumsum(1) > random.random((count, 1))).argmax(1)
    names, ids = tuple(f"class {column}" for column in range(classes)), tuple(f"image {row}" for row in range(count))
    noise = [random.normal(scale=0.3 * np.arange(1, classes + 1), size=(count, classes)) for _ in range(folds)]
    return [Predictions(ids, names, softmax(1.7 * (true_NC + each_NC), axis=1)) for each_NC in noise], y_N


def held_out(models: list[Predictions], y_N: np.ndarray) -> LabelledPredictions:
    """Each image as the one model answers that had not seen it."""
    fold_N = np.arange(len(y_N)) % len(models)
    p_NC = np.stack([one.probabilities_NC for one in models])[fold_N, np.arange(len(y_N))]
    labels = [models[0].classes[label] for label in y_N]
    return dataclasses.replace(models[0], probabilities_NC=p_NC).labelled(labels, fold_N)


def coverage(risk: Risk, scores: Mapping[int, np.ndarray], y_N: np.ndarray, used: int, asked: int) -> np.ndarray:
    """(SPLITS, C + 1): how often the truth is among the classes that fit, over all images and of each class, where
    `used` images, drawn at random and dealt out to the folds, judge `asked` others."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(SPLITS):
        rows = random.permutation(len(y_N))[: used + asked]
        held, labels, test = {}, {}, rows[used:]
        for place, fold in enumerate(risk.held):
            own = rows[place : used : len(risk.held)]
            own = own[np.argsort(scores[fold][own, y_N[own]])]
            held[fold], labels[fold] = scores[fold][own, y_N[own]], y_N[own]
        split = dataclasses.replace(risk, held=held, labels=labels)
        p_NC = split.p_values({fold: scores[fold][test] for fold in held})
        in_N = p_NC[np.arange(asked), y_N[test]] > 1 - risk.level + 1e-12
        of_class = [in_N[y_N[test] == label].mean() if (y_N[test] == label).any() else np.nan for label in range(6)]
        found.append([in_N.mean(), *of_class])
    return np.array(found)


@pytest.mark.parametrize("method", ["aps", "raps"])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_coverage_over_a_thousand_splits_is_what_was_asked_and_hardly_more(method: Method, level: float) -> None:
    (model,), y_N = world(3000)
    tuned = Risk.fit(held_out(*world(500, seed=9)), level, method)  # on others: its score is settled
    assert (tuned.score.penalty > 0) == (method == "raps")
    scores = {NO_FOLD: tuned.score.of(model.probabilities_NC)}
    found_S = coverage(tuned, scores, y_N, used=199, asked=200)[:, 0]
    assert level - 0.003 < found_S.mean() < level + 1 / 200 + 0.003
    # And a single split is off by what chance allows: 199 images that judge and 200 that are judged.
    assert found_S.std() == pytest.approx(np.sqrt(level * (1 - level) * (1 / 201 + 1 / 200)), rel=0.15)


def test_without_a_random_share_the_truth_is_held_no_less() -> None:
    (model,), y_N = world(3000)
    plain = Risk.fit(held_out(*world(500, seed=9)), 0.9, randomised=False)
    found_S = coverage(plain, {NO_FOLD: plain.score.of(model.probabilities_NC)}, y_N, 199, 200)[:, 0]
    assert 0.897 < found_S.mean() < 0.9 + 1 / 200 + 0.003


def test_coverage_by_class_is_kept_within_each_class() -> None:
    (model,), y_N = world(4000)
    over_all, by_class = (Risk.fit(held_out(*world(900, seed=9)), 0.9, by_class=flag) for flag in (False, True))
    scores = {NO_FOLD: over_all.score.of(model.probabilities_NC)}
    loose_C = np.nanmean(coverage(over_all, scores, y_N, 600, 300)[:, 1:], axis=0)
    kept_C = np.nanmean(coverage(by_class, scores, y_N, 600, 300)[:, 1:], axis=0)
    assert loose_C.min() < 0.86  # the hard classes pay for the easy ones
    assert (kept_C > 0.895).all() and (kept_C < 0.96).all()  # of few images a class speaks in coarse steps


def test_coverage_across_five_folds_is_no_less_than_asked_and_not_far_above() -> None:
    models, y_N = world(3000, folds=5)
    risk = Risk.fit(held_out(*world(500, seed=9, folds=5)), 0.9)
    assert sorted(risk.held) == [0, 1, 2, 3, 4] and risk.images == 500
    scores = {fold: risk.score.of(model.probabilities_NC) for fold, model in enumerate(models)}
    found_S = coverage(risk, scores, y_N, used=250, asked=200)[:, 0]
    assert 0.897 < found_S.mean() < 0.97


def test_sets_hold_the_truth_and_are_smaller_where_it_is_easier() -> None:
    models, y_N = world(4000, folds=3)
    answers = {fold: model.take(range(1000, 4000)) for fold, model in enumerate(models)}
    sizes = []
    for level in (0.8, 0.9, 0.99):
        sets = Risk.fit(held_out(models, y_N).take(range(1000)), level).sets(answers)
        truth = [models[0].classes[label] for label in y_N[1000:]]
        held = np.mean([label in one for label, one in zip(truth, sets, strict=True)])
        assert level - 0.02 < held < level + 0.9 * (1 - level)
        sizes.append(np.mean([len(one) for one in sets]))
    assert sizes[0] < sizes[1] < sizes[2] < 6


def test_a_penalty_makes_large_sets_smaller() -> None:
    models, y_N = world(3000, classes=40)
    labelled = held_out(models, y_N)
    largest = []
    for method in ("aps", "raps"):
        sets = Risk.fit(labelled.take(range(1500)), 0.9, method).sets({0: models[0].take(range(1500, 3000))})  # type: ignore[arg-type]
        largest.append(max(map(len, sets)))
    assert largest[1] < largest[0]


def test_a_score_is_what_the_papers_say() -> None:
    p_NC = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(Score(randomised=False).of(p_NC), [[1.0, 0.5, 0.8]])
    np.testing.assert_allclose(Score(0.1, 1, randomised=False).of(p_NC), [[1.0 + 0.2, 0.5, 0.8 + 0.1]])
    share = Score().of(p_NC)[0, 1] / 0.5  # nothing is likelier than the second
    assert 0 < share < 1
    np.testing.assert_allclose(Score().of(p_NC), [[0.8 + 0.2 * share, 0.5 * share, 0.5 + 0.3 * share]])


def test_the_random_share_is_even_and_the_same_for_the_same_answer_in_any_company() -> None:
    first_N = np.random.default_rng(0).uniform(0.6, 1, 5000)
    p_NC = np.stack([first_N, 1 - first_N], axis=1)
    share_N = Score().of(p_NC)[:, 0] / first_N
    np.testing.assert_allclose(np.quantile(share_N, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    np.testing.assert_array_equal(Score().of(p_NC[::-7])[:, 0] / first_N[::-7], share_N[::-7])


def test_a_photo_has_the_same_set_under_any_name() -> None:
    models, y_N = world(300, folds=3)
    risk = Risk.fit(held_out(models, y_N), 0.9)
    renamed = [dataclasses.replace(one, ids=tuple(f"other/{id_}" for id_ in one.ids)) for one in models]
    assert risk.sets(dict(enumerate(renamed))) == risk.sets(dict(enumerate(models)))


def test_answers_in_any_order_of_samples_and_classes_give_the_same_sets() -> None:
    models, y_N = world(300, folds=3)
    risk = Risk.fit(held_out(models, y_N), 0.9)
    sets = risk.sets(dict(enumerate(models)))
    turned = [one.in_order(one.ids[::-1], one.classes[::-1]) for one in models]
    mixed = risk.sets({0: models[0], 1: turned[1], 2: turned[2]})
    assert mixed == sets
    assert risk.sets({0: turned[0], 1: models[1], 2: models[2]}) == sets[::-1]
    alone = [risk.sets({fold: one.take([row]) for fold, one in enumerate(models)})[0] for row in range(20)]
    assert alone == sets[:20]


def test_no_set_is_empty_unless_it_abstains() -> None:
    models, y_N = world(2000, classes=3)
    easy = dataclasses.replace(models[0], probabilities_NC=softmax(3 * np.eye(3)[y_N], axis=1))
    risk = Risk.fit(held_out([easy], y_N), 0.5)
    sets = risk.sets({0: easy})
    assert {len(one) for one in sets} == {1}
    assert sets == [(name,) for name in easy.answers]
    risk = Risk.fit(held_out(models, y_N), 0.95)
    sets, firm = risk.sets({0: models[0]}), risk.sets({0: models[0]}, abstain=True)
    assert {len(one) for one in firm} == {0, 1}
    assert firm == [one if len(one) == 1 else () for one in sets]


def test_classes_stand_in_the_order_of_the_answer_that_was_made() -> None:
    models, y_N = world(50, folds=3)
    risk = Risk.fit(held_out(models, y_N), 0.9)
    answer = dataclasses.replace(models[0], probabilities_NC=models[0].probabilities_NC[:, ::-1])
    place = {name: answer.probabilities_NC[:, column] for column, name in enumerate(answer.classes)}
    for row, one in enumerate(risk.sets(dict(enumerate(models)), answer)):
        assert list(one) == sorted(one, key=lambda name: -place[name][row])


def test_one_answer_for_all_folds_is_judged_by_all_scores() -> None:
    models, y_N = world(300, folds=3)
    labelled = held_out(models, y_N)
    joint = Risk.fit(labelled, 0.9, joint=True)
    assert list(joint.held) == [NO_FOLD] and joint.images == 300
    assert joint.sets({NO_FOLD: models[0]}) == joint.sets({7: models[0]})
    single = dataclasses.replace(labelled, fold_N=np.full(300, NO_FOLD))
    assert Risk.fit(single, 0.9).sets({0: models[0]}) == joint.sets({0: models[0]})


def test_a_fold_that_does_not_answer_is_named() -> None:
    models, y_N = world(60, folds=3)
    with pytest.raises(ValueError, match="no answer of fold '2'"):
        Risk.fit(held_out(models, y_N), 0.9).sets({0: models[0], 1: models[1]})


def test_classes_of_too_few_images_are_named_and_judged_by_all() -> None:
    models, y_N = world(400)
    y_N = np.where(y_N == 5, 4, y_N)
    y_N[:5] = 5
    labelled = held_out(models, y_N)
    risk, plain = Risk.fit(labelled, 0.9, by_class=True), Risk.fit(labelled, 0.9)
    assert risk.rare == ("class 5",)  # nine images are needed to say "one in ten"
    scores = {NO_FOLD: risk.score.of(labelled.probabilities_NC)}
    np.testing.assert_array_equal(risk.p_values(scores)[:, 5], plain.p_values(scores)[:, 5])
    assert not np.array_equal(risk.p_values(scores)[:, 0], plain.p_values(scores)[:, 0])


@pytest.mark.parametrize("method", ["aps", "raps"])
def test_what_is_saved_as_json_gives_the_same_sets(method: Method) -> None:
    models, y_N = world(300, folds=3)
    risk = Risk.fit(held_out(models, y_N), 0.9, method, by_class=True)
    read = Risk.from_dict(json.loads(json.dumps(risk.to_dict())))
    assert read.sets(dict(enumerate(models))) == risk.sets(dict(enumerate(models)))


def test_what_cannot_be_asked_is_refused() -> None:
    models, y_N = world(20)
    labelled = held_out(models, y_N)
    with pytest.raises(ValueError, match=r"level 1\.0"):
        Risk.fit(labelled, 1.0)
    with pytest.raises(ValueError, match="method 'lac'"):
        Risk.fit(labelled, 0.9, "lac")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is"):
        Risk.fit(dataclasses.replace(labelled, labels=("",) * 20), 0.9)
    with pytest.raises(ValueError, match="accuracy 1"):
        threshold_for(labelled, 1)


def test_labels_that_are_no_class_are_left_out_and_probabilities_of_0_do_no_harm() -> None:
    models, y_N = world(100)
    hard = dataclasses.replace(models[0], probabilities_NC=np.eye(6)[models[0].probabilities_NC.argmax(1)])
    labelled = held_out([hard], y_N)
    risk = Risk.fit(dataclasses.replace(labelled, labels=("truck", *labelled.labels[1:])), 0.9)
    assert risk.images == 99
    assert all(risk.sets({0: hard}))


def test_answers_above_the_threshold_are_as_right_as_was_asked_in_nineteen_of_twenty_worlds() -> None:
    (model,), y_N = world(20_000, clear=5)
    labelled = held_out([model] * 5, y_N)
    sure_N, right_N = model.probabilities_NC.max(1), model.probabilities_NC.argmax(1) == y_N
    missed, coverages = 0, []
    for start in range(0, 20_000, 400):
        found = threshold_for(labelled.take(range(start, start + 400)), 0.8)
        assert found is not None
        given_N = sure_N >= found.threshold
        missed += right_N[given_N].mean() < 0.8
        coverages.append(given_N.mean())
    assert missed <= 3  # of 50 worlds
    assert np.mean(coverages) > 0.3  # and not by answering nothing


def test_a_threshold_says_what_it_costs_also_where_it_was_not_fitted() -> None:
    (model,), y_N = world(4000, clear=5)
    labelled = held_out([model] * 5, y_N)
    low, high = threshold_for(labelled, 0.8), threshold_for(labelled, 0.88)
    assert low is not None and high is not None
    assert low.threshold < high.threshold and low.coverage > high.coverage
    given_N = model.probabilities_NC.max(1) >= high.threshold
    assert high.coverage == given_N.mean()
    assert high.accuracy == (model.probabilities_NC.argmax(1) == y_N)[given_N].mean() >= 0.88
    assert high.honest_accuracy is not None and high.honest_coverage is not None
    assert high.honest_accuracy > 0.87 and high.honest_coverage == pytest.approx(high.coverage, abs=0.1)
    assert Threshold.from_dict(json.loads(json.dumps(high.to_dict()))) == high


def test_a_target_that_cannot_be_reached_or_not_be_proven_has_no_threshold() -> None:
    (model,), y_N = world(1000)
    assert threshold_for(held_out([model], (y_N + 1) % 6), 0.9) is None
    assert threshold_for(held_out([model], model.probabilities_NC.argmax(1)).take(range(20)), 0.99) is None


def test_samples_that_are_right_and_wrong_together_prove_less() -> None:
    (model,), _ = world(1000)
    right_N = np.arange(1000) // 10 % 10 > 0  # whole senders of ten photos
    answer_N = model.probabilities_NC.argmax(1)
    labelled = held_out([model], np.where(right_N, answer_N, (answer_N + 1) % 6))
    alone = threshold_for(labelled, 0.85)
    grouped = threshold_for(dataclasses.replace(labelled, groups=tuple(f"{row // 10}" for row in range(1000))), 0.85)
    assert alone is not None and alone.coverage > 0.9
    assert grouped is None or grouped.coverage < alone.coverage


def test_a_curve_tells_the_risk_of_every_coverage() -> None:
    p_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    labelled = Predictions(tuple("abcd"), ("x", "y"), p_NC).labelled(["x", "y", "x", "y"])
    curve = risk_coverage(labelled)
    np.testing.assert_allclose(curve.threshold_K, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(curve.coverage_K, [0.25, 0.75, 1])
    np.testing.assert_allclose(curve.risk_K, [0, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((0 + 1 / 3 + 1 / 3 + 1 / 4) / 4)
