"""The table of past runs: what is found, what it scored, what differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DataError
from engine.events import EpochRecord
from engine.track.runs import DEPTH, differences, find_runs, read_run, sort_runs

Make = Callable[..., EpochRecord]
MakeModels = Callable[..., Any]

STAGE = {"size": 32, "batch": 8, "epochs": 3, "lr": 1e-3}


def test_runs_are_found_below_but_not_in_other_runs_parts(models: MakeModels, tmp_path: Path) -> None:
    for name in (
        "a",
        "a/trial",
        "b/c",
        "a/0",
        "a/specialists/twins",
        "a/wandb/x",
        ".hidden",
        "x/" * (DEPTH + 1) + "deep",
    ):
        models(name).finish()
    (tmp_path / "b" / "run.json").write_text('{"recipe": 3}', "utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{", "utf-8")
    found = find_runs([tmp_path, tmp_path / "a"])
    assert sorted(str(run.folder.relative_to(tmp_path)) for run in found) == ["a", "a/trial", "b/c"]
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_a_finished_run_has_its_scores_and_what_it_took(models: MakeModels) -> None:
    run = models()
    run.finish(log_loss=0.9)
    past = read_run(run.folder)
    assert past is not None and past.finished
    assert (past.name, past.folds_done, past.folds, past.epochs) == ("고양이 A", 2, 2, 6)
    assert past.metrics["log_loss"] == 0.9
    assert (past.seconds, past.images_per_second) == (30.0, 25.0)


def test_the_share_of_waiting_is_over_the_time_of_all_epochs_that_say_it(models: MakeModels, make_record: Make) -> None:
    run = models()
    run.log(make_record(0, 0))  # of an engine that did not measure it
    past = read_run(run.folder)
    assert past is not None and past.waited is None
    run.log(make_record(0, 1, waited=0.1, train_seconds=1.0), make_record(0, 2, waited=0.5, train_seconds=3.0))
    past = read_run(run.folder)
    assert past is not None and past.waited == pytest.approx(0.4)


def test_an_unfinished_run_has_the_mean_of_each_folds_best_epoch(models: MakeModels, make_record: Make) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1), make_record(0, 2), make_record(1, 0))
    past = read_run(run.folder)
    assert past is not None and not past.finished
    assert (past.folds_done, past.epochs, past.epochs_planned) == (1, 4, 6)
    assert past.metrics["log_loss"] == pytest.approx((1.3 + 2.5) / 2)
    assert past.metrics["accuracy"] == pytest.approx((0.52 + 0.5) / 2)
    run.scores(log_loss=0.1)  # of an earlier end, before a fold was added
    os.utime(run.folder / "scores.json", (1, 1))
    again = read_run(run.folder)
    assert again is not None and not again.finished and again.metrics == past.metrics


def test_what_is_selected_by_a_metric_that_should_rise_is_the_highest(models: MakeModels, make_record: Make) -> None:
    run = models(train={"select": "accuracy"})
    for epoch, accuracy in enumerate((0.5, 0.8, 0.6)):
        run.log(make_record(0, epoch, metrics={"log_loss": 1.0 + epoch, "accuracy": accuracy, "macro_f1": 0.1}))
    past = read_run(run.folder)
    assert past is not None and past.metrics == {"log_loss": 2.0, "accuracy": 0.8, "macro_f1": 0.1}


def test_a_run_whose_stages_ended_early_is_finished_when_it_was_scored(models: MakeModels, make_record: Make) -> None:
    run = models(train={"early_stop": {"patience": 1}})
    run.log(make_record(0, 0), make_record(0, 1), make_record(1, 0))
    past = read_run(run.folder)
    assert past is not None and past.folds_done == 1  # another fold follows it
    run.scores(log_loss=0.7)
    past = read_run(run.folder)
    assert past is not None and past.finished and past.folds_done == 2 and past.metrics["log_loss"] == 0.7


def test_a_run_that_has_just_begun_or_held_nothing_out_has_no_scores(models: MakeModels, make_record: Make) -> None:
    begun = read_run(models("begun").folder)
    assert begun is not None and (begun.metrics, begun.epochs, begun.images_per_second) == ({}, 0, 0.0)
    everything = models("all", data={"folds": {"count": 1}}, stage=[STAGE | {"epochs": 1}])
    everything.log(make_record(0, 0, metrics={}))
    (everything.folder / "scores.json").write_text('{"baseline_log_loss": null, "out_of_fold": {}}')
    past = read_run(everything.folder)
    assert past is not None and past.finished and past.metrics == {}


def test_only_keys_that_differ_are_shown_nested_ones_flat(models: MakeModels, tmp_path: Path) -> None:
    models("a", name="a", stage=[STAGE], track={"tensorboard": False})
    models("b", name="b", stage=[STAGE | {"lr": 2e-3}, STAGE], train={"schedule": {"milestones": [1.0]}})
    found = sorted(find_runs([tmp_path]), key=lambda run: run.name)
    differing = differences(found)
    assert differing["stage.0.lr"] == [1e-3, 2e-3]
    assert differing["stage.1.lr"] == ["-", 1e-3]
    assert "stage.1.margin" not in differing  # nobody has said anything about it
    assert differing["train.schedule.milestones"] == ["[]", "[1.0]"]
    assert not differing.keys() & {"name", "output", "track.tensorboard", "stage.0.size", "seed"}
    assert differences(found[:1]) == {}


def test_keys_that_did_not_exist_yet_have_their_defaults(models: MakeModels, tmp_path: Path) -> None:
    models("new")
    old = models("old").folder / "run.json"
    about = json.loads(old.read_text("utf-8"))
    del about["recipe"]["track"], about["recipe"]["train"]["swa_epochs"]
    about["data_fingerprint"] = "other"
    old.write_text(json.dumps(about), "utf-8")
    assert list(differences(find_runs([tmp_path]))) == ["data (fingerprint)"]  # scores of other data


def test_runs_are_sorted_and_those_without_a_score_come_last(models: MakeModels, tmp_path: Path) -> None:
    for at, (name, log_loss) in enumerate((("c", 0.5), ("a", 0.2), ("b", 0.9)), start=1000):
        run = models(name, name=name)
        run.finish(log_loss)
        os.utime(run.folder / "log.jsonl", (at, at))
    models("d", name="d")
    found = find_runs([tmp_path])
    assert [run.name for run in found] == ["c", "a", "b", "d"]
    assert [run.name for run in sort_runs(found, "log_loss")] == ["a", "c", "b", "d"]
    assert [run.name for run in sort_runs(found, "accuracy")][-1] == "d"
    assert [run.name for run in sort_runs(found, "name")] == ["a", "b", "c", "d"]
    assert sort_runs(found, "seconds")[0].name == "d"


def test_the_table_needs_no_torch() -> None:
    code = "import sys, engine.cli.runs; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
