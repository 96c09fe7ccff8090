"""MLflow with a database in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.events import EpochRecord
from engine.store.run_folder import RunFolder
from engine.track.mlflow import MLflow, needed_modules, store_of
from engine.track.tracker import End, read_epochs, read_scores

MakeModels = Callable[..., Any]

pytest.importorskip("mlflow")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for MLflow; making the tables takes seconds, so the tests share it."""
    return tmp_path_factory.mktemp("mlflow") / "기록"


def send(run: Any, store: Path, id_: str, end: End) -> None:
    tracker = MLflow(run.run(id_), str(store), id_)
    for fold, epochs in read_epochs(run.run().folds).items():
        tracker.follow(fold, epochs)
    if scores := read_scores(RunFolder(run.folder)):
        tracker.score(scores)
    tracker.close(end)


def runs_of(store: Path, experiment: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store_of(str(store))[0])
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {run.info.run_name: run for run in client.search_runs([found.experiment_id])}


def steps(store: Path, run: Any, metric: str) -> list[int]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=store_of(str(store))[0]).get_metric_history(run.info.run_id, metric)
    return sorted(point.step for point in history)


def test_going_on_is_the_same_run_and_sends_nothing_twice(
    models: MakeModels, make_record: Callable[..., EpochRecord], store: Path
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1))
    send(run, store, "going on", "stopped")
    before = runs_of(store, "going on")
    assert {name: r.info.status for name, r in before.items()} == {"고양이 A": "KILLED", "고양이 A/0": "KILLED"}
    run.log(make_record(0, 2), *(make_record(1, epoch) for epoch in range(3)))
    run.scores(log_loss=0.9, accuracy=0.7)
    for _ in range(2):
        send(run, store, "going on", "finished")
    after = runs_of(store, "going on")
    assert after.keys() == {"고양이 A", "고양이 A/0", "고양이 A/1"}
    assert {r.info.status for r in after.values()} == {"FINISHED"}
    assert after["고양이 A"].info.run_id == before["고양이 A"].info.run_id
    assert steps(store, after["고양이 A/0"], "valid/log_loss") == [0, 1, 2]
    assert steps(store, after["고양이 A"], "out_of_fold/log_loss") == [2]
    assert after["고양이 A"].data.metrics["out_of_fold/accuracy"] == 0.7
    assert after["고양이 A"].data.params["stage.1.lr"] == "0.0001"
    assert after["고양이 A/1"].data.tags["mlflow.parentRunId"] == after["고양이 A"].info.run_id


def test_a_recipe_that_changed_where_it_may_and_long_values_are_no_trouble(
    models: MakeModels, make_record: Callable[..., EpochRecord], store: Path
) -> None:
    names = [[f"이름{i}", f"name{i}"] for i in range(300)]
    run = models(data={"label_names": names, "folds": {"count": 3, "run": [0]}})
    run.log(make_record(0, 0))
    send(run, store, "changed", "stopped")
    other = models(data={"label_names": names, "folds": {"count": 3, "run": [0, 1]}})
    send(other, store, "changed", "finished")
    params = runs_of(store, "changed")["고양이 A"].data.params
    assert params["data.folds.run"] == "[0]" and len(params["data.label_names"]) == 500


def test_a_folder_gets_a_database_and_a_uri_is_left_as_it_is(tmp_path: Path) -> None:
    assert store_of(str(tmp_path / "ml")) == (f"sqlite:///{tmp_path}/ml/mlflow.db", f"file://{tmp_path}/ml/artifacts")
    assert store_of(f"file://{tmp_path}/ml") == store_of(str(tmp_path / "ml"))
    assert store_of(str(tmp_path / "runs.db")) == (f"sqlite:///{tmp_path}/runs.db", None)
    for uri in ("sqlite:///runs.db", "http://localhost:5000", "databricks"):
        assert store_of(uri) == (uri, None)
    assert needed_modules("http://localhost:5000") == ["mlflow"]
    assert needed_modules("sqlite:///runs.db") == ["mlflow", "sqlalchemy", "alembic"]
