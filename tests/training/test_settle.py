"""How a trained run answers is settled from its out-of-fold files, and answering does the same without being told."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from engine.cli.main import main
from engine.ensemble.calibrate import Calibration, Choice, Kind
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.fitting import Gain
from engine.ensemble.parts import Parts
from engine.errors import CheckpointError, RecipeError
from engine.predict.job import prepare as prepare_answer
from engine.predict.models import Wishes, load_models
from engine.predict.predictor import Predictor
from engine.predict.run import answer
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.store.run_folder import RunFolder
from engine.training.settle import settle_again

Run = Callable[..., Any]
MakeRecipe = Callable[..., Recipe]
CPU = torch.device("cpu")
ALL = ("ensemble.weights=score", "ensemble.calibrate=temperature", "predict.risk=0.1", "predict.abstain_accuracy=0.5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """Two folds of two kept epochs each, with neighbours and strangers asked for."""
    from engine.events import Watcher
    from engine.ranks import Ranks
    from engine.training.prepare import prepare
    from engine.training.run import train

    folder = tmp_path_factory.mktemp("trained")
    tables = {
        "seed": 3,
        "output": str(folder / "models"),
        "data": {"train": str(shapes), "cache": str(folder / "cache"), "folds": {"count": 2}},
        "decode": {"threads": 1},
        "model": {"backbone": "test_convnext", "pretrained": False},
        "train": {"keep_last": 2},
        "stage": [{"size": 32, "batch": 8, "epochs": 2, "lr": 3e-3}],
        "ensemble": {"calibrate": "off", "neighbours": "auto", "neighbours_k": [3, 5]},
        "predict": {"tta": 2, "batch": 8, "false_alarms": 0.2},
    }
    train(prepare(parse_recipe(tables)), Ranks(0, 1, CPU), Watcher(), lambda: False)
    return folder / "models"


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "models"))


@pytest.fixture
def everything_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few images prove nothing, so it is taken for proven."""
    from engine.ensemble import fitting

    monkeypatch.setattr(fitting, "judged", lambda part, how, before, after: Gain(part, how, True, {}))

    def choose(answers: LabelledPredictions, kinds: Sequence[Kind], groups: Sequence[str]) -> Choice:
        return Choice(Calibration.fit(kinds[0], answers), (), answers)

    monkeypatch.setattr(fitting, "choose", choose)


def held_out(folder: Path) -> LabelledPredictions:
    read = Predictions.read(folder / "oof.parquet")
    assert isinstance(read, LabelledPredictions)
    return read


def table_of(ids: tuple[str, ...], shapes: Path, folder: Path) -> str:
    path = folder / "held.csv"
    path.write_text("ID,img_path\n" + "".join(f"{i},{shapes / i}\n" for i in ids), encoding="utf-8")
    return str(path)


@pytest.mark.usefixtures("everything_gains")
def test_a_fold_answers_new_images_as_its_steps_answer_out_of_fold(models: Path, shapes: Path, tmp_path: Path) -> None:
    settle_again(RunFolder(models), ALL)
    ensemble = Ensemble.load(models / "ensemble.json")
    assert ensemble is not None and ensemble.parts.names == ["join", "neighbours", "calibration"]
    own = [held_out(models / "1" / name) for name in ("epoch_000", "epoch_001")]
    data = table_of(own[0].ids, shapes, tmp_path)
    answered = answer(prepare_answer(models / "1", Wishes(data=data)), CPU)
    expected = _chain(models, ensemble.parts, own)
    assert answered.answers.ids == expected.ids
    np.testing.assert_array_equal(answered.answers.probabilities_NC, expected.probabilities_NC)

    plain = answer(prepare_answer(models / "1", Wishes(data=data, sets=_OFF)), CPU).answers
    assert np.abs(plain.probabilities_NC - expected.probabilities_NC).max() > 1e-3
    alone = Predictor(models / "1")([shapes / i for i in own[0].ids[:3]], own[0].ids[:3])
    np.testing.assert_array_equal(alone.probabilities_NC, expected.probabilities_NC[:3])


_OFF = (
    *("ensemble.weights=equal", "ensemble.calibrate=off", "ensemble.neighbours=off"),
    *("predict.risk=0.0", "predict.abstain_accuracy=0.0"),  # which were fitted with all of these
)


