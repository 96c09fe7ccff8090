"""What a user can mend is said in a line that names it, before the first image is decoded, and never as a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from engine.cli.main import main
from engine.ensemble.calibrate import Calibration
from engine.ensemble.ensemble import Ensemble
from engine.ensemble.parts import Parts
from engine.errors import CheckpointError, DataError, RecipeError
from engine.predict.asking import Asking
from engine.predict.models import Wishes, _hedges_of, load_models
from engine.predict.writing import refuse_place
from engine.recipe.load import parse_recipe
from engine.store.resume import load_resume

Spoil = Callable[[Path], object]


def changed(**entries: Any) -> Spoil:
    """checkpoint.json of fold 0 with these entries."""

    def spoil(models: Path) -> None:
        path = models / "0" / "checkpoint.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), encoding="utf-8")

    return spoil


def written(name: str, content: bytes) -> Spoil:
    return lambda models: (models / name).write_bytes(content)


def with_another_backbone(models: Path) -> None:
    recipe = json.loads((models / "0" / "checkpoint.json").read_text("utf-8"))["recipe"]
    recipe["model"]["backbone"] = "test_vit"
    changed(recipe=recipe)(models)


def folder_in_place_of(name: str) -> Spoil:
    def spoil(models: Path) -> None:
        (models / name).unlink(missing_ok=True)
        (models / name).mkdir(parents=True)

    return spoil


NOISE = bytes(range(256))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: (m / "0/weights.safetensors").unlink(), "0/weights.safetensors is missing; copy it"),
        (lambda m: (m / "0/checkpoint.json").unlink(), "0/checkpoint.json is missing beside its weights; copy it"),
        (
            lambda m: os.truncate(m / "0/weights.safetensors", 999),
            "is not the file that checkpoint.json was written for",
        ),
        (folder_in_place_of("0/weights.safetensors"), "0/weights.safetensors is missing"),
        (written("0/checkpoint.json", b""), "0/checkpoint.json is damaged"),
        (written("0/checkpoint.json", NOISE), "0/checkpoint.json is damaged"),
        (written("0/checkpoint.json", b"[]"), "0/checkpoint.json is no checkpoint description"),
        (changed(classes=3), "0/checkpoint.json is damaged (at classes)"),
        (changed(class_counts=[1]), "0/checkpoint.json is damaged (at class_counts)"),
        (changed(contract=[]), "0/checkpoint.json is damaged (at contract)"),
        (changed(contract={"a": 1}), "0/checkpoint.json: contract: version None"),
        (changed(metrics="good"), "0/checkpoint.json is damaged (at metrics)"),
        (changed(recipe={"a": 1}), "a: there is no such key"),
        (with_another_backbone, "the weights are not those of test_vit as timm"),
        (written("ensemble.json", NOISE), "ensemble.json is damaged"),
        (written("ensemble.json", b'{"format": 1}'), "ensemble.json is damaged"),
    ],
)
def test_models_that_were_damaged_or_half_copied_are_named(models: Path, spoil: Spoil, message: str) -> None:
    spoil(models)
    result = CliRunner().invoke(main, ["infer", "--folds", str(models)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2) and message in result.stderr, result.stderr
    assert not (models / "predictions").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "nothing"], "nothing: no such folder"),
        (["--folds", "empty"], "empty: no fold in it holds a checkpoint.json"),
        (["--folds", "noise.csv"], "noise.csv: no such folder"),
        (["--data", "nothing"], "nothing: no such folder or table"),
        (["--data", "empty"], "empty: no images here"),
        (["--data", "notes.txt"], "notes.txt: expected a folder of images, or a table, and this is text"),
        (["--data", "photos/TEST_00000.jpg", "--data", "photos/TEST_00000.jpg"], "name each once"),
        (["--data", "photos/*.png"], "photos/*.png: no image is called so"),
        (["--data", "-"], "nothing was listed on standard input"),
        (["--out", "noise.csv"], "noise.csv: is a file, so there can be no folder noise.csv for the answers"),
        (["--out", "noise.csv/x"], "noise.csv: is a file, so there can be no folder noise.csv/x for the answers"),
        (["--truth", "nothing"], "nothing: no such table of labels"),
        (["--truth", "empty"], "empty: no such table of labels"),
        (["--truth", "noise.csv"], "noise.csv: holds zero bytes, so it is no text"),
        (["--truth", "header.csv"], "header.csv: no rows below the header"),
        (["--set", "data.sample_submission=nothing"], "nothing: no such sample submission"),
        (["--set", "data.sample_submission=empty"], "empty: no such sample submission"),
        (["--set", "data.sample_submission=noise.csv"], "noise.csv: holds zero bytes, so it is no text"),
        (["--set", "data.sample_submission=header.csv"], "header.csv: no rows below the header"),
        (["--tta", "0"], "'--tta': 0 is not in the range"),
        (["--views", "plain,zoomin"], "'--views': there is no view 'zoomin'; nearest: zoom_in"),
        (["--views", "plain,flip", "--tta", "3"], "views is a list of 2, got 3"),
        (["--batch", "0"], "'--batch': 0 is not in the range"),
        (["--set", "model.backbone=resnet18"], "a trained model is used as it was trained"),
        (["--data", "t\udce9"], "b't\\xe9' is not UTF-8. Rename"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_an_image_is_decoded(
    models: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    def decoding(*_: object) -> None:
        raise AssertionError("images were decoded")

    monkeypatch.setattr(Asking, "__call__", decoding)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.csv").write_bytes(NOISE)
    (tmp_path / "notes.txt").write_text("photos", encoding="utf-8")
    (tmp_path / "header.csv").write_text("id,label\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["infer", "--folds", "models", "--data", "photos", *arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2) and message in result.stderr, result.stderr


def test_a_place_that_takes_no_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "submission.csv").mkdir(parents=True)
    with pytest.raises(DataError, match=r"submission.csv: is a folder, where a file is to be written"):
        refuse_place(tmp_path / "out")
    locked = tmp_path / "locked"
    locked.mkdir(0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("whoever runs the tests may write anywhere")
    with pytest.raises(DataError, match="nothing can be written into"):
        refuse_place(locked / "answers")


def test_the_folder_that_one_stands_in_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = CliRunner().invoke(main, ["data", "index", "x"])
    assert result.exit_code == 2 and "was removed; go to another one" in result.stderr


def test_a_state_to_go_on_from_that_is_noise_is_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    for seed in range(40):
        path.write_bytes(
            torch.randint(256, (200,), generator=torch.Generator().manual_seed(seed)).byte().numpy().tobytes()
        )
        with pytest.raises(CheckpointError, match=r"resume.pt cannot be read "):
            load_resume(path)


def test_a_view_that_a_model_cannot_be_shown_is_refused_by_its_name(models: Path) -> None:
    """A backbone of fixed size, in a checkpoint whose weights are not even looked at."""
    path = models / "1" / "checkpoint.json"
    saved = json.loads(path.read_text("utf-8"))
    saved["recipe"]["model"]["backbone"] = "mixer_s32_224"
    saved["recipe"]["stage"][0]["size"] = [224, 224]
    saved["contract"] |= {"height": 224, "width": 224}
    path.write_text(json.dumps(saved), encoding="utf-8")
    load_models(models, Wishes(named=("plain", "turn_90", "fit_stretch")))
    with pytest.raises(RecipeError, match=r"view scale_1\.25 shows images of 280 x 280 .*mixer_s32_224 cannot take"):
        load_models(models, Wishes(named=("plain", "scale_1.25")))


def test_sets_are_not_judged_by_answers_with_a_part_that_is_left_out(tmp_path: Path) -> None:
    calibration = Calibration("temperature", ("a", "b"), np.array(1.0))
    recipe = parse_recipe({"stage": [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}], "predict": {"risk": 0.1}})
    made = Ensemble.of(recipe, (), Parts(calibration=calibration))
    without = recipe.model_copy(update={"ensemble": recipe.ensemble.model_copy(update={"calibrate": "off"})})
    with pytest.raises(RecipeError, match="which is not there"):  # nothing is cut out, and nothing was fitted
        _hedges_of(made, recipe, tmp_path / "oof.parquet")
    with pytest.raises(RecipeError, match="fitted on answers with calibration, which are not to be given"):
        _hedges_of(made, without, tmp_path / "oof.parquet")
