"""Every recipe in recipes/ trains and predicts with nothing but --set: small images, tiny networks, few epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from engine.cli.main import main
from engine.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def engine(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def photos(folder: Path) -> list[str]:
    """Three classes of a colour each, eight training photos a class, and four test photos. One class has a second name
    in the sample submission."""
    random = np.random.default_rng(5)
    for kind in range(3):
        (folder / "data" / "train" / f"class_{kind}").mkdir(parents=True)
        for i in range(8):
            pixels = random.integers(0, 120, (40, 52, 3), dtype=np.uint8)
            pixels[:, :, kind] += 100
            Image.fromarray(pixels).save(folder / "data" / "train" / f"class_{kind}" / f"class_{kind}_{i:04d}.jpg")
    (folder / "data" / "test").mkdir()
    for i in range(4):
        pixels = random.integers(0, 220, (40, 52, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "data" / "test" / f"TEST_{i:05d}.jpg")
    lines = "".join(f"TEST_{i:05d},test/TEST_{i:05d}.jpg\n" for i in range(4))
    (folder / "data" / "test.csv").write_text(f"ID,img_path\n{lines}", encoding="utf-8")
    rows = "".join(f"TEST_{i:05d},0,0,0,0\n" for i in range(4))
    head = "ID,class_0,class_1,class_2,second_name"
    (folder / "data" / "sample_submission.csv").write_text(f"{head}\n{rows}", encoding="utf-8")
    aliases = 'data.aliases=[["class_2", "second_name"]]'
    return ["data.check=header", aliases]  # noise has no near-duplicates


def documents(folder: Path) -> list[str]:
    engine("data", "synth", folder / "data", "--kind", "documents", "--train", 102, "--test", 5, "--workers", 1)
    return ["data.folds.count=2", "specialist.*.model.backbone=test_convnext"]


MAKERS: dict[str, Callable[[Path], list[str]]] = {
    "s0_convnext_kfold": lambda folder: [*photos(folder), "data.folds.count=2"],
    "progressive_768": lambda folder: [*photos(folder), "data.folds.count=2", "data.folds.run=[0]"],
    "s2_convnextv2_512": lambda folder: [*photos(folder), "data.folds.count=2"],
    "s3_two_step_rect": lambda folder: [*photos(folder), "data.folds.count=2"],
    "s4_documents": documents,
}


TRIED = {
    "s0_convnext_kfold": set[str](),
    "progressive_768": {"neighbours", "calibration"},
    "s2_convnextv2_512": {"calibration"},
    "s3_two_step_rect": {"calibration"},
    "s4_documents": {"calibration"},
}
"""What is fitted on out-of-fold answers and kept where it gains."""


@pytest.mark.parametrize("name", MAKERS)
def test_a_recipe_runs_with_sets_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "recipes" / f"{name}.toml"
    changes = MAKERS[name](tmp_path)
    written = load_recipe(recipe)
    small = [{"size": [32 + 4 * i, 36 + 4 * i], "batch": 6, "epochs": 1} for i in range(len(written.stage))]
    sets = [f"stage.{i}.{key}={value}" for i, stage in enumerate(small) for key, value in stage.items()]
    sets += ["model.backbone=test_convnext", "model.pretrained=false", "stage.*.accumulate=1", "decode.threads=1"]
    if written.data.exclude_file:
        sets.append(f"data.exclude_file={ROOT / written.data.exclude_file}")
    if name.startswith("s2"):
        engine("data", "names", "data/train", "data/class_names.csv")
    if name.startswith("s4"):
        sets.append("stage.0.head_only=0")
    options = [word for change in [*sets, *changes] for word in ("--set", change)]
    told = engine("train", recipe, *options)
    assert "log loss of the class shares" in told
    models = Path(written.output)
    scores = json.loads((models / "scores.json").read_text("utf-8"))
    assert np.isfinite(scores["out_of_fold"]["log_loss"])
    assert {gain["part"] for gain in scores.get("ensemble", ())} == TRIED[name]
    engine("infer", "--folds", models)
    engine("score", "--check", models / "predictions" / "submission.csv", "data/sample_submission.csv")
    if name.startswith("s4"):
        folds_vote_by_their_files(models)


def folds_vote_by_their_files(models: Path) -> None:
    files = [Path(f"answers/{fold}/submission.csv") for fold in range(2)]
    for fold, file in enumerate(files):
        engine("infer", "--folds", models / str(fold), "--out", file.parent)
    sample = "data/sample_submission.csv"
    engine("vote", *files, "--vote", "hard", "--out", "hard.csv", "--sample", sample)
    engine("score", "--check", "hard.csv", sample)
    answers = [file.read_text("utf-8").splitlines() for file in (*files, Path("hard.csv"))]
    assert all(voted in (mine, yours) for mine, yours, voted in zip(*answers, strict=True))


def test_every_recipe_is_tried() -> None:
    assert {path.stem for path in RECIPES} == {*MAKERS, "quickstart"}  # the quick start: tests/test_flow.py
