"""A search for the values of a recipe's keys that score best, by Optuna.

Each trial is a run of one fold in `trials/<n>`. Everything a trial is made of is in the study's database before it
begins, so a trial that was stopped or killed goes on as the run that it is, with the same values, when the same command
is given again. The sampler is seeded by the trial's number: a sweep that was interrupted draws what it would have
drawn.

A trial is given up when an epoch's score is worse than the median of earlier trials at that epoch. One that cannot run
(a loss that is no number, values that do not go together, memory) counts as given up, too, so that the search keeps
away from its values.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.data.ingest import Progress
from engine.errors import DataError, EngineError, Interrupted, RecipeError
from engine.events import EpochEnded, Event, Relay, Stop, Watcher
from engine.files import as_written, storage_errors, write_text
from engine.metrics import METRICS
from engine.ranks import Ranks
from engine.recipe.load import dump_recipe, parse_saved
from engine.recipe.sections import Recipe
from engine.store.claim import Claim, claim
from engine.store.occupied import only_one
from engine.store.run_folder import OCCUPIED, RunFolder
from engine.training.prepare import prepare
from engine.training.run import train
from engine.tune.pictures import draw_history
from engine.tune.space import Dimension, parse_space
from engine.tune.trials import TrialBegan, TrialEnded, TrialResult, to_csv

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_SETS, _ERROR, _SECONDS = "sets", "error", "seconds"  # what a trial remembers, beside Optuna's own
_PATIENCE = 3  # trials that cannot run, before any other has


def need_optuna() -> None:
    """Raise EngineError, naming the remedy, when Optuna is not installed."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise EngineError("engine sweep needs Optuna, of the extra `tune`: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every trial; so does the watcher


