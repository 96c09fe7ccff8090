"""`engine bench` measures the engine's own path, every phase of it, and ends with one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from engine.bench.envelope import read, without_place
from engine.bench.phases import Bench
from engine.bench.photos import photos
from engine.bench.recipe import FULL_POLICY, bench_recipe, default_recipe
from engine.bench.report import loader_over_step
from engine.cli.main import main
from engine.errors import RecipeError
from engine.loader.batches import Batch
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.training.learner import Learner

PHASES = ["decode", "augmentation", "loader", "training step", "training", "inference"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos(folder, 6)
    return folder


def recipe(**stage: object) -> Recipe:
    return parse_recipe(
        {
            "model": {"backbone": "test_convnext", "pretrained": True, "weights": "gone.pt"},
            "augment": FULL_POLICY,
            "stage": [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3} | stage],
        }
    )


def test_the_command_prints_every_phase_and_ends_with_json(images: Path, tmp_path: Path) -> None:
    answer = CliRunner().invoke(
        main,
        "bench --res 32x48 --batch 4 --backbone test_convnext --seconds 0.1 "
        f"--data {images} --json {tmp_path}/bench.json",
    )
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout.splitlines()[-1])
    assert report == dataclasses.asdict(read(tmp_path / "bench.json"))
    settings = report["settings"]
    assert (settings["size"], settings["batch"], settings["backbone"]) == ([32, 48], 4, "test_convnext")
    assert settings["images"] == {"source": without_place(str(images)), "count": 6}
    assert [row["phase"] for row in report["rows"]] == PHASES
    for row in report["rows"]:
        assert row["phase"] in answer.stdout
        assert len(row["windows"]) >= 5
        assert min(row["windows"]) > 0
        assert (row["waited"] is not None) == (row["phase"] in ("training", "inference"))
        assert row["waited"] is None or 0 <= row["waited"] < 1
    held_gib = [row["host_gib"] for row in report["rows"]]
    assert held_gib == sorted(held_gib) and held_gib[0] > 0.05


def test_below_one_the_model_waits_for_the_loader() -> None:
    rows = [{"phase": "loader", "images_per_second": 30.0}, {"phase": "training step", "images_per_second": 60.0}]
    assert loader_over_step(rows) == 0.5


def test_without_a_recipe_everything_common_is_switched_on_and_can_be_changed() -> None:
    made = default_recipe(torch.device("cpu"), ("augment.flip=0.25", "stage.0.size=64"))
    assert (made.augment.flip, made.augment.color.p, made.stage[0].size) == (0.25, 1.0, (64, 64))
    with pytest.raises(RecipeError, match=r"augment\.flop"):
        default_recipe(torch.device("cpu"), ("augment.flop=1",))


@pytest.mark.parametrize("res", ["0", "7", "32x", "axb", "32x32x32", "5000"])
def test_an_impossible_size_is_refused(res: str) -> None:
    result = CliRunner().invoke(main, ["bench", "--res", res])
    assert result.exit_code == 2
    assert res in result.output


def test_training_is_measured_with_the_training_step_and_its_augmented_images(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    step = Learner.take_step

    def watched(self: Learner, batch: Batch) -> torch.Tensor:
        seen.append(batch.images_BCHW.clone())
        return step(self, batch)

    monkeypatch.setattr(Learner, "take_step", watched)
    paths = [str(path) for path in sorted(images.iterdir()) if path.suffix == ".jpg"]
    bench = Bench(bench_recipe(recipe(), (32, 48), 2), paths, torch.device("cpu"), 0.05)
    assert bench.training().median > 0
    assert {tuple(images_BCHW.shape) for images_BCHW in seen} == {(2, 3, 32, 48)}
    assert len({images_BCHW.sum().item() for images_BCHW in seen[:3]}) == 3  # another draw for every batch
    made_up = len(seen)
    assert bench.training_step().median > 0
    assert len(seen) > made_up


def test_the_stage_of_the_asked_size_is_measured() -> None:
    stages = [{"size": size, "batch": batch, "epochs": 1, "lr": 1e-3} for size, batch in ((256, 32), (384, 16))]
    whole = parse_recipe({"stage": stages})
    assert [stage.batch for stage in bench_recipe(whole, (384, 384), None).stage] == [16]
    assert [stage.batch for stage in bench_recipe(whole, None, None).stage] == [32]
    other = bench_recipe(whole, (512, 640), 8).stage[0]
    assert (other.size, other.batch) == ((512, 640), 8)
    assert not bench_recipe(whole, None, None).model.pretrained
