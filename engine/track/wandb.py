"""A run as Weights & Biases shows it: one run a fold, in one group.

That is how W&B means cross-validation: the folds' curves carry the same names and are drawn over each other, and the
group's row shows their mean. The group is named after the recipe and the run's id, since two runs of one recipe are two
groups. The scores over all folds stand in the summary of each.

Online the server says how far a run is, and the rest is sent. Offline there is no going on: a second process would
leave a second part that overwrites the first one when both are synced. So a process that goes on writes the run
whole, in place of the folder of the one before; the log makes that quick.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.track.tracker import End, TrackedEpoch, TrackedFold, TrackedRun

if TYPE_CHECKING:
    from wandb import Run as WandbRun

PATIENCE_S = 30.0  # for what the network has to do before a call gives up

_EXIT_CODES: dict[End, int] = {"finished": 0, "stopped": 255, "failed": 1}  # 255 is shown as killed


def chosen_mode(mode: str) -> str:
    """The recipe's mode, or that of the environment, which goes first: the machine knows whether it has a network."""
    mode = os.environ.get("WANDB_MODE") or mode
    return "offline" if mode == "dryrun" else mode


class Wandb:
    """Sends to the project `project`, or `entity/project`."""

    def __init__(self, run: TrackedRun, project: str, mode: str) -> None:
        self._run, self._mode = run, chosen_mode(mode)
        entity, _, name = project.rpartition("/")
        self._entity, self._project = entity or None, name
        self._open: dict[TrackedFold, WandbRun] = {}
        self._sent: dict[TrackedFold, int] = {}

    def follow(self, fold: TrackedFold, epochs: Sequence[TrackedEpoch]) -> None:
        run = self._opened(fold)
        for epoch in epochs[self._sent[fold] :]:
            own = {"epoch": epoch.number, "best": int(epoch.record.best), "_timestamp": epoch.ended}
            run.log(epoch.scalars | own, step=epoch.number)
            self._sent[fold] += 1

    def score(self, scores: Mapping[str, float]) -> None:
        for fold, run in self._open.items():
            if not fold.specialist:
                run.summary.update({f"out_of_fold/{name}": value for name, value in scores.items()})

    def close(self, end: End) -> None:
        while self._open:  # the last fold first: those before it are finished in any case
            self._open.popitem()[1].finish(exit_code=_EXIT_CODES[end])
            end = "finished"

    def drop(self) -> None:
        """Its service holds on to the ids of runs, even of those that it could not begin."""
        import wandb

        self._open.clear()
        wandb.teardown(exit_code=_EXIT_CODES["failed"])

    def _opened(self, fold: TrackedFold) -> WandbRun:
        if fold not in self._open:
            run = self._begin(fold)
            run.define_metric("epoch", hidden=True)
            run.define_metric("*", step_metric="epoch")
            run.define_metric("valid/log_loss", step_metric="epoch", summary="min")
            for name in ("accuracy", "macro_f1"):
                run.define_metric(f"valid/{name}", step_metric="epoch", summary="max")
            self._open[fold], self._sent[fold] = run, run.starting_step if self._mode == "online" else 0
        return self._open[fold]

    def _begin(self, fold: TrackedFold) -> WandbRun:
        import wandb

        id_ = f"{self._run.id}-{fold.name.replace('/', '-')}"
        if self._mode == "offline":
            for folder in self._run.folder.wandb.glob(f"offline-run-*-{id_}"):
                shutil.rmtree(folder)
        settings: dict[str, Any] = {"console": "off", "silent": True, "init_timeout": PATIENCE_S}
        settings |= {"finish_timeout": PATIENCE_S, "finish_timeout_raises": True}
        return wandb.init(
            project=self._project,
            entity=self._entity,
            dir=self._run.folder.path,
            id=id_,
            name=f"{self._run.name}/{fold.name}",
            group=f"{self._run.name}-{self._run.id[:6]}",
            job_type=fold.specialist or "fold",
            config={**self._run.recipe, "fold": fold.number},
            allow_val_change=True,
            mode=self._mode,  # type: ignore[arg-type]  # one of those it takes
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(**settings),
        )
