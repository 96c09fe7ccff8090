"""The comparison of backbones: what is compared, how it is ranked, what is measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm

from engine.errors import EngineError, RecipeError
from engine.events import Watcher
from engine.recipe.sections import Recipe
from engine.tune import compare as backbones
from engine.tune.compare import BackboneResult, check_backbones, compare, plan, rank, to_csv, variant

MakeRecipe = Callable[..., Recipe]


def test_names_are_taken_once_and_unknown_ones_named_all_at_once() -> None:
    assert check_backbones([" test_vit", "test_convnext", "", "test_vit"]) == ["test_vit", "test_convnext"]
    with pytest.raises(RecipeError) as caught:
        check_backbones(["test_vit", "test_convnxt", "resnet5"])
    assert "test_convnxt" in str(caught.value) and "nearest: test_convnext" in str(caught.value)
    assert "resnet50" in str(caught.value)
    with pytest.raises(RecipeError, match="expected names"):
        check_backbones([" "])


def test_a_variant_is_the_first_stage_on_the_first_fold(recipe: MakeRecipe, tmp_path: Path) -> None:
    two = recipe("stage=[{size = 32, batch = 4, epochs = 2, lr = 1e-3}, {size = 64, batch = 2, epochs = 9, lr = 1e-4}]")
    one = variant(two, "hf-hub:timm/a.b", tmp_path)
    assert one.model.backbone == "hf-hub:timm/a.b"
    assert one.stage == two.stage[:1]
    assert one.data.folds.run == (0,)
    assert Path(one.output) == tmp_path / "hf-hub_timm_a.b"
    assert variant(recipe("data.folds.run=[1, 0]"), "a", tmp_path).data.folds.run == (1,)
    assert one.train == two.train and one.data.train == two.data.train


def test_the_best_comes_first_and_failures_last() -> None:
    rows = [
        BackboneResult("gone", "no memory"),
        BackboneResult("middling", metrics={"accuracy": 0.7, "log_loss": 0.5}),
        BackboneResult("sharp", metrics={"accuracy": 0.9, "log_loss": 0.9}),
        BackboneResult("calm", metrics={"accuracy": 0.5, "log_loss": 0.2}),
    ]
    assert [row.backbone for row in rank(rows, "accuracy")] == ["sharp", "middling", "calm", "gone"]
    assert [row.backbone for row in rank(rows, "log_loss")] == ["calm", "middling", "sharp", "gone"]
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [line["accuracy"] for line in lines] == ["", "0.7", "0.9", "0.5"]
    assert lines[0]["error"] == "no memory" and lines[0]["host_gib"] == ""


def test_a_size_that_does_not_fit_is_found_before_anything_is_trained(recipe: MakeRecipe, tmp_path: Path) -> None:
    comparison = plan(recipe("stage.0.size=[36, 48]"), ["test_vit", "test_convnext"], tmp_path / "out")
    assert list(comparison.variants) == ["test_convnext"]
    (refused,) = comparison.refused
    assert refused.backbone == "test_vit" and "[48, 48] works" in refused.error


def test_without_held_out_images_there_is_nothing_to_compare_by(recipe: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds nothing out"):
        plan(recipe("data.folds.count=1"), ["test_convnext"], tmp_path / "out")


def test_a_folder_holds_one_comparison_to_which_backbones_may_be_added(recipe: MakeRecipe, tmp_path: Path) -> None:
    plan(recipe(), ["test_convnext"], tmp_path / "out")
    plan(recipe("decode.threads=2"), ["test_resnet", "test_convnext"], tmp_path / "out")
    with pytest.raises(RecipeError, match=r"stage.0.epochs: 2 -> 3.*--out DIR"):
        plan(recipe("stage.0.epochs=3"), ["test_convnext"], tmp_path / "out")


def test_one_that_fails_does_not_keep_the_others_and_what_is_finished_is_not_run_again(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in this process: the other one is test_subprocess's."""
    begun: list[str] = []

    def run_here(
        work: Callable[..., BackboneResult], arguments: tuple[Recipe], folder: Path, *listening: object
    ) -> BackboneResult:
        begun.append(arguments[0].model.backbone)
        if begun[-1] == "test_resnet" and begun.count("test_resnet") == 1:
            raise EngineError("its process was killed")
        return work(*arguments, *listening)

    monkeypatch.setattr(backbones, "run_apart", run_here)
    names = ["test_resnet", "test_convnext"]

    def go() -> list[BackboneResult]:
        return compare(plan(recipe("stage.0.head_only=2"), names, tmp_path / "out"), Watcher(), lambda: False)

    first = go()
    assert [(row.backbone, row.error) for row in first] == [
        ("test_convnext", ""),
        ("test_resnet", "its process was killed"),
    ]
    row = first[0]
    scores = json.loads((tmp_path / "out" / "test_convnext" / "scores.json").read_text("utf-8"))
    assert row.metrics == scores["out_of_fold"]
    whole = timm.create_model("test_convnext", num_classes=2)
    assert row.parameters == sum(parameter.numel() for parameter in whole.parameters())
    assert row.train_images_per_second > 0 and row.valid_images_per_second > 0 and row.seconds > 0
    assert 0.1 < row.host_gib < 64 and row.device_gib is None
    second = go()
    assert begun == ["test_resnet", "test_convnext", "test_resnet"]
    assert [row.error for row in second] == ["", ""]
    assert row in second
    tables = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert [table["backbone"] for table in tables] == [row.backbone for row in second]