def _chain(models: Path, parts: Parts, own: list[LabelledPredictions]) -> LabelledPredictions:
    from engine.ensemble.near_duplicates import OF
    from engine.ensemble.neighbours import embedded, search
    from engine.store.bank import bank_of

    found = search(embedded(own[0], own), bank_of(RunFolder(models).fold(1)), OF)
    return parts.finished(parts.joined(own, "soft"), found)


@pytest.mark.usefixtures("everything_gains")
def test_what_stands_beside_answers_is_in_their_file(models: Path, shapes: Path) -> None:
    import pyarrow.parquet as pq

    settle_again(RunFolder(models), ALL)
    result = CliRunner().invoke(main, ["infer", "--folds", str(models), "--data", str(shapes)])
    assert result.exit_code == 0, result.output
    table = pq.read_table(models / "predictions" / "predictions.parquet").to_pydict()
    assert {"set", "abstain", "strange", "strangeness", "near"} <= set(table)
    assert all(1 <= len(names) <= 3 for names in table["set"]) and set(table["abstain"]) <= {True, False}
    assert sum(map(bool, table["near"])) > 40  # these are the training images themselves
    again = CliRunner().invoke(main, ["infer", "--folds", str(models), "--data", str(shapes), "--risk", "40%"])
    assert "sets at a risk of 0.4" in again.output and "abstains from" in again.output
    assert "like nothing in training" in again.output and "near-duplicates of training images" in again.output
    assert again.exit_code == 0, again.output
    bolder = pq.read_table(models / "predictions" / "predictions.parquet").to_pydict()
    assert sum(map(len, bolder["set"])) < sum(map(len, table["set"]))


def test_a_run_is_fitted_anew_without_its_models(models: Path) -> None:
    for path in models.rglob("weights.safetensors"):
        path.unlink()
    before = (models / "0" / "epoch_000" / "oof.parquet").read_bytes()
    settled = settle_again(RunFolder(models), ("ensemble.calibrate=vector", "ensemble.weights=fit"))
    assert [(gain.part, gain.how) for gain in settled.gains if gain.part != "neighbours"] == [
        ("weights", "fit"),
        ("calibration", "vector"),
    ]
    ensemble = Ensemble.load(models / "ensemble.json")
    assert ensemble is not None and ensemble.keys["ensemble.calibrate"] == "vector"
    scores = json.loads((models / "scores.json").read_text("utf-8"))
    assert scores["out_of_fold"] == settled.metrics and len(scores["ensemble"]) == len(settled.gains)
    assert set(scores["intervals"]["log_loss"]) == {"value", "low", "high"}
    assert (models / "0" / "epoch_000" / "oof.parquet").read_bytes() == before


def test_what_needs_the_models_again_is_refused_by_name(models: Path) -> None:
    folder = RunFolder(models)
    with pytest.raises(RecipeError, match=r"models/0: its models have not answered .*`engine train`"):
        settle_again(folder, ("predict.tta=3",))
    with pytest.raises(RecipeError, match=r"--set train.ema=0.9: nothing is trained anew"):
        settle_again(folder, ("train.ema=0.9",))
    with pytest.raises(RecipeError, match=r"calibration was fitted with ensemble.calibrate = \"off\".*engine ensemble"):
        load_models(models, Wishes(sets=("ensemble.calibrate=vector",)))
    settle_again(folder, ("predict.false_alarms=0.0", "predict.risk=0.1"))
    with pytest.raises(RecipeError, match=r"predict.false_alarms: .*run the same `engine train` again"):
        load_models(models, Wishes(sets=("predict.false_alarms=0.1",)))
    folder.out_of_fold.unlink()
    assert load_models(models, Wishes()).hedges.risk is not None and not load_models(models, Wishes()).notices
    (told,) = load_models(models, Wishes(views=1)).notices
    assert "risk of" in told and "plain, plain_flip and the rule soft" in told and "`engine train`" in told
    with pytest.raises(RecipeError, match=r"oof.parquet, which is not there"):
        load_models(models, Wishes(sets=("predict.risk=0.3",)))
    folder.ensemble.unlink()
    with pytest.raises(CheckpointError, match=r"ensemble.json is missing"):
        settle_again(folder)


@pytest.mark.usefixtures("everything_gains")
def test_weights_of_epochs_that_are_not_there_are_not_taken_for_others(models: Path) -> None:
    settle_again(RunFolder(models), ALL)
    shutil.copytree(models / "0" / "epoch_000", models / "0" / "epoch_002")
    with pytest.raises(CheckpointError, match=r"weighs 2 epochs of each fold .*ensemble\.weights=equal"):
        load_models(models, Wishes(sets=(*_OFF[2:], "predict.false_alarms=0")))


