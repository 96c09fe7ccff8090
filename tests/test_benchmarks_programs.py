"""The benchmark programs, on a few drawn squares: what they compare is comparable, what they conclude is computed, what
they write has one form, and what the pages say is what the results say."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from engine.bench.envelope import read
from engine.errors import EngineError
from engine.export.prove import asked_of
from engine.export.write import Wanted, models_of
from engine.metrics import evaluate
from engine.model.build import build_model
from engine.predictions import Predictions
from engine.recipe.load import parse_recipe
from engine.store.checkpoint import load

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_answers  # noqa: E402
import bench_cache  # noqa: E402
import bench_channels_last  # noqa: E402
import bench_export  # noqa: E402
import bench_filter  # noqa: E402
import bench_finetune  # noqa: E402
import bench_serve  # noqa: E402
import bench_strangers  # noqa: E402
import bench_timm  # noqa: E402
import experiments  # noqa: E402
import frame  # noqa: E402
import gpu_suite  # noqa: E402
import run_recipes  # noqa: E402
import tables  # noqa: E402
from peers import engine_way, photos, task, timm_way  # noqa: E402

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sub-folder for each of three colours, 12 JPEGs in each, no two alike. Read only."""
    folder = tmp_path_factory.mktemp("squares")
    for kind, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir()
        for number in range(12):
            noise_HWC = np.random.default_rng((kind, number)).integers(-40, 40, (6, 7, 3))
            pixels_HWC = np.clip(np.array(color) + noise_HWC, 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels_HWC).resize((56, 48), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{number:02d}.jpg", quality=92)
    return folder


@pytest.fixture
def job(squares: Path, tmp_path: Path) -> task.Task:
    """One epoch of three steps for both sides, from the same random weights."""
    plain = task.Task(
        data=str(squares),
        split=str(tmp_path / "split"),
        output=str(tmp_path / "out"),
        cache=str(tmp_path / "cache"),
        weights="",
        classes=0,
        folds=3,
        backbone="test_convnext",
        size=32,
        batch=8,
        epochs=1,
        lr=1e-3,
        weight_decay=0.05,
        warmup_epochs=0.5,
        min_lr_ratio=0.01,
        clip=1.0,
        ema=0.9,
        smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        mix_p=0.5,
        scale=(0.35, 1.0),
        magnitude=9,
        erase_p=0.25,
        workers=0,
        threads=1,
        seed=0,
    )
    laid_out, _ = bench_timm.lay_out(plain)
    return dataclasses.replace(laid_out, weights=bench_timm.initial_weights("random", laid_out, tmp_path, 0))


def test_both_sides_begin_with_the_same_backbone(job: task.Task) -> None:
    theirs = timm_way.build(job).state_dict()
    ours = build_model(engine_way.recipe(job).model, job.classes, (32, 32)).get_submodule("backbone").state_dict()
    assert ours
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_both_sides_train_on_as_many_of_the_same_files(job: task.Task, tmp_path: Path) -> None:
    outcomes = {}
    for side in bench_timm.SIDES:
        own = dataclasses.replace(job, output=str(tmp_path / side), test=f"{job.split}/validation")
        outcomes[side] = bench_timm.train_side(side, own)
    ours, theirs = outcomes["engine"], outcomes["timm"]
    assert (ours.train_mark, ours.valid_mark) == (theirs.train_mark, theirs.valid_mark)
    assert ours.train_mark != ours.valid_mark
    assert [epoch.images for epoch in ours.epochs] == [epoch.images for epoch in theirs.epochs] == [24]
    for outcome in outcomes.values():
        assert 0 < outcome.waited < 1
        assert outcome.total_s > outcome.epochs[0].train_s > 0
        assert 0 < outcome.best.log_loss < 10
    assert list((tmp_path / "timm").glob("*.pth.tar")), "timm's side has to write its checkpoints, too"
    answers = Predictions.read_csv(tmp_path / "timm" / "answers.csv")
    assert answers.classes == tuple(sorted(COLORS))
    named = sorted(path.name for path in Path(job.split, "validation").rglob("*.jpg"))
    assert sorted(answers.ids) == named
    labels = [id_.split("__")[0] for id_ in answers.ids]
    found = evaluate(answers.labelled(labels)).metrics["log_loss"]
    assert found == pytest.approx(theirs.best.log_loss, rel=1e-4), "what is answered is what was validated"


def test_sides_that_saw_different_files_are_not_compared(job: task.Task) -> None:
    def trained(side: str, valid: str) -> bench_timm.Trained:
        return bench_timm.Trained(side, 0, task.Outcome((), 1.0, 1.0, "a", valid))

    bench_timm.check_same_files([trained("engine", "b"), trained("timm", "b")])
    with pytest.raises(RuntimeError, match="same files"):
        bench_timm.check_same_files([trained("engine", "b"), trained("timm", "c")])


def test_figures_are_medians_over_seeds_and_leave_the_first_epoch_out() -> None:
    def outcome(log_loss: float, total_s: float) -> task.Outcome:
        slow = task.EpochResult(100, 10.0, 5.0, 1.0, 2.0, log_loss + 1, 0.2)
        fast = task.EpochResult(100, 2.0, 0.5, 1.0, 1.0, log_loss, 0.6)
        return task.Outcome((slow, fast), total_s, 20.0, "a", "b")

    trained = [
        bench_timm.Trained("engine", seed, outcome(loss, 10 + seed)) for seed, loss in enumerate((0.9, 0.5, 0.7))
    ]
    trained += [bench_timm.Trained("timm", seed, outcome(2.0, 30)) for seed in range(3)]
    found = bench_timm.summary(trained)
    assert found["engine"]["log_loss"] == 0.7
    assert found["engine"]["total_s"] == 11
    assert found["engine"]["images_per_s"] == 50
    assert found["engine"]["waited"] == 0.25
    assert found["timm"]["log_loss"] == 2.0


def test_only_the_wait_for_a_batch_counts_as_waiting() -> None:
    def batches() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    waits = task.Waits()
    for _ in waits.of(batches()):
        time.sleep(0.05)
    assert 0.06 <= waits.take() < 0.14
    assert waits.take() == 0


def test_contenders_take_turns_and_first_calls_do_not_count() -> None:
    calls: list[str] = []

    def run(name: str) -> None:
        time.sleep(0.002 if len(calls) > 1 else 0.2)
        calls.append(name)

    contenders = [frame.Contender(name, functools.partial(run, name), 4) for name in "ab"]
    frame.take_turns(contenders, repeats=3)
    assert calls == ["a", "b"] * 4
    for contender in contenders:
        assert len(contender.windows) == 3
        assert min(contender.windows) <= contender.rate <= max(contender.windows) <= 4 / 0.002


def test_a_slow_minute_of_the_machine_is_no_time_of_the_processor() -> None:
    contenders = [frame.Contender("asleep", lambda: time.sleep(0.05), 1)]
    frame.take_turns(contenders, repeats=2, clock=time.process_time)
    assert max(contenders[0].seconds) < 0.04


def test_every_layout_trains_and_answers_on_its_own_memory_format() -> None:
    found = bench_channels_last.contenders("test_convnext", 32, 2, compiled=False)
    assert [c.name for c in found] == [
        f"{work}, {layout}" for work in ("training", "inference") for layout in ("first", "batch", "last")
    ]
    frame.take_turns(found, repeats=1, warm_up=0)
    rows = [
        {"work": work, "layout": layout, "images_per_cpu_second": contender.windows}
        for contender in found
        for work, layout in [contender.name.split(", ")]
    ]
    assert bench_channels_last.rate(rows, work="training", layout="last") == found[2].rate


def test_both_ways_of_asking_are_measured_and_one_of_them_differs_in_no_answer() -> None:
    rows = bench_answers.measured("test_convnext", 32, repeats=1)
    assert [row["way"] for row in rows] == ["batch", "parts"] and rows[1]["differ"] == 0
    assert all(row[key] > 0 for row in rows for key in ("images_per_s", "images_per_cpu_second", "one_photo_ms"))


def test_each_filter_of_training_is_scored_with_each_filter(squares: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
data = {{train = "{squares}", cache = "{tmp_path}/cache", folds.count = 2}}
model = {{backbone = "test_convnext", pretrained = false}}
decode.threads = 1
track.tensorboard = false
stage = [{{size = 32, batch = 8, epochs = 1, lr = 3e-3}}]
""",
        encoding="utf-8",
    )
    rows = bench_filter.accuracy_rows(recipe, [], str(squares), 1, tmp_path / "runs")
    by_filters = {(row["trained"], row["scored"]): row["log_loss"] for row in rows}
    assert len(by_filters) == len(set(by_filters.values())) == 4
    saved = load(tmp_path / "runs" / "bicubic-0" / "0")
    assert saved.contract["filter"] == "bicubic"


def test_a_program_ends_with_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks/made_up.py", "--data", "/home/me/photos/train"])
    made = frame.result([{"peer": "engine"}], {"batch": 4})
    frame.finish(made, tmp_path / "made_up.json")
    assert made.command == "python benchmarks/made_up.py --data photos/train"
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "made_up.json").read_text("utf-8"))


@pytest.mark.parametrize("path", sorted(frame.RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_every_result_says_what_it_depends_on(path: Path) -> None:
    result = read(path)
    assert result.rows and all(row for row in result.rows)
    assert {"cpu", "cores", "torch_threads", "device", "system"} == result.machine.keys()
    assert {"python", "torch"} <= result.versions.keys()
    program = result.command.split()[:2]
    assert program == ["engine", "bench"] or (program[0] == "python" and (BENCHMARKS.parent / program[1]).is_file())
    datetime.fromisoformat(result.date)
    for place in ("home", "tmp", "root"):
        assert f"/{place}/" not in path.read_text("utf-8")


def test_the_suite_tells_what_a_bench_has_found() -> None:
    name, figures = gpu_suite.line_of({"phase": "decode", "windows": [1500.0, 1583.4, 1600.0], "waited": None})
    assert (name, figures) == ("decode", "images/s 1,583")
    name, figures = gpu_suite.line_of({"check": "bad files", "ok": False, "worst": 2.0, "words": "verdicts"})
    assert name == "bad files" and "ok False" in figures and "worst 2" in figures


def test_the_tables_of_speed_are_those_of_the_results() -> None:
    page = tables.README.read_text("utf-8")
    assert tables.filled(page) == page, "run python benchmarks/tables.py"
    with pytest.raises(EngineError, match="no place for a table"):
        tables.filled(page.replace("<!-- loader: ", "<!-- "))


def test_the_experiment_log_is_that_of_the_results() -> None:
    page = (BENCHMARKS.parent / "docs" / "experiments.md").read_text("utf-8")
    assert experiments.markdown(read(experiments.RESULTS)) == page, "run python benchmarks/experiments.py --markdown"


def test_epochs_fill_the_budget_and_the_last_stage_takes_the_rest() -> None:
    assert experiments.plan(60, [(64, 1.0, 4.0)]) == [(64, 15)]
    stages = experiments.plan(60, [(48, 0.15, 2.0), (56, 0.2, 3.0), (64, 0.65, 4.0)])
    assert stages == [(48, 4), (56, 4), (64, 10)]
    assert experiments.plan(1, [(48, 0.5, 9.0), (64, 0.5, 9.0)]) == [(48, 1), (64, 1)]


@pytest.fixture
def tables_of_squares(squares: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Photos to answer, and their labels and senders: a photo of a fourth colour is among them."""
    paths = sorted(squares.rglob("*.jpg"))
    test, truth = tmp_path / "test.csv", tmp_path / "truth.csv"
    test.write_text("image\n" + "".join(f"{path}\n" for path in paths))
    labels = ["violet", *(path.parent.name for path in paths[1:])]
    lines = [f"{path},{label},{i % 9}\n" for i, (path, label) in enumerate(zip(paths, labels, strict=True))]
    truth.write_text("image,label,sender\n" + "".join(lines))
    return test, truth


@pytest.fixture
def settings(squares: Path, tables_of_squares: tuple[Path, Path], tmp_path: Path) -> experiments.Settings:
    base = parse_recipe(
        {
            "data": {"train": str(squares), "group_column": "sender"},
            "decode": {"device": "cpu"},
            "augment": {"valid": {"fit": "center"}},
            "model": {"backbone": "test_convnext", "pretrained": False},
            "stage": [{"size": 32, "batch": 8, "epochs": 1, "lr": 3e-3}],
        }
    )
    test, truth = map(str, tables_of_squares)
    return experiments.Settings(base, test, truth, tmp_path / "work", seconds=0.01, folds=2)


def test_rows_add_up_part_by_part() -> None:
    keys = [row.key for row in experiments.rows()]
    assert keys[:3] == ["plain", "mixing", "mixing+ema"]
    assert len(keys) == 1 + len(experiments.PARTS)
    last = experiments.rows(["mixing", "ema", "progressive"])[-1]
    assert last.trained.key == "folds" and last.before is not None
    assert last.before.key == "folds+views+weights+stacking+neighbours"
    assert last.sets[-1] == "ensemble.calibrate=temperature"


def test_rows_are_trained_once_and_what_follows_answers_with_the_same_models(
    settings: experiments.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = experiments.rows(["mixing", "ema", "progressive", "weights", "stacking", "neighbours", "temperature"])
    assert [row.key for row in chosen] == ["plain", "folds", "folds+views"]
    found = experiments.run(settings, chosen, seeds=1)
    plain, folds, views = found
    assert plain["photos"] == 35  # nobody knows violet
    assert folds["runs"][0]["train_s"] == views["runs"][0]["train_s"]
    assert folds["runs"][0]["test"] != views["runs"][0]["test"]
    assert views["against_before"]["difference"] == pytest.approx(
        views["runs"][0]["test"]["log_loss"] - folds["runs"][0]["test"]["log_loss"]
    )

    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(experiments, "fit", refuse)
    assert experiments.run(settings, chosen, seeds=1) == found
    slower = settings.base.model_copy(update={"seed": 9, "name": "another"})
    other = dataclasses.replace(settings, base=slower, folds=3)
    with pytest.raises(SystemExit, match="other settings"):
        experiments.trained(other, chosen[0], [experiments.Stage(32, 1)], 0)

    page = experiments.markdown(frame.result(json.loads(json.dumps(found)), settings.public()))
    assert "| plain | 1 at 32 |" in page
    assert "| + 2 folds, averaged | 2 x (1 at 32) |" in page
    assert "| + two views | the same models |" in page
    assert str(settings.work.parent) not in page


def test_a_page_says_what_the_results_say(settings: experiments.Settings) -> None:
    def row(parts: list[str], loss: float, verdict: str) -> dict[str, Any]:
        scores = dict.fromkeys(experiments.SHOWN, 0.5) | {"log_loss": loss}
        apart = {"difference": -0.25, "low": -0.5, "high": -0.125, "verdict": verdict} if parts else None
        return {
            "key": "+".join(parts) or "plain",
            "parts": parts,
            "stages": [[64, 9]],
            "seconds": 60.0,
            "runs": [{"seed": 0, "test": scores, "train_s": 61.0, "valid_s": 1.0}],
            "interval": [loss - 0.1, loss + 0.1],
            "against_plain": apart,
            "against_before": apart,
            "photos": 35,
            "groups": 9,
            "class_shares": 1.1,
        }

    found = [row([], 1.5, ""), row(["mixing"], 1.25, "better"), row(["mixing", "ema"], 1.3, "not told apart")]
    page = experiments.markdown(frame.result(found, settings.public()))
    assert "* helped: MixUp and CutMix\n" in page
    assert "* no difference: EMA of the weights\n" in page
    assert "-0.250 (-0.500 to -0.125): helped" in page
    assert "1.500 (1.400 to 1.600)" in page


def test_a_table_of_sides_has_medians_and_the_difference_of_every_seed() -> None:
    classes, labels = ("a", "b"), ["a", "b"] * 20
    them = photos.Photos(tuple(map(str, range(40))), ("",) * 40, tuple(labels), tuple(map(str, range(40))))

    def answers(right: float) -> Predictions:
        rows = [[right, 1 - right] if label == "a" else [1 - right, right] for label in labels]
        return Predictions(them.ids, classes, np.array(rows))

    made = {("engine", 0): answers(0.9), ("timm", 0): answers(0.6)}
    rows = bench_finetune.rows_of(
        [bench_finetune.Answers(side, seed, Path(), 10.0, 20.0) for side, seed in made], them, made
    )
    assert rows[0]["against"]["timm"]["verdict"] == "better"
    assert rows[0]["against"]["timm"]["difference"] == pytest.approx(math.log(0.6) - math.log(0.9))
    assert rows[1]["against"] == {}
    console = Console(width=170, file=io.StringIO())
    bench_finetune.show(rows, console)
    assert "-0.405 (-0.405 to -0.405)" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_table_of_servers_says_what_they_reach_of_the_model() -> None:
    def found(rate: float) -> dict[str, Any]:
        return {"seconds": 10 / rate, "server_cpu_s": 5.0, "latencies": [0.5] * 10, "cpu_s": 0.1}

    bare = {**found(20), "latencies": []}
    rows = [bench_serve._row("engine serve", 1, [found(5), found(7)], 10), bench_serve._row("bare", 0, [bare], 10)]
    told = tables.serve_table(frame.result(rows, {}))
    assert "| the model without a server, full batches | 20.00 | 100% |  |  | 500 |" in told
    assert "| engine serve, 1 client | 6.00 | 30% | 0.5 | 0.5 | 500 |" in told


def test_exported_files_are_compared_with_the_run_on_photos_of_many_sizes(
    finished_run: Path, signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = bench_export.photos(signs / "test", signs / "test_labels.csv", signs / "train", 16)
    assert len({pixels.shape for pixels in shown[0]}) > 8 and sorted(shown[1])[:4] == [""] * 4 and all(shown[1][:12])
    ask = asked_of(models_of(finished_run, Wanted(fold="0"))[0])

    def write(models: object, path: Path, wanted: Wanted, photos: object) -> None:
        if wanted.precision == "int8":
            raise EngineError(f"{path}: it is off by 0.9")
        path.write_bytes(bytes(1500))

    def one_is_off(photos: Any) -> Any:
        p_NC = ask(photos)
        return np.concatenate([p_NC[:1, ::-1], p_NC[1:]])

    exported = SimpleNamespace(open=lambda path, threads: SimpleNamespace(probabilities=one_is_off))
    monkeypatch.setattr(bench_export, "write", write)
    monkeypatch.setattr(bench_export, "Exported", exported)
    options, kinds = SimpleNamespace(timed=2, rounds=1, threads=1), (("onnx", "int8"), ("onnx", "fp32"))
    own, refused, made = bench_export.measure(finished_run, "0", kinds, shown, options, tmp_path)
    assert own["models"] == 2 and "difference" not in own and str(tmp_path) not in refused["refused"]
    assert made["agreement"] == pytest.approx(1 - 1 / len(shown[0])) and made["labelled"] == 12
    assert made["difference"] > 0.01 and made["log_loss"] != own["log_loss"] and len(own["photos_a_second"]) == 1
    bench_export.show([own, made], Console(width=150, file=io.StringIO()))
    told = tables.export_table(frame.result([own, refused, made | {"photos_a_second": [2.0]}], {})).splitlines()
    assert len(told) == 4 and told[-1].startswith("| one fold (2 models, 2 views) | onnxruntime, fp32 |")
    assert f"| {made['difference']:.1e} | {made['agreement']:.1%} |" in told[-1] and told[-1].endswith("| 0 | 2.0 |")


def test_photos_to_score_by_are_those_with_a_known_label(
    squares: Path, tables_of_squares: tuple[Path, Path], settings: experiments.Settings
) -> None:
    test, truth = map(str, tables_of_squares)
    found = photos.labelled_photos(test, truth, settings.base.data, set(COLORS))
    assert len(set(found.ids)) == 35 and found.ids[0] == "blue__01.jpg"
    assert found.labels == ("blue",) * 11 + ("green",) * 12 + ("red",) * 12
    assert found.groups[:9] == ("1", "2", "3", "4", "5", "6", "7", "8", "0")


def test_strangers_are_measured_without_the_class_and_at_hand(squares: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "output": "ignored",
            "data": {"train": str(squares), "cache": str(tmp_path / "cache"), "folds": {"count": 2}},
            "model": {"backbone": "test_convnext", "pretrained": False},
            "decode": {"threads": 1},
            "stage": [{"size": 32, "batch": 8, "epochs": 1, "lr": 1e-3}],
        }
    )
    whole = bench_strangers.prepare(recipe)
    rows = bench_strangers.honest_rows(recipe, whole, "green", tmp_path / "without")
    assert {row["score"] for row in rows} == {"probability", "energy", "distance"}
    assert all(row["known"] > 5 and row["strangers"] == 12 and 0 <= row["auroc"] <= 1 for row in rows), rows
    assert load(tmp_path / "without" / "0").classes == ("blue", "red")
    seen = bench_strangers.at_hand(recipe, tmp_path / "all")
    assert {name for _, _, name in seen} == set(COLORS) and load(tmp_path / "all" / "0").classes == tuple(COLORS)
    assert ("energy", 1, "green") in seen


def test_photos_become_a_challenge_with_a_test_part_that_nobody_trains_on(squares: Path, tmp_path: Path) -> None:
    names = json.loads(f"[{run_recipes.as_challenge(squares, tmp_path)}]")
    assert names == ["blue", "blue_too"]
    trained = [path.read_bytes() for path in tmp_path.glob("train/*/*.jpg")]
    tests = {path.stem: path.read_bytes() for path in tmp_path.glob("test/*.jpg")}
    assert len(trained) + len(tests) == 36 and not set(trained) & set(tests.values())
    sample, truth = (
        (tmp_path / name).read_text("utf-8").split() for name in ("sample_submission.csv", "test_labels.csv")
    )
    assert sample[0] == "ID,blue,green,red,blue_too"
    assert [line.partition(",")[0] for line in sample] == ["ID", *sorted(tests)]
    assert {line.partition(",")[2] for line in truth[1:]} == {"blue", "green", "red"}


def test_every_small_run_fills_its_words_and_has_its_recipe() -> None:
    where = {"photos": "p", "work": "w", "folder": "f", "weights": "l", "names": '"a", "b"'}
    for run in run_recipes.RUNS.values():
        assert (BENCHMARKS.parent / "recipes" / f"{run.recipe}.toml").is_file()
        words = [word for command in (*run.before, run.sets, *run.then) for word in command]
        assert not [word for word in words if re.search(r"\{[a-z]+\}", run_recipes.filled(word, where))]


# --- photos that stay decoded ----------------------------------------------------------------------------------------


def test_caches_are_compared_on_the_same_photos_and_keep_what_they_are_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_cache, "COUNTS", {bench_cache.SMALL: 16, bench_cache.LARGE: 4})
    monkeypatch.setattr(bench_cache, "ENLARGED", 2.0)
    monkeypatch.setattr(bench_cache, "photos", lambda count: bench_cache_photos(tmp_path / "photos", count))
    monkeypatch.setattr(sys, "argv", ["benchmarks/bench_cache.py", "--rounds", "2", "--size", "32"])
    bench_cache.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for count, name in ((16, bench_cache.SMALL), (4, bench_cache.LARGE)):
        rows = [row for row in result["rows"] if row["photos"] == name]
        kept = {(row["cache"], row["fits"]): row["kept_photos"] for row in rows}
        assert kept["off", ""] == kept["host", "nothing"] == kept["disk", "nothing"] == 0
        assert kept["host", "all"] == kept["disk", "all"] == count
        assert 0 < kept["host", "half"] < count
        assert all(len(row[key]) == 2 for row in rows for key in row if key.endswith(("_epoch", "_ms")))


def bench_cache_photos(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (80, 60), (number, 90, 200)).save(path)
    return [str(path) for path in paths]
