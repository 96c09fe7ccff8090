"""`engine bench` measures the engine's own path, every phase of it, and ends with one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from engine.bench.envelope import read, without_place
from engine.bench.phases import Bench, Phase
from engine.bench.photos import photos
from engine.bench.recipe import FULL_POLICY, bench_recipe, default_recipe
from engine.bench.report import loader_over_step
from engine.cli import bench as cli
from engine.cli.main import main
from engine.errors import EngineError, RecipeError
from engine.loader.batches import Batch
from engine.recipe.load import parse_recipe
from engine.recipe.sections import Recipe
from engine.training.learner import Learner

FEED = ["first batch", "decode", "pass", "transfer", "loader"]
MODEL = ["forward", "backward", "optimiser", "training step", "training", "inference"]
PHASES = [*FEED, *MODEL, "inference, 2 views", "checkpoint"]
ONCE = {"first batch", "checkpoint", "switch"}


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
        f"--data {images} --json {tmp_path}/bench.json --picture {tmp_path}/bench.svg --profile {tmp_path}/trace.json",
    )
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout.splitlines()[-1])
    assert report == dataclasses.asdict(read(tmp_path / "bench.json"))
    settings = report["settings"]
    assert settings["backbone"] == "test_convnext"
    assert settings["images"] == {"source": without_place(str(images)), "count": 6}
    assert min(settings["limits"].values()) > 0
    rows = [row for row in report["rows"] if row["phase"] != "costliest"]
    assert [row["phase"] for row in rows] == PHASES
    for row in rows:
        assert (row["stage"], row["size"], row["batch"]) == (0, [32, 48], 4)
        assert row["phase"] in answer.stdout and row["host_gib"] > 0.05
        if row["phase"] in ONCE:
            assert row["ms"] > 0 and not row["windows"]
        elif row["images_per_second"] is None:
            assert row["note"] and row["phase"] in ("transfer", "backward", "optimiser")
        else:
            assert row["ms"] == pytest.approx(1000 / row["images_per_second"], rel=0.01)
            assert len(row["windows"]) >= 5 or row["phase"] in ("backward", "optimiser")
        waits = row["phase"] == "training" or row["phase"].startswith("inference")
        assert (row["waited"] is not None) == waits
        assert row["waited"] is None or 0 <= row["waited"] < 1
        assert row["share"] is None or 0 < row["share"] < 1.5  # of a limit that a busy machine lowered
    costliest = [row for row in report["rows"] if row["phase"] == "costliest"]
    assert len(costliest) == 10 and any("convolution" in row["operator"] for row in costliest)
    assert [row["ms"] for row in costliest] == sorted((row["ms"] for row in costliest), reverse=True)
    assert "traceEvents" in json.loads((tmp_path / "trace.json").read_text("utf-8"))
    drawn = (tmp_path / "bench.svg").read_text("utf-8")
    assert "<svg" in drawn


def test_every_stage_of_a_recipe_is_measured_and_every_switch(images: Path, tmp_path: Path) -> None:
    written = tmp_path / "recipe.toml"
    stages = ((32, 4), (48, 3))
    written.write_text(
        '[data]\ntrain = "photos"\n[model]\nbackbone = "test_convnext"\n'
        + "".join(f"[[stage]]\nsize = {size}\nbatch = {batch}\nepochs = 1\nlr = 1e-3\n" for size, batch in stages)
    )
    answer = CliRunner().invoke(
        main, f"bench --recipe {written} --seconds 0.1 --data {images} --json {tmp_path}/bench.json"
    )
    assert answer.exit_code == 0, answer.output
    rows = read(tmp_path / "bench.json").rows
    plain = [phase for phase in PHASES if phase != "inference, 2 views"]
    assert [(row["stage"], row["phase"]) for row in rows] == [
        *((stage, phase) for stage in (0, 1) for phase in plain),
        (1, "switch"),
    ]
    assert {(row["stage"], row["size"][0], row["batch"]) for row in rows} == {(0, 32, 4), (1, 48, 3)}
    assert rows[-1]["ms"] >= 0


def test_a_picture_of_no_known_kind_is_refused_before_anything_is_measured() -> None:
    result = CliRunner().invoke(main, ["bench", "--picture", "bench.gif"])
    assert result.exit_code != 0 and "bench.gif" in result.output and ".svg" in result.output


@pytest.mark.parametrize("option", ["--json", "--picture", "--profile"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "ceilings", None)  # would raise
    (tmp_path / "file").touch()
    (tmp_path / "bench.svg").mkdir()
    for place, words in (("file/bench.svg", "is a file"), ("bench.svg", "is a folder")):
        result = CliRunner().invoke(main, ["bench", option, str(tmp_path / place)])
        assert result.exit_code == 1 and words in " ".join(result.output.split())


def test_what_was_measured_before_a_stage_that_fails_is_on_disk(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Bench):
        def phases(self) -> dict[str, Callable[[], Sequence[Phase]]]:
            if self.number:
                raise EngineError("no memory")
            return {"first batch": self.first_batch}

    monkeypatch.setattr(cli, "Bench", Failing)
    written = tmp_path / "recipe.toml"
    stages = "".join(f"[[stage]]\nsize = {size}\nbatch = 2\nepochs = 1\nlr = 1e-3\n" for size in (32, 48))
    written.write_text(f'[data]\ntrain = "photos"\n[model]\nbackbone = "test_convnext"\n{stages}')
    command = f"bench --recipe {written} --seconds 0.1 --data {images} --json {tmp_path}/bench.json"
    assert CliRunner().invoke(main, command).exit_code != 0
    assert [row["phase"] for row in read(tmp_path / "bench.json").rows] == ["first batch"]


def test_a_machine_without_matplotlib_can_measure() -> None:
    program = "import sys; sys.modules['matplotlib'] = None; import engine.cli.bench"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_below_one_the_model_waits_for_the_loader() -> None:
    rates = ((0, "loader", 30.0), (0, "training step", 60.0), (1, "loader", 90.0), (1, "training step", 60.0))
    rows = [{"stage": stage, "phase": phase, "images_per_second": rate} for stage, phase, rate in rates]
    assert (loader_over_step(rows), loader_over_step(rows, 1)) == (0.5, 1.5)


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
    taken = Learner.take_step

    def watched(self: Learner, batch: Batch) -> torch.Tensor:
        seen.append(batch.images_BCHW.clone())
        return taken(self, batch)

    monkeypatch.setattr(Learner, "take_step", watched)
    paths = [str(path) for path in sorted(images.iterdir()) if path.suffix == ".jpg"]
    bench = Bench(bench_recipe(recipe(), (32, 48), 2), paths, torch.device("cpu"), 0.05)
    step, training = bench.training()
    assert step.rate is not None and training.rate is not None and training.waited is not None
    assert {tuple(images_BCHW.shape) for images_BCHW in seen} == {(2, 3, 32, 48)}
    kinds = Counter(images_BCHW.sum().item() for images_BCHW in seen)
    assert len(kinds) == 4  # the epoch's three, and one that is always there
    assert max(kinds.values()) >= 7


def test_the_stage_of_the_asked_size_is_measured() -> None:
    stages = [{"size": size, "batch": batch, "epochs": 1, "lr": 1e-3} for size, batch in ((256, 32), (384, 16))]
    whole = parse_recipe({"stage": stages})
    assert [stage.batch for stage in bench_recipe(whole, (384, 384), None).stage] == [16]
    assert [stage.batch for stage in bench_recipe(whole, None, None).stage] == [32, 16]
    assert [stage.batch for stage in bench_recipe(whole, None, 8).stage] == [8, 8]
    other = bench_recipe(whole, (512, 640), 8).stage[0]
    assert (other.size, other.batch) == ((512, 640), 8)
    assert not bench_recipe(whole, None, None).model.pretrained