def test_the_same_training_command_with_other_keys_fits_anew_and_trains_nothing(recipe: MakeRecipe, run: Run) -> None:
    run(recipe(train={"keep_last": 2}))
    again, diary = run(recipe(train={"keep_last": 2}, ensemble={"weights": "fit", "calibrate": "auto"}))
    assert again.already_finished and not diary.records and not diary.answered
    assert {gain.part for gain in again.settled.gains} == {"weights", "calibration"}
    more, diary = run(recipe(train={"keep_last": 2}, ensemble={"neighbours": "auto"}, predict={"false_alarms": 0.1}))
    assert more.already_finished and not diary.records and diary.answered
    assert (more.folder / "0" / "bank.safetensors").is_file()
    about = Predictions.read_about(more.folder / "0" / "epoch_000" / "oof.parquet")
    assert about["extras"] == ["features", "logits"]
    plain, diary = run(recipe(train={"keep_last": 2}))
    assert not diary.answered and not plain.settled.gains  # more was said than is asked for now


def test_the_command_shows_what_was_tried(models: Path) -> None:
    result = CliRunner().invoke(main, ["ensemble", str(models), "--set", "ensemble.calibrate=temperature"])
    assert result.exit_code == 0, result.output
    assert "temperature" in result.output and "(before)" in result.output
    assert str(models / "ensemble.json") in result.output
    wrong = CliRunner().invoke(main, ["ensemble", str(models), str(models)])
    assert wrong.exit_code == 2 and "several runs need --out" in wrong.output


@pytest.mark.parametrize("key", ["risk", "abstain_accuracy"])
def test_what_nothing_was_fitted_for_is_not_passed_over(models: Path, key: str) -> None:
    """The recipe asks for it, and there is nothing that was held out, nor what was fitted on it."""
    settle_again(RunFolder(models), (f"predict.{key}=0.1",))
    content = json.loads(RunFolder(models).ensemble.read_text("utf-8"))
    content["hedges"] = {name: one for name, one in content["hedges"].items() if name == "strange"}
    RunFolder(models).ensemble.write_text(json.dumps(content), "utf-8")
    load_models(models, Wishes())  # fitted again
    RunFolder(models).out_of_fold.unlink()
    with pytest.raises(RecipeError, match=r"oof\.parquet, which is not there"):
        load_models(models, Wishes())


def test_what_was_fitted_for_other_classes_is_refused_before_an_image_is_read(
    models: Path, everything_gains: None
) -> None:
    settle_again(RunFolder(models), ("ensemble.calibrate=temperature",))
    path = RunFolder(models).ensemble
    content = path.read_text("utf-8")
    name = load_models(models, Wishes()).classes[0]
    path.write_text(content.replace(json.dumps(name, ensure_ascii=False), '"another"'), "utf-8")
    with pytest.raises(CheckpointError, match=r"calibration is of other classes: 'another'.*engine ensemble"):
        load_models(models, Wishes())


def test_a_part_that_is_left_out_is_told_beside_those_fitted_after_it(models: Path, everything_gains: None) -> None:
    settle_again(RunFolder(models), ("ensemble.weights=score", "ensemble.calibrate=temperature"))
    assert not load_models(models, Wishes()).notices
    (told,) = load_models(models, Wishes(sets=("ensemble.weights=equal",))).notices
    assert "calibration" in told and "with join" in told


def test_a_predictor_says_what_it_is_to_be_given(models: Path) -> None:
    with pytest.raises(RecipeError, match="no models"):
        Predictor([])
    with pytest.raises(RecipeError, match="give a list of names"):
        Predictor(models, views="plain")
    with pytest.raises(ValueError, match="a list of images"):
        Predictor(models)("photo.jpg")


def test_a_predictor_answers_columns_with_what_stands_beside(models: Path) -> None:
    settle_again(RunFolder(models), ("predict.risk=0.1", "predict.abstain_accuracy=0.5"))
    pixels_HW3 = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels_HW3).save(image, "PNG")
    found = Predictor(models)({"bytes": [image.getvalue(), b"no image"]})
    assert found["status"][0] == "ok" != found["status"][1]
    assert found["set"][0] and set(found["set"][0]) <= set(load_models(models, Wishes()).classes)
    for name in ("set", "abstain", "strange", "strangeness", "near"):
        assert found[name][1] is None
        assert found[name][0] is not None
