"""One fold: its stages, from wherever an earlier run left off to the last epoch.

The position is (stage, epoch, step), and order, augmentation, learning rate and what is frozen are functions of it (and
of the scores so far), so a run that was stopped between any two steps goes on with exactly the batches it would have
seen. Dropout and stochastic depth draw from torch's generator, which is therefore seeded at every step from the same
address.

Decoding of an epoch begins before the one ahead of it is scored, across the switch to another stage, too: its first
batches are ready when they are asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.mix import mix_at
from engine.augment.policy import Policy
from engine.errors import EngineError, Interrupted
from engine.events import EpochRecord, Stop, Watcher
from engine.inference.member import Member
from engine.inference.predictor import Predictor
from engine.inference.scoring import Images, NotFinite
from engine.inference.scoring import score as score_images
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.metrics import better, confused_pairs, confusion, score
from engine.model.build import Classifier, backbone_config, build_model, set_drop_path
from engine.model.losses import build_loss
from engine.model.runtime import Runtime
from engine.order import Pair, Sampler
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection
from engine.store import checkpoint
from engine.store.epochs import epoch_folder, keep_only
from engine.train.averaging import EpochMean, build_average
from engine.train.freeze import Freezer, thawed_layers, to_training
from engine.train.history import TRAIN_LOSS, epochs_without_gain, kept_epochs, plateau_drops
from engine.train.learner import TrainStep
from engine.train.optim import build_optimizer, set_rate
from engine.train.schedule import Span, rate_factor, time_at
from engine.train.writer import Writer, set_apart

HEAR_EVERY = 16  # steps between reads of the loss: each read makes the CPU wait for the GPU
_GOES_ON = "the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class FoldData:
    """The samples of a run and who of them is trained on and held out (nobody, when all are trained on)."""

    ids: list[str]
    samples: Samples
    classes: list[str]
    train_rows_N: np.ndarray
    held_rows_N: np.ndarray
    fingerprint: str

    def labelled(self, predictions: Predictions, fold: int) -> LabelledPredictions:
        """Predictions about samples that fold number `fold` holds out, with their true classes."""
        labels_N = self.samples.labels_N
        label_of = {self.ids[row]: self.classes[labels_N[row]] for row in self.held_rows_N.tolist()}
        return predictions.labelled([label_of[id_] for id_ in predictions.ids], [fold] * len(predictions))


@dataclasses.dataclass
class Position:
    """Where in the fold training stands, the next step to take, and what the epochs so far came to."""

    stage: int = 0
    epoch: int = 0  # within the stage
    step: int = 0  # within the epoch
    run_epoch: int = 0  # over all stages
    best: float | None = None  # of recipe.train.select
    losses: list[float] = dataclasses.field(default_factory=list)  # of the epoch's steps, by earlier processes
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)  # metrics and train_loss of each epoch
    pairs: list[Pair] = dataclasses.field(default_factory=list)  # of classes confused in the last validation

    def values(self, metric: str, epochs: int | None = None) -> list[float]:
        """A metric's value in the last `epochs` epochs; None: in all."""
        history = self.history if epochs is None else self.history[len(self.history) - epochs :]
        return [metrics[metric] for metrics in history]