class Sweep:
    """A search over `space`, "key=range" texts, in `folder`, by the metric train.select of `recipe` on its fold `fold`.

    Raises RecipeError when the recipe or the space cannot be used.
    """

    def __init__(self, recipe: Recipe, space: Sequence[str], folder: Path, fold: int, origin: str = "recipe") -> None:
        if recipe.data.folds.count == 1:
            raise RecipeError("data.folds.count = 1 holds nothing out that trials could be scored by: set 2 or more")
        if not 0 <= fold < recipe.data.folds.count:
            raise RecipeError(f"--fold {fold}: the recipe's folds are 0 to {recipe.data.folds.count - 1}")
        self.folder, self.fold, self.metric, self._origin = folder, fold, recipe.train.select, origin
        self._tables = recipe.model_dump(mode="python", exclude_none=True)
        self.space: list[Dimension] = parse_space(space, self._tables, origin)
        self._space_texts = list(space)
        self._seed = recipe.seed
        self._higher = METRICS[self.metric].higher_is_better

    def begin(self, progress: Progress | None = None) -> None:
        """Look at the data, and claim the folder. Raises RecipeError, DataError."""
        base = self._recipe((), self.folder)
        prepared = prepare(base, progress)
        content = {
            "recipe": base.model_dump(mode="json"),
            "over": self._space_texts,
            "fold": self.fold,
            "data_fingerprint": prepared.fingerprint,
        }
        remedy = "Choose another folder with --out DIR, or remove it"
        claim(Claim(self.folder / "sweep.json", "a sweep", content, remedy))

    def run(self, trials: int, ranks: Ranks, watcher: Watcher, stop: Stop) -> list[TrialResult]:
        """All trials, until there are `trials` that are done, those of earlier calls among them.

        After each, trials.csv, trials.json, history.png and best.toml are written. Raises Interrupted when `stop` says
        so, EngineError when another process sweeps in the folder or no trial can run.
        """
        with only_one(self.folder / OCCUPIED, "a sweep", "Or give --out DIR"), self._study() as study:
            while (running := self._running(study)) or len(_done(study)) < trials:
                goes_on = running is not None
                trial = running or self._ask(study)
                sets = [f"{dimension.key}={dimension.suggest(trial)}" for dimension in self.space]
                trial.set_user_attr(_SETS, sets)
                watcher.hear(TrialBegan(trial.number, tuple(sets), goes_on))
                self._run_trial(study, trial, sets, ranks, watcher, stop)
                torch.compiler.reset()  # what was compiled for its model; there is a limit to how many are kept
                rows = self._write(study)
                done = next(row for row in rows if row.number == trial.number)
                watcher.hear(TrialEnded(done, best=done is self.best(rows)))
                self._check_that_some_run(rows)
            return self._write(study)

    def best(self, rows: Sequence[TrialResult]) -> TrialResult | None:
        """The trial with the best score of those that were trained to the end; of equals the first."""
        first = next(iter(self.ranked(rows)), None)
        return first if first is not None and first.state == "complete" else None

    def ranked(self, rows: Sequence[TrialResult]) -> list[TrialResult]:
        """The trials that were trained to the end, by their scores from the best on, then the others."""
        sign = -1 if self._higher else 1

        def place(row: TrialResult) -> tuple[bool, float]:
            return row.state != "complete", math.inf if row.value is None else sign * row.value

        return sorted(rows, key=place)

    # -- a trial

    def _run_trial(
        self, study: Study, trial: Trial, sets: Sequence[str], ranks: Ranks, watcher: Watcher, stop: Stop
    ) -> None:
        from optuna.trial import TrialState

        folder = self.folder / "trials" / str(trial.number)
        judge: _Judge | None = None
        try:
            recipe = self._recipe(sets, folder)
            judge = _Judge(trial, study.trials[trial.number], self.metric, recipe, stop)
            result = train(prepare(recipe), ranks, Relay(watcher, judge), judge.stops)
        except Interrupted:
            if judge is None or not judge.pruned:
                raise
        except (DataError, OSError):
            raise
        except (EngineError, torch.OutOfMemoryError) as error:
            trial.set_user_attr(_ERROR, str(error).splitlines()[0])
        except Exception as error:  # a fault: it ends the sweep, but must not meet the same command again
            trial.set_user_attr(_ERROR, repr(error))
            study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            study.tell(trial, result.metrics[self.metric])
            return
        study.tell(trial, state=TrialState.PRUNED)
        RunFolder(folder).fold(self.fold).clear()  # weights and optimiser of a run that nobody will go on with

    def _recipe(self, sets: Sequence[str], folder: Path) -> Recipe:
        """The recipe of a trial: one fold of it, the same images held out whatever the trial's seed."""
        tables = {key: value for key, value in self._tables.items() if key != "specialist"}
        own = [f"output={json.dumps(as_written(str(folder)))}", f"data.folds.run=[{self.fold}]"]
        if "seed" not in tables["data"]["folds"]:
            own.append(f"data.folds.seed={self._seed}")
        return parse_saved(tables, (*sets, *own), self._origin)

    # -- the study

    @contextmanager
    def _study(self) -> Iterator[Study]:
        import optuna
        from sqlalchemy.engine import URL

        path = (self.folder / "study.db").absolute()
        with storage_errors(path):
            storage = optuna.storages.RDBStorage(URL.create("sqlite", database=str(path)).render_as_string())
            try:
                yield optuna.create_study(
                    storage=storage,
                    study_name="sweep",
                    load_if_exists=True,
                    direction="maximize" if self._higher else "minimize",
                    pruner=optuna.pruners.MedianPruner(),
                )
            finally:
                storage.remove_session()
                storage.engine.dispose()

    def _running(self, study: Study) -> Trial | None:
        """The trial that an earlier process was stopped or killed in."""
        from optuna.trial import Trial, TrialState

        left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self._reseed(study, left[0].number if left else 0)
        return Trial(study, left[0]._trial_id) if left else None

    def _ask(self, study: Study) -> Trial:
        self._reseed(study, len(study.get_trials(deepcopy=False)))
        return study.ask()

    def _reseed(self, study: Study, number: int) -> None:
        import optuna

        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed)

    def _check_that_some_run(self, rows: Sequence[TrialResult]) -> None:
        errors = [row.error for row in rows if row.error]
        if len(errors) >= _PATIENCE and len(errors) == len(rows):
            raise EngineError(f"none of {len(rows)} trials could run; the last: {errors[-1]}")

    # -- what is written

    def _write(self, study: Study) -> list[TrialResult]:
        rows = [_row(trial) for trial in study.get_trials(deepcopy=False)]
        write_text(self.folder / "trials.csv", to_csv(rows, [dimension.key for dimension in self.space]))
        tables = {"metric": self.metric, "trials": [dataclasses.asdict(row) for row in rows]}
        write_text(self.folder / "trials.json", json.dumps(tables, ensure_ascii=False, indent=1) + "\n")
        if best := self.best(rows):
            recipe = parse_saved(self._tables, best.sets, self._origin)
            write_text(self.folder / "best.toml", dump_recipe(recipe))
            draw_history([(row.number, row.value) for row in rows if row.state == "complete"], self.metric, self.folder)
        return rows


class _Judge(Watcher):
    """Reports a trial's epochs to its study, and stops its run when the study gives it up."""

    def __init__(self, trial: Trial, before: FrozenTrial, metric: str, recipe: Recipe, stop: Stop) -> None:
        self.pruned = False
        self._trial, self._metric, self._stop = trial, metric, stop
        self._told = set(before.intermediate_values)  # by an earlier process, as the next one
        self._seconds = before.user_attrs.get(_SECONDS, 0.0)
        self._epochs = sum(stage.epochs for stage in recipe.stage)

    def stops(self) -> bool:
        return self.pruned or self._stop()

    def hear(self, event: Event) -> None:
        if not isinstance(event, EpochEnded):
            return
        record = event.record
        self._seconds += record.train_seconds + record.valid_seconds
        self._trial.set_user_attr(_SECONDS, self._seconds)
        if record.epoch not in self._told:
            self._trial.report(record.metrics[self._metric], record.epoch)
        is_last = record.epoch + 1 >= self._epochs
        self.pruned = not is_last and self._trial.should_prune()


def _row(trial: FrozenTrial) -> TrialResult:
    error = trial.user_attrs.get(_ERROR, "")
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running"}.get(trial.state.name, "failed")
    return TrialResult(
        number=trial.number,
        state="failed" if error else state,
        value=None if error else trial.value,
        epochs=len(trial.intermediate_values),
        seconds=round(trial.user_attrs.get(_SECONDS, 0.0), 1),
        sets=tuple(trial.user_attrs.get(_SETS, ())),
        error=error,
    )


def _done(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
