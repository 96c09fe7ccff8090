"""One fold: its stages, from wherever an earlier run left off to the last epoch.

The position is (stage, epoch, step), and order and augmentation are functions of it, so a run that was stopped between
any two steps goes on with exactly the batches it would have seen. Dropout and stochastic depth draw from torch's
generator, which is therefore seeded at every step from the same address.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from engine import checkpoint
from engine.augment.contract import Contract
from engine.augment.draw import Policy
from engine.augment.loader import Epoch, Loader, Samples
from engine.augment.mix import mix_at
from engine.errors import EngineError, Interrupted
from engine.metrics import better, score
from engine.model.build import Classifier, backbone_config, build_model, set_drop_path
from engine.model.losses import MixedLabels, build_loss
from engine.model.runtime import Runtime
from engine.order import epoch_batches, eval_batches
from engine.recipe.augment import MixSection
from engine.recipe.sections import Recipe, StageSection
from engine.train.averaging import build_average, scored_model
from engine.train.events import EpochRecord, Stop, Watcher
from engine.train.oof import Held, write_held
from engine.train.optim import build_optimizer, stage_schedule
from engine.train.ranks import Ranks
from engine.train.stage import TrainStep, probabilities

HEAR_EVERY = 16  # steps between reads of the loss: each read makes the CPU wait for the GPU


@dataclasses.dataclass(frozen=True)
class FoldData:
    """The samples of a run and who of them is trained on and held out."""

    ids: list[str]
    samples: Samples
    classes: list[str]
    train_rows_N: np.ndarray
    held_rows_N: np.ndarray
    fingerprint: str


@dataclasses.dataclass
class Position:
    """Where in the fold training stands: the next step to take."""

    stage: int = 0
    epoch: int = 0  # within the stage
    step: int = 0  # within the epoch
    run_epoch: int = 0  # over all stages
    best: float | None = None  # of recipe.train.select


class FoldTrainer:
    """Trains fold number `fold` of `recipe` in `folder`; `train` continues what an earlier process left there."""

    def __init__(self, recipe: Recipe, fold: int, data: FoldData, folder: Path, ranks: Ranks) -> None:
        self.recipe, self.fold, self.data, self.folder, self.ranks = recipe, fold, data, folder, ranks
        self.runtime = Runtime.of(recipe.train, ranks.device)
        self.backbone = backbone_config(recipe.model.backbone)
        self.policy = Policy(recipe.augment, self.backbone.mean, self.backbone.std)
        self.loader = Loader(data.samples, recipe.decode, ranks.device, recipe.augment.executor, self.runtime.dtype)
        self.position = Position()

    def train(self, watcher: Watcher, stop: Stop) -> None:
        """Train to the end. Raises Interrupted, with the state saved, when `stop` says so."""
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._seed(0)
            self._build()
            state = checkpoint.load_resume(self.folder)
            if state is not None and state["finished"]:
                return
            watcher.fold_begins(self.fold, self._images_total(), self._restore(state) if state else 0)
            while self.position.stage < len(self.recipe.stage):
                self._run_stage(watcher, stop, state)
                state = None
        if self.ranks.leads:
            # The optimiser and the averages are several times the weights, and nothing will need them again.
            checkpoint.save_resume(self.folder, {"finished": True})

    def _build(self) -> None:
        recipe = self.recipe
        model = build_model(recipe.model, len(self.data.classes), recipe.stage[0].size)
        self.model: Classifier = self.runtime.place(model)
        self.loss = build_loss(recipe.model, recipe.train.label_smoothing).to(self.ranks.device)
        self.optimizer = build_optimizer(self.model, recipe.train)
        self.average = build_average(self.model, recipe.train.ema)
        self.step = TrainStep(self.model, self.loss, self.optimizer, recipe.train.clip, self.runtime)

    def _run_stage(self, watcher: Watcher, stop: Stop, state: Mapping[str, Any] | None) -> None:
        at = self.position
        stage = self.recipe.stage[at.stage]
        steps_per_epoch = len(self._batches(stage))
        schedule = stage_schedule(self.optimizer, self.recipe.train, stage, steps_per_epoch)
        set_drop_path(self.model, stage.drop_path)
        self.loss.set_margin(stage.margin)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
        elif stage.ema_restart and self.average is not None:
            self.average.restart(self.model)
        while at.epoch < stage.epochs:
            train_loss, images, seconds = self._train_epoch(stage, schedule, watcher, stop)
            began = time.perf_counter()
            held = self._hold_out(stage, watcher)
            metrics = score(held.probabilities_NC, held.labels_N)
            select = self.recipe.train.select
            best = at.best is None or better(select, metrics[select], at.best)
            record = EpochRecord(
                fold=self.fold,
                stage=at.stage,
                epoch=at.run_epoch,
                size=stage.size,
                lr=float(self.optimizer.param_groups[0]["lr"]),
                train_loss=train_loss,
                metrics=metrics,
                best=best,
                images=images,
                train_seconds=seconds,
                valid_seconds=time.perf_counter() - began,
            )
            if best:
                at.best = metrics[select]
                self._save_best(stage, held, record)
            at.epoch, at.run_epoch, at.step = at.epoch + 1, at.run_epoch + 1, 0
            self._save_resume(schedule)
            watcher.epoch_ends(record)
        at.stage, at.epoch = at.stage + 1, 0

    def _train_epoch(
        self, stage: StageSection, schedule: LRScheduler, watcher: Watcher, stop: Stop
    ) -> tuple[float, int, float]:
        """Train from the position to the end of the epoch: mean loss, images of this process, seconds."""
        at = self.position
        batches = self._batches(stage)[at.step :]
        epoch = Epoch(self.recipe.seed, at.run_epoch, *stage.size, self._mix(stage))
        self.model.train()
        began = time.perf_counter()
        losses: list[torch.Tensor] = []
        images = 0
        for batch in self.loader.train(batches, self.policy, epoch):
            self._seed(at.step)
            labels = MixedLabels(batch.own_B, batch.partner_B, batch.share_B)
            losses.append(self.step(batch.images_BCHW, labels))
            schedule.step()
            if self.average is not None:
                self.average.update(self.model)
            at.step += 1
            images += len(batch.rows_B)
            hear = at.step % HEAR_EVERY == 0
            watcher.images_done(len(batch.rows_B) * self.ranks.world, self._hear(losses[-1]) if hear else None)
            if (hear or self.ranks.world == 1) and self.ranks.any(stop()):
                self._save_resume(schedule)
                raise Interrupted(
                    f"stopped in fold {self.fold}, epoch {at.run_epoch + 1}, after step {at.step}; "
                    "the same command goes on from here"
                )
        if not losses:
            raise EngineError(f"fold {self.fold}: no training image could be read; see {self.folder / 'log.jsonl'}")
        mean = self._hear(torch.stack(losses).float().mean())
        return mean, images, time.perf_counter() - began

    def _hear(self, loss: torch.Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            at = self.position
            raise EngineError(
                f"the loss is {value} in fold {self.fold}, stage {at.stage}, epoch {at.run_epoch + 1}, step {at.step}. "
                f"Lower stage.{at.stage}.lr, or lengthen train.warmup_epochs, or set train.clip"
            )
        return value

    def _hold_out(self, stage: StageSection, watcher: Watcher) -> Held:
        """Score the held-out samples as the weights that would be saved answer them, on all ranks together."""
        ranks, data = self.ranks, self.data
        model = scored_model(self.model, self.average)
        batches = eval_batches(data.held_rows_N, stage.batch, ranks.rank, ranks.world)
        answers_NC, rows_N = probabilities(model, self.loader.valid(batches, self._contract(stage)), self.runtime)
        pieces = ranks.gather((answers_NC, rows_N))
        answers = [a for a, _ in pieces if len(a)]
        rows = np.concatenate([r for _, r in pieces])
        if not answers:
            raise EngineError(f"fold {self.fold}: none of its {len(data.held_rows_N)} held-out images could be read")
        watcher.images_done(len(rows), None)
        order = np.argsort(rows)
        rows = rows[order]
        return Held(
            ids=[data.ids[row] for row in rows],
            labels_N=data.samples.labels_N[rows],
            probabilities_NC=np.concatenate(answers)[order],
        )

    def _save_best(self, stage: StageSection, held: Held, record: EpochRecord) -> None:
        if not self.ranks.leads:
            return
        model = scored_model(self.model, self.average)
        checkpoint.save(
            self.folder,
            checkpoint.Checkpoint(
                weights=model.state_dict(),
                recipe=self.recipe.model_dump(mode="json"),
                contract=self._contract(stage).to_dict(),
                classes=tuple(self.data.classes),
                class_counts=self._class_counts(),
                data_fingerprint=self.data.fingerprint,
                metrics=record.metrics,
            ),
        )
        write_held(self.folder / "oof.parquet", held, self.data.classes, self.fold)

    def _class_counts(self) -> tuple[int, ...]:
        labels_N = self.data.samples.labels_N[self.data.train_rows_N]
        return tuple(np.bincount(labels_N, minlength=len(self.data.classes)).tolist())

    def _save_resume(self, schedule: LRScheduler) -> None:
        if not self.ranks.leads:
            return
        checkpoint.save_resume(
            self.folder,
            {
                "finished": False,
                "position": dataclasses.asdict(self.position),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "average": self.average.state_dict() if self.average is not None else None,
            },
        )

    def _restore(self, state: Mapping[str, Any]) -> int:
        """Take over weights and position; how many images were seen by then."""
        self.position = at = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        done = sum(s.epochs * self._images_per_epoch(s) for s in self.recipe.stage[: at.stage])
        if at.stage < len(self.recipe.stage):
            stage = self.recipe.stage[at.stage]
            done += at.epoch * self._images_per_epoch(stage) + at.step * stage.batch * self.ranks.world
        return done

    def _images_total(self) -> int:
        return sum(stage.epochs * self._images_per_epoch(stage) for stage in self.recipe.stage)

    def _images_per_epoch(self, stage: StageSection) -> int:
        return len(self._batches(stage)) * stage.batch * self.ranks.world + len(self.data.held_rows_N)

    def _batches(self, stage: StageSection) -> list[np.ndarray]:
        return epoch_batches(
            self.data.train_rows_N,
            stage.batch,
            self.recipe.seed,
            self.position.run_epoch,
            self.ranks.rank,
            self.ranks.world,
        )

    def _mix(self, stage: StageSection) -> MixSection | None:
        """The mixing of the current epoch: the stage's own, else the first span of `augment.mix` that covers it."""
        return stage.mix or mix_at(self.recipe.augment.mix, self.position.run_epoch)

    def _contract(self, stage: StageSection) -> Contract:
        return Contract.of(self.recipe.augment, stage.size, self.backbone.mean, self.backbone.std)

    def _seed(self, step: int) -> None:
        address = (self.recipe.seed, self.fold, self.position.run_epoch, step, self.ranks.rank)
        digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little"))