class FoldTrainer:
    """Trains fold number `fold` of `recipe` in `folder`; `train` continues what an earlier process left there."""

    def __init__(self, recipe: Recipe, fold: int, data: FoldData, folder: Path, ranks: Ranks) -> None:
        self.recipe, self.fold, self.data, self.folder, self.ranks = recipe, fold, data, folder, ranks
        self.runtime = Runtime.of(recipe.train, ranks.device)
        self.backbone = backbone_config(recipe.model.backbone)
        self.policy = Policy(recipe.augment, self.backbone.mean, self.backbone.std)
        self.loader = Loader(data.samples, recipe.decode, ranks.device, recipe.augment.executor, self.runtime.dtype)
        sampling = recipe.train.sampling
        boost_C = np.where(np.isin(data.classes, sampling.boost_classes), sampling.boost, 1.0)
        self.sampler = Sampler(data.train_rows_N, data.samples.labels_N, sampling, recipe.seed, boost_C)
        self.position = Position()
        self._ahead: Generator[Batch, None, None] | None = None  # the next epoch's batches, being decoded
        self._writer = Writer()
        self._named: set[str] = set()  # bad files that the watcher has heard of

    @property
    def stage(self) -> StageSection:
        return self.recipe.stage[self.position.stage]

    @property
    def scored(self) -> Classifier:
        """The model whose weights are scored and saved."""
        if self.mean is not None and self.mean.epochs:
            return self.mean.model
        return self.average.model if self.average is not None else self.model

    def train(self, watcher: Watcher, stop: Stop) -> None:
        """Train to the end. Raises Interrupted, with the state saved, when `stop` says so."""
        devices = [self.ranks.device] if self.ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._seed(0)
            self._build()
            state = checkpoint.load_resume(self.folder)
            if state is not None and state["finished"]:
                return
            done = self._restore(state) if state else 0
            watcher.fold_begins(self.fold, self._images_total(), done, self.position.run_epoch)
            self._begin_stage(restored=state is not None)
            with self._writer:
                try:
                    while not self._stage_is_over() or self._goes_on():
                        self._run_epoch(watcher, stop)
                finally:
                    self._drop_ahead()
        if self.ranks.leads:
            # The optimiser and the averages are several times the weights, and nothing will need them again.
            checkpoint.save_resume(self.folder, {"finished": True})

    def _build(self) -> None:
        recipe = self.recipe
        model = build_model(recipe.model, len(self.data.classes), recipe.stage[0].size)
        self.model: Classifier = self.runtime.place(model)
        counts_C = torch.tensor(self._class_counts())
        self.loss = build_loss(recipe.model, recipe.train, counts_C).to(self.ranks.device)
        self.optimizer = build_optimizer(self.model, recipe.train)
        self.average = build_average(self.model, recipe.train.ema)
        self.mean = EpochMean(self.model) if recipe.train.swa_epochs else None
        self.stage_best: dict[str, Tensor] | None = None  # weights, for a stage that starts from the best of this one
        self.freezer = Freezer(self.model)
        self.step: TrainStep | None = None

    # -- stages

    def _stage_is_over(self) -> bool:
        at, early = self.position, self.stage.early_stop or self.recipe.train.early_stop
        if at.epoch == self.stage.epochs:
            return True
        metric = self.recipe.train.select if early.metric == "select" else early.metric
        waited = epochs_without_gain(at.values(metric, at.epoch), metric, early.min_delta) if early.patience else 0
        return waited >= early.patience > 0

    def _goes_on(self) -> bool:
        """Begin the next stage; False when there is none."""
        at = self.position
        if at.epoch < self.stage.epochs:
            self._drop_ahead()  # one more epoch of a stage that has ended early
        if at.stage + 1 == len(self.recipe.stage):
            return False
        at.stage, at.epoch = at.stage + 1, 0
        self._begin_stage(restored=False)
        return True

    def _begin_stage(self, restored: bool) -> None:
        """Settings of the stage; and its starting weights, unless they were restored with the position."""
        stage = self.stage
        set_drop_path(self.model, stage.drop_path)
        self.loss.set_margin(stage.margin)
        if restored:
            return
        if stage.start_from != "last":
            source = self.stage_best if stage.start_from == "best" else self._averaged().state_dict()
            assert source is not None  # it was kept, for this
            self.model.load_state_dict(source)
            self.optimizer = build_optimizer(self.model, self.recipe.train)  # moments of other weights mislead
            self.step = None
        if self.average is not None and (stage.ema_restart or stage.start_from != "last"):
            self.average.restart(self.model)
        self.stage_best = None

    def _averaged(self) -> Classifier:
        assert self.average is not None  # the recipe checks it
        return self.average.model

    def _thaw(self) -> None:
        """Let learn what learns in this epoch."""
        changed = self.freezer.thaw(thawed_layers(self.stage, self.position.epoch))
        if self.step is None or changed:
            self.step = TrainStep(self.model, self.loss, self.optimizer, self.recipe.train.clip, self.runtime)

    # -- epochs

    def _run_epoch(self, watcher: Watcher, stop: Stop) -> None:
        at, train, stage = self.position, self.recipe.train, self.stage
        train_loss, images, seconds = self._train_epoch(watcher, stop)
        if not train.sampling.hard_pairs:  # else the next batches depend on this validation
            self._ahead = self._begin_next()
        began = time.perf_counter()
        self._average_epoch()
        held = self._hold_out(watcher) if len(self.data.held_rows_N) else None
        metrics = score(held.probabilities_NC, held.labels_N) if held is not None else {}
        best = held is None or at.best is None or better(train.select, metrics[train.select], at.best)
        record = EpochRecord(
            fold=self.fold,
            stage=at.stage,
            epoch=at.run_epoch,
            size=stage.size,
            lr=self._rate(at.step - 1),
            train_loss=train_loss,
            metrics=metrics,
            best=best,
            images=images,
            train_seconds=seconds,
            valid_seconds=time.perf_counter() - began,
        )
        at.history.append(metrics | {TRAIN_LOSS: train_loss})
        if held is not None:
            if best:
                at.best = metrics[train.select]
            at.pairs = self._confused(held)
            self._keep_for_next_stage()
        weights = self._weights_to_save(held, record)
        at.epoch, at.run_epoch, at.step, at.losses = at.epoch + 1, at.run_epoch + 1, 0, []
        # The log before the state: a process that dies in between logs the epoch again, and the first line is dropped;
        # the other way round it would be missing.
        self._writer.wait()
        watcher.epoch_ends(record)
        self._save(weights)
        self._name_bad_files(watcher)
        if self.ranks.any(stop()):
            raise Interrupted(f"stopped in fold {self.fold}, after epoch {at.run_epoch}; {_GOES_ON}")

    def _train_epoch(self, watcher: Watcher, stop: Stop) -> tuple[float, int, float]:
        """Train from the position to the end of the epoch: mean loss, images and seconds of this process's part."""
        at, parts = self.position, self.stage.accumulate
        batches, self._ahead = self._ahead or self._begin(self.stage, at.run_epoch, at.step), None
        self._thaw()
        to_training(self.model)
        assert self.step is not None
        began = time.perf_counter()
        losses: list[Tensor] = []
        images = 0
        with closing(batches):
            for number, batch in enumerate(batches):
                part = number % parts
                self._seed(at.step * parts + part)
                set_rate(self.optimizer, self._rate(at.step))
                losses.append(self.step(batch.images_BCHW, batch.labels, parts, part == parts - 1))
                seen = len(batch.rows_B) * self.ranks.world
                images += seen
                if part < parts - 1:
                    watcher.images_done(seen, None)
                    continue
                if self.average is not None:
                    self.average.update(self.model)
                at.step += 1
                hear = at.step % HEAR_EVERY == 0
                watcher.images_done(seen, self._hear(losses[-1]) if hear else None)
                # Asking the other ranks makes the CPU wait, too.
                if (hear or self.ranks.world == 1) and self.ranks.any(stop()):
                    self._hear(losses[-1])  # a broken state must not replace the one before it
                    at.losses += torch.stack(losses).tolist()
                    self._save()
                    raise Interrupted(
                        f"stopped in fold {self.fold}, epoch {at.run_epoch + 1}, after step {at.step}; {_GOES_ON}"
                    )
        if losses:
            at.losses += torch.stack(losses).tolist()
        if not at.losses:
            raise EngineError(f"fold {self.fold}: no training image could be read{self._some_bad_files()}")
        means = self.ranks.gather(sum(at.losses) / len(at.losses))
        return self._hear(sum(means) / len(means)), images, time.perf_counter() - began

    def _begin(self, stage: StageSection, number: int, step: int = 0) -> Generator[Batch, None, None]:
        """The batches of epoch `number` of the run from `step` on; decoding begins at once."""
        ranks = self.ranks
        steps = self.sampler.epoch(number, stage.batch * stage.accumulate, ranks.rank, ranks.world, self.position.pairs)
        batches = [part for draws in steps[step:] for part in np.split(draws, stage.accumulate)]
        mix = stage.mix or mix_at(self.recipe.augment.mix, number)
        return self.loader.train(batches, self.policy, Epoch(self.recipe.seed, number, *stage.size, mix))

    def _begin_next(self) -> Generator[Batch, None, None] | None:
        """The batches of the epoch after the current one, if it is the last of its stage of the next stage's first;
        None after the last."""
        at, stages = self.position, self.recipe.stage
        following = at.stage + (at.epoch + 1 == self.stage.epochs)
        return self._begin(stages[following], at.run_epoch + 1) if following < len(stages) else None

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _rate(self, step: int) -> float:
        """The learning rate at a step of the current epoch."""
        at, select = self.position, self.recipe.train.select
        schedule = self.stage.schedule or self.recipe.train.schedule
        spans = [Span(stage.epochs, steps) for stage, steps in zip(self.recipe.stage, self._steps, strict=True)]
        if schedule.over == "run":
            now = time_at(spans, at.stage, at.epoch, step)
        else:
            now = time_at([spans[at.stage]], 0, at.epoch, step)
        drops = 0
        if schedule.kind == "plateau":
            values = at.values(select, None if schedule.over == "run" else at.epoch)
            drops = plateau_drops(values, select, schedule.patience)
        return self.stage.lr * rate_factor(schedule, now, drops)

    @cached_property
    def _steps(self) -> list[int]:
        """Steps in an epoch of each stage."""
        return [self.sampler.steps(s.batch * s.accumulate * self.ranks.world) for s in self.recipe.stage]

    def _average_epoch(self) -> None:
        """Take the epoch's weights into the mean, when it is among the last ones of the run."""
        at, epochs = self.position, self.recipe.train.swa_epochs
        left = self.stage.epochs - at.epoch + sum(stage.epochs for stage in self.recipe.stage[at.stage + 1 :])
        if self.mean is None or left > epochs:
            return
        self.mean.update(self.model)
        if self.mean.norms:
            self._seed(at.step * self.stage.accumulate)
            with self.runtime.autocast(), closing(self._begin(self.stage, at.run_epoch)) as batches:
                self.mean.renew_norms((batch.images_BCHW for batch in batches), self.ranks.device)
            self.ranks.mean_(self.mean.norms)

    def _hold_out(self, watcher: Watcher) -> LabelledPredictions:
        """Score the held-out samples as the weights that would be saved answer them, on all ranks together."""
        data = self.data
        member = Member(self.scored, self._contract(), self.runtime, tuple(data.classes))
        images = Images(self.loader, data.held_rows_N, self.stage.batch)
        try:
            (held,) = score_images(Predictor([member]), images, self.ranks)
        except NotFinite:
            self._hear(math.nan)
            raise
        if not len(held):
            raise EngineError(
                f"fold {self.fold}: none of its {len(data.held_rows_N)} held-out images could be read"
                + self._some_bad_files()
            )
        watcher.images_done(len(held), None)
        return data.labelled(held, self.fold)

    def _confused(self, held: LabelledPredictions) -> list[Pair]:
        if not (top := self.recipe.train.sampling.hard_pairs):
            return []
        confusion_CC = confusion(held.labels_N, held.probabilities_NC.argmax(1), len(self.data.classes))
        return [(pair.first, pair.second, pair.count) for pair in confused_pairs(confusion_CC, top)]

    def _hear(self, loss: Tensor | float) -> float:
        value = float(loss)
        if not math.isfinite(value):
            at = self.position
            raise EngineError(
                f"the loss is {value} in fold {self.fold}, stage {at.stage}, epoch {at.run_epoch + 1}, step {at.step}. "
                f"Lower stage.{at.stage}.lr, lengthen train.schedule.warmup_epochs or set train.clip, and start "
                "afresh with --overwrite"
            )
        return value

    def _name_bad_files(self, watcher: Watcher) -> None:
        """Tell of the files that could not be decoded, each once."""
        for id_, entry in self.loader.quarantine.items():
            if id_ not in self._named:
                watcher.notice(f"set aside: {entry}")
        self._named |= self.loader.quarantine.keys()

    def _some_bad_files(self) -> str:
        return f": {some}" if (some := self.loader.quarantine.some()) else ""

    # -- what is kept

    def _keep_for_next_stage(self) -> None:
        """Keep the scored weights if they are the stage's best and the next stage starts from these."""
        at, select = self.position, self.recipe.train.select
        wanted = any(stage.start_from == "best" for stage in self.recipe.stage[at.stage + 1 : at.stage + 2])
        is_best = epochs_without_gain(at.values(select, at.epoch + 1), select) == 0
        if wanted and (is_best or self.stage_best is None):
            weights = self.scored.state_dict()
            self.stage_best = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def _weights_to_save(self, held: LabelledPredictions | None, record: EpochRecord) -> Callable[[], None]:
        """What writes the epoch's checkpoint where it is the best one, and where it is one of those to keep."""
        at, train = self.position, self.recipe.train
        folders = [self.folder] if record.best else []
        keeps = train.keep_last + train.keep_best > 0
        values = at.values(train.select) if held is not None else [math.nan] * len(at.history)
        kept = kept_epochs(values, train.select, train.keep_last, train.keep_best)
        if at.run_epoch in kept:
            folders.append(epoch_folder(self.folder, at.run_epoch))
        saved = self._checkpoint(record) if folders and self.ranks.leads else None

        def write() -> None:
            for folder in folders:
                assert saved is not None  # only the leading rank writes
                checkpoint.save(folder, saved)
            if keeps:
                keep_only(self.folder, kept)

        return write

    def _checkpoint(self, record: EpochRecord) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(
            weights=set_apart(self.scored.state_dict()),
            recipe=self.recipe.model_dump(mode="json"),
            contract=self._contract().to_dict(),
            classes=tuple(self.data.classes),
            class_counts=self._class_counts(),
            data_fingerprint=self.data.fingerprint,
            metrics=record.metrics,
        )

    def _class_counts(self) -> tuple[int, ...]:
        labels_N = self.data.samples.labels_N[self.data.train_rows_N]
        return tuple(np.bincount(labels_N, minlength=len(self.data.classes)).tolist())

    def _contract(self) -> Contract:
        return Contract.of(self.recipe.augment, self.stage.size, self.backbone.mean, self.backbone.std)

    def _save(self, weights: Callable[[], None] = lambda: None) -> None:
        """Write the position and all that belongs to it, after what `weights` writes."""
        if not self.ranks.leads:
            return
        state = {
            "finished": False,
            "position": dataclasses.asdict(self.position),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "mean": self.mean.state_dict() if self.mean is not None else None,
            "stage_best": self.stage_best,
        }
        apart = set_apart(state)

        def write() -> None:
            weights()
            checkpoint.save_resume(self.folder, apart)

        self._writer.submit(write)

    def _restore(self, state: Mapping[str, Any]) -> int:
        """Take over weights and position; how many images were seen by then."""
        self.position = at = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        self.stage_best = state["stage_best"]
        passed = sum(stage.epochs * self._images_per_epoch(i) for i, stage in enumerate(self.recipe.stage[: at.stage]))
        images = self.stage.batch * self.stage.accumulate * self.ranks.world
        return passed + at.epoch * self._images_per_epoch(at.stage) + at.step * images

    def _images_total(self) -> int:
        return sum(stage.epochs * self._images_per_epoch(i) for i, stage in enumerate(self.recipe.stage))

    def _images_per_epoch(self, index: int) -> int:
        stage = self.recipe.stage[index]
        return self._steps[index] * stage.batch * stage.accumulate * self.ranks.world + len(self.data.held_rows_N)

    def _seed(self, step: int) -> None:
        address = (self.recipe.seed, self.fold, self.position.run_epoch, step, self.ranks.rank)
        digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little"))
