"""That trackers are kept up with a run, and never in its way."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import EpochEnded, EpochRecord, FoldBegan
from engine.store.run_folder import RunFolder
from engine.track import tracking
from engine.track.tracker import End, TrackedEpoch, TrackedFold, TrackedRun
from engine.track.tracking import Tracking, check

Make = Callable[..., EpochRecord]
MakeModels = Callable[..., Any]


class Fake:
    """A tracker that remembers, across processes, and can be made to fail or to hang."""

    sent: dict[str, list[int]]
    ends: list[End]
    scores: list[Mapping[str, float]]
    opened: int
    broken: bool
    gate: threading.Event

    @classmethod
    def reset(cls) -> None:
        cls.sent, cls.ends, cls.scores, cls.opened, cls.broken = {}, [], [], 0, False
        cls.gate = threading.Event()
        cls.gate.set()

    def __init__(self, run: TrackedRun, *_: object) -> None:
        type(self).opened += 1

    def follow(self, fold: TrackedFold, epochs: Sequence[TrackedEpoch]) -> None:
        self.gate.wait()
        if self.broken:
            raise OSError("no route to host")
        known = self.sent.setdefault(fold.name, [])
        known += [epoch.number for epoch in epochs[len(known) :]]

    def score(self, scores: Mapping[str, float]) -> None:
        self.scores.append(scores)

    def close(self, end: End) -> None:
        self.ends.append(end)

    def drop(self) -> None:
        raise OSError("dropping fails as well")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """In place of MLflow, which recipes here ask for."""
    Fake.reset()
    monkeypatch.setattr(tracking, "MLflow", Fake)
    return Fake


TRACK = {"tensorboard": False, "mlflow": "anywhere"}


def train(run: Any, watched: Tracking, *records: EpochRecord) -> None:
    """What training does at the end of each epoch."""
    for record in records:
        run.log(record)
        watched.hear(EpochEnded(record))


def test_a_run_is_followed_while_it_trains_and_scored_when_it_is_finished(
    models: MakeModels, make_record: Make, diary: Any
) -> None:
    run = models(track=TRACK)
    with Tracking(run.recipe, diary) as watched:
        watched.hear(FoldBegan(0, 100, 0, 0))
        train(run, watched, make_record(0, 0), make_record(0, 1))
        until = time.monotonic() + 5
        while Fake.sent != {"0": [0, 1]} and time.monotonic() < until:
            time.sleep(0.01)
        assert Fake.sent == {"0": [0, 1]} and not Fake.scores
        train(run, watched, make_record(1, 0))
        run.scores(log_loss=0.5)
    assert Fake.sent == {"0": [0, 1], "1": [0]}
    assert Fake.scores == [{"log_loss": 0.5, "baseline_log_loss": 2.3}] and Fake.ends == ["finished"]
    assert not diary.notices


def test_an_interrupted_run_is_no_finished_one_and_the_next_process_goes_on(
    models: MakeModels, make_record: Make, diary: Any
) -> None:
    run = models(track=TRACK)
    run.scores(log_loss=0.5)  # of fewer folds
    with pytest.raises(Interrupted), Tracking(run.recipe, diary) as watched:
        train(run, watched, make_record(0, 0))
        raise Interrupted("Ctrl-C")
    assert Fake.ends == ["stopped"] and not Fake.scores
    id_ = json.loads((run.folder / "track.json").read_text("utf-8"))["id"]
    with Tracking(run.recipe, diary) as watched:
        watched.hear(FoldBegan(0, 100, 50, 1))
        train(run, watched, make_record(0, 1))
    assert Fake.sent == {"0": [0, 1]} and Fake.ends[1:] == ["finished"]
    assert json.loads((run.folder / "track.json").read_text("utf-8"))["id"] == id_


def test_a_finished_run_is_sent_after_the_fact_and_then_left_alone(models: MakeModels, diary: Any) -> None:
    run = models(track=TRACK)
    run.finish()
    for _ in range(2):
        with Tracking(run.recipe, diary):
            pass  # nothing is left to train
    assert Fake.sent == {"0": [0, 1, 2], "1": [0, 1, 2]} and Fake.opened == 1
    elsewhere = models(track=TRACK | {"mlflow": "elsewhere"})
    with Tracking(elsewhere.recipe, diary):
        pass
    assert Fake.opened == 2


def test_a_tracker_that_fails_is_told_of_once_and_caught_up_with(
    models: MakeModels, make_record: Make, diary: Any
) -> None:
    run = models(track=TRACK)
    Fake.broken = True
    with Tracking(run.recipe, diary) as watched:
        for epoch in range(20):
            train(run, watched, make_record(0, epoch))
            time.sleep(0.02)
        assert [
            n for n in diary.notices if "MLflow: no route to host" in n and "Training goes on" in n
        ] == diary.notices
        assert len(diary.notices) == 1
        Fake.broken = False
    assert Fake.sent == {"0": list(range(20))} and len(diary.notices) == 1


def test_one_that_fails_to_the_end_is_named_and_nothing_is_remembered_as_sent(
    models: MakeModels, make_record: Make, diary: Any
) -> None:
    run = models(track=TRACK)
    Fake.broken = True
    with Tracking(run.recipe, diary) as watched:
        train(run, watched, make_record(0, 0))
    assert "given again" in diary.notices[-1]
    Fake.broken = False
    with Tracking(run.recipe, diary):
        pass
    assert Fake.sent == {"0": [0]}


def test_a_tracker_that_hangs_holds_up_neither_an_epoch_nor_for_long_the_end(
    models: MakeModels, make_record: Make, diary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking._PATIENCE_S, "finished", 0.3)
    run = models(track=TRACK)
    Fake.gate.clear()
    with Tracking(run.recipe, diary) as watched:
        train(run, watched, *(make_record(0, epoch) for epoch in range(5)))
    assert not Fake.sent  # nothing above has waited for it
    Fake.gate.set()
    assert "MLflow did not answer in time" in diary.notices[-1]


def test_a_run_that_is_refused_leaves_no_trace(models: MakeModels, diary: Any) -> None:
    run = models(track=TRACK)
    with pytest.raises(RecipeError), Tracking(run.recipe, diary):
        raise RecipeError("the folder holds another run")
    assert Fake.opened == 0 and not (run.folder / "track.json").exists()


def test_a_run_begun_afresh_is_another_one(models: MakeModels, make_record: Make, diary: Any) -> None:
    run = models(track=TRACK | {"tensorboard": True})
    ids = []
    for _ in range(2):
        with Tracking(run.recipe, diary) as watched:
            RunFolder(run.folder).clear()  # as training does
            train(run, watched, make_record(0, 0))
        ids.append(json.loads((run.folder / "track.json").read_text("utf-8"))["id"])
        assert len([*(run.folder / "tensorboard" / "0").iterdir()]) == 1
    assert ids[0] != ids[1]


def test_specialists_have_curves_of_their_own(models: MakeModels, make_record: Make, diary: Any) -> None:
    run = models(track=TRACK, specialist=[{"name": "쌍둥이", "classes": ["a", "b"]}])
    run.finish()
    models("models/specialists/쌍둥이").log(make_record(0, 0), make_record(1, 0))
    with Tracking(run.recipe, diary):
        pass
    assert Fake.sent == {"0": [0, 1, 2], "1": [0, 1, 2], "쌍둥이/0": [0], "쌍둥이/1": [0]}


def test_a_missing_package_is_named_with_its_remedy_before_training(
    models: MakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    missing = {"wandb", "sqlalchemy"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    with pytest.raises(EngineError, match=r"track.wandb needs wandb.*pip install wandb.*track.wandb = \"\""):
        check(models(track={"wandb": "p"}).recipe.track)
    with pytest.raises(EngineError, match=r"track.mlflow needs sqlalchemy"):
        check(models(track={"mlflow": "sqlite:///runs.db"}).recipe.track)
    check(models(track={"mlflow": "http://localhost:5000"}).recipe.track)
    check(models().recipe.track)
