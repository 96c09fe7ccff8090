"""A run as MLflow shows it: a run with the recipe's values and the scores over all folds, and in it one run a fold.

The runs are found again by a tag with the run's id, and how far they are is asked of the store, whose writes are whole
or not at all; so nothing is sent twice, whichever process did it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.track.tracker import MARK, End, TrackedEpoch, TrackedFold, TrackedRun, flatten

ID, PARENT = "engine.run", "mlflow.parentRunId"

_STATUS: dict[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_PARAMS_AT_ONCE, _LONGEST_VALUE = 100, 500  # what every MLflow server takes


def store_of(place: str) -> tuple[str, str | None]:
    """The tracking URI that a recipe's `track.mlflow` stands for, and where artifacts lie if the store does not say.

    MLflow no longer keeps runs in a folder of files (since 3.7): a folder gets a database in it.
    """
    place = place.removeprefix("file://")
    if "://" in place or place.partition(":")[0] in ("databricks", "databricks-uc"):
        return place, None
    path = Path(place).absolute()
    if path.suffix == ".db":
        return f"sqlite:///{path}", None
    return f"sqlite:///{path / 'mlflow.db'}", (path / "artifacts").as_uri()


def needed_modules(place: str) -> list[str]:
    """What has to be installed to reach it."""
    is_database = not store_of(place)[0].startswith(("http", "databricks"))
    return ["mlflow", *(("sqlalchemy", "alembic") if is_database else ())]


class MLflow:
    """Sends to the tracking server or database at `place`, into the experiment of that name."""

    def __init__(self, run: TrackedRun, place: str, experiment: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nobody asked for that
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it makes
        uri, artifacts = store_of(place)
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._run = run
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = self._find_experiment(experiment, artifacts)
        self._whole = self._find_run({ID: run.id}, run.name, run.recipe)
        self._folds: dict[TrackedFold, str] = {}
        self._sent: dict[TrackedFold, int] = {}

    def follow(self, fold: TrackedFold, epochs: Sequence[TrackedEpoch]) -> None:
        from mlflow.entities import Metric

        if fold not in self._folds:
            tags = {ID: f"{self._run.id}-{fold.name}", PARENT: self._whole}
            values = {"fold": fold.number, "specialist": fold.specialist or "none"}
            self._folds[fold] = self._find_run(tags, f"{self._run.name}/{fold.name}", values)
            sent = self._client.get_metric_history(self._folds[fold], MARK)
            self._sent[fold] = max((metric.step for metric in sent), default=-1) + 1
        for epoch in epochs[self._sent[fold] :]:
            at = int(epoch.ended * 1000)
            metrics = [Metric(name, value, at, epoch.number) for name, value in epoch.scalars.items()]
            self._client.log_batch(self._folds[fold], metrics=metrics)
            self._sent[fold] += 1

    def score(self, scores: Mapping[str, float]) -> None:
        """Over the number of folds, since a run may go on with more of them."""
        from mlflow.entities import Metric

        known = self._client.get_run(self._whole).data.metrics
        at, folds = int(time.time() * 1000), self._run.scored_folds
        new = {f"out_of_fold/{name}": value for name, value in scores.items()}
        metrics = [Metric(name, value, at, folds) for name, value in new.items() if known.get(name) != value]
        if metrics:
            self._client.log_batch(self._whole, metrics=metrics)

    def close(self, end: End) -> None:
        self._client.set_terminated(self._whole, _STATUS[end])
        while self._folds:  # the last fold first: those before it are finished in any case
            self._client.set_terminated(self._folds.popitem()[1], _STATUS[end])
            end = "finished"

    def drop(self) -> None:
        """Nothing is open between calls."""

    def _find_experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name, artifact_location=artifacts)
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _find_run(self, tags: Mapping[str, str], name: str, values: Mapping[str, object]) -> str:
        """The id of the run with the tag `ID`, made and given its parameters when there is none."""
        found = self._client.search_runs([self._experiment], f"tags.`{ID}` = '{tags[ID]}'", max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
        run = found[0] if found else self._client.create_run(self._experiment, tags=dict(tags), run_name=name)
        self._describe(run.info.run_id, run.data.params, values)
        return run.info.run_id

    def _describe(self, run_id: str, known: Mapping[str, str], values: Mapping[str, object]) -> None:
        """Add the parameters that are not there; MLflow lets none be changed."""
        from mlflow.entities import Param

        new = [Param(k, str(v)[:_LONGEST_VALUE]) for k, v in flatten(values).items() if k not in known]
        for begin in range(0, len(new), _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=new[begin : begin + _PARAMS_AT_ONCE])
