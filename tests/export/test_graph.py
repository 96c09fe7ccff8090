"""The torch module answers as the run does: whatever views, rule, class shares and parts there are."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.ensemble.neighbours import Neighbours
from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import RULES
from engine.errors import RecipeError
from engine.export.about import about, licences
from engine.export.graph import Answer
from engine.export.prove import asked_of
from engine.predict.models import Models, Wishes, load_models
from engine.predict.panel import Asked
from engine.store.checkpoint import save
from engine.store.run_folder import RunFolder
from tests.conftest import draw, make_fold

PHOTOS = [draw(1), draw(2, 90, 61), draw(3, 20, 300), draw(4, 1, 1), draw(5, 300, 7)]


def difference(models: Models, photos: Sequence[np.ndarray] = PHOTOS) -> float:
    """The highest, of the graph's probabilities and the run's."""
    answer = Answer(models).eval()
    with torch.no_grad():
        found_NC = np.concatenate([answer(torch.from_numpy(photo.copy())[None]).numpy() for photo in photos])
    assert found_NC.dtype == np.float32
    return float(np.abs(found_NC - asked_of(models)(photos)).max())


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(finished_run: Path, rule: str) -> None:
    assert difference(load_models(finished_run, Wishes(vote=rule))) < 1e-5


def test_views_of_several_sizes_and_fits(finished_run: Path) -> None:
    views = ("plain", "turn_90", "upper_left_flip", "scale_1.5", "fit_center", "scale_1.5_flip")
    models = load_models(finished_run, Wishes(named=views))
    answer = Answer(models)
    assert [one.view.name for one in answer.shown] == [*views]
    assert difference(models) < 5e-5


def test_views_that_show_the_same_are_prepared_once(finished_run: Path) -> None:
    models = load_models(finished_run, Wishes(named=("plain", "fit_letterbox", "plain_flip")))
    assert [one.name for one in Answer(models).shown] == ["prepared_0", "prepared_1"]


def test_a_fold_alone_and_given_class_shares(finished_run: Path) -> None:
    shares = "predict.prior={'고리' = 0.7, '네모' = 0.1, cross = 0.1, bar = 0.1}"
    assert difference(load_models(finished_run / "1", Wishes(sets=(shares,)))) < 1e-5


def test_shares_that_would_be_estimated_are_refused(finished_run: Path) -> None:
    models = load_models(finished_run, Wishes(sets=("predict.prior=estimate",)))
    with pytest.raises(RecipeError, match=r"predict.prior = estimate.*--set predict.prior=off"):
        Answer(models)


def test_several_runs_with_weights(finished_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished_run / "0", other / "0")
    alone = ("predict.risk=0.0", "predict.false_alarms=0.0")  # of several runs there is none without an ensemble
    models = load_models([finished_run, other], Wishes(weights=(1, 3), sets=alone))
    assert difference(models) < 1e-5
    told = about(models, Answer(models), precision="fp32", batch=None, takes="pixels", proof="drawn photos")
    names = [one["name"] for one in told["models"]]
    assert len({*names}) == 6 and names[-1].startswith("other/0") and str(tmp_path) not in json.dumps(told)


@pytest.mark.parametrize("classes", [("고리", "cross"), ("cross",)])
def test_specialists_are_heard_by_the_folds_that_ask_them(finished_run: Path, classes: tuple[str, ...]) -> None:
    models = load_models(finished_run, Wishes())
    run, one = models.runs[0], Specialist("look-alikes", classes, 0.8)
    folds = tuple((make_fold(seed, one.answers),) for seed in (1, 5))
    heard = dataclasses.replace(models, runs=(dataclasses.replace(run, specialists=(Asked(one, folds),)),))
    assert difference(heard) < 1e-5
    begun = [each["licence"].partition(":")[0] for each in licences(heard)]  # a specialist began with a file of weights
    assert begun == ["trained from nothing", "unknown"]
    assert np.abs(asked_of(heard)(PHOTOS) - asked_of(models)(PHOTOS)).max() > 1e-3


def test_neighbours_are_looked_up_by_each_folds_features(finished_run: Path) -> None:
    models = load_models(finished_run, Wishes())
    run = models.runs[0]
    parts = dataclasses.replace(run.parts, neighbours=Neighbours((3, 5), 10.0, 0.4))
    assert difference(dataclasses.replace(models, runs=(dataclasses.replace(run, parts=parts),))) < 1e-5


def test_of_a_run_that_was_trained_in_bfloat16_the_answers_are_those_in_float32(tmp_path: Path) -> None:
    save(RunFolder(tmp_path).fold(0).path, make_fold(3, precision="bf16"))
    assert difference(load_models(tmp_path, Wishes())) < 1e-5


def test_photos_that_are_asked_about_together_get_the_same_answers(finished_run: Path) -> None:
    answer = Answer(load_models(finished_run / "0", Wishes())).eval()
    images = torch.from_numpy(np.stack([draw(number) for number in range(3)]))
    with torch.no_grad():
        alone = torch.cat([answer(image[None]) for image in images])
        assert (answer(images) - alone).abs().max() < 1e-6
