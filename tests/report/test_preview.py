"""The page of `engine preview` shows what training sees."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from engine.augment.policy import Policy
from engine.cli.main import main
from engine.errors import RecipeError
from engine.loader.batches import Epoch, Loader
from engine.recipe.load import dump_recipe, parse_recipe
from engine.recipe.sections import Recipe
from engine.report.preview import preview
from engine.training.prepare import Prepared, prepare

NAMES = ("가방", "모자", "<신발>")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    random = np.random.default_rng(0)
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            pixels = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((60, 44)).save(tmp_path / "photos" / name / f"{i}.jpg", quality=95)
    return parse_recipe(
        {
            "data": {"train": str(tmp_path / "photos"), "cache": str(tmp_path / "cache"), "folds": {"count": 2}},
            "augment": {"mix": [{"mixup": 1.0, "epochs": [2, 3]}]},
            "model": {"backbone": "test_convnext", "pretrained": False},
            "stage": [
                {"size": 32, "batch": 4, "epochs": 2, "lr": 1e-3},
                {"size": [40, 48], "batch": 4, "epochs": 2, "lr": 1e-3},
            ],
        }
    )


def test_classes_take_turns_and_each_image_has_a_picture_per_epoch(recipe: Recipe) -> None:
    made = preview(prepare(recipe), stage=1, images=6, epochs=9)
    assert made.epochs == (2, 3)  # of the run, and no more than the stage has
    assert all(picture.pixels_HW3.shape == (40, 48, 3) for row in made.rows for picture in row)
    assert [len(row) for row in made.rows] == [3] * 6
    shown = [row[0].caption.partition(" · ")[0] for row in made.rows]
    assert sorted(shown[:3]) == sorted(shown[3:]) == sorted(NAMES)


def test_the_pictures_are_those_that_training_makes(recipe: Recipe) -> None:
    prepared: Prepared = prepare(recipe)
    made = preview(prepared, stage=0, images=3, epochs=2, first=1)
    assert made.epochs == (1,)
    loader = Loader(prepared.samples, recipe.decode, torch.device("cpu"))
    policy = Policy(recipe.augment, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    source = prepared.samples.source
    paths = [Path(source.where(row)) for row in range(len(source))]
    names = [path.name + path.parent.name for path in paths]
    for row in made.rows:
        label, _, file = row[0].caption.partition(" · ")
        at = names.index(file + label)
        (batch,) = loader.train([np.array([at])], policy, Epoch(recipe.seed, 1, 32, 32, None))
        pixels = batch.images_BCHW[0].permute(1, 2, 0) * torch.tensor(policy.std) + torch.tensor(policy.mean)
        np.testing.assert_allclose(row[1].pixels_HW3, (pixels * 255).numpy().clip(0, 255), atol=1)
        assert not np.array_equal(row[0].pixels_HW3, row[1].pixels_HW3)


def test_mixed_pictures_name_both_classes_with_their_shares(recipe: Recipe) -> None:
    made = preview(prepare(recipe), stage=1, images=6, epochs=1)
    captions = [row[1].caption for row in made.rows]
    found = [re.fullmatch(r"(\d\.\d\d) (\S+) \+ (\d\.\d\d) (\S+)", caption) for caption in captions if caption]
    assert found and all(match is not None for match in found)
    assert all(float(match[1]) + float(match[3]) == pytest.approx(1, abs=0.011) for match in found if match)


def test_the_command_writes_one_page_that_needs_no_network(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    page = tmp_path / "look.html"
    result = CliRunner().invoke(main, ["preview", str(file), "--images", "4", "--epochs", "2", "--out", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text("utf-8")
    assert "http" not in text and "가방" in text and "&lt;신발&gt;" in text and "<신발>" not in text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 4 * 3
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size == (32, 32)


def test_a_stage_that_is_not_there_is_refused(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="stages 0 to 1"):
        preview(prepare(recipe), stage=2)
