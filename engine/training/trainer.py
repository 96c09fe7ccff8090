"""One fold: its stages, from wherever an earlier run left off to the last epoch.

The trainer keeps the loop and the position. What is learnt with is the learner's, what is learnt from the feed's, and
when a stage ends and how fast it learns are functions of the position. So a run that was stopped between any two steps
goes on with exactly the batches it would have seen. Dropout and stochastic depth draw from torch's generator, which is
therefore seeded at every step from the same address.

Decoding of an epoch begins before the one ahead of it is scored, across the switch to another stage, too: its first
batches are ready when they are asked for. And while a stage's last epoch is learnt, the next one's step is compiled
beside it (ahead.py).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from engine.augment.mix import Labels
from engine.errors import EngineError, Interrupted
from engine.events import EpochEnded, EpochRecord, FileSetAside, FoldBegan, ImagesDone, Notice, Stop, Watcher
from engine.exhausted import Where, told_when_exhausted
from engine.inference.member import Member
from engine.inference.members import Members
from engine.inference.scoring import Images, NotFinite
from engine.inference.scoring import score as score_images
from engine.loader.batches import Batch
from engine.loader.decoded_cache import DecodedCache
from engine.metrics import better, confused_pairs, confusion, score
from engine.model.runtime import Runtime
from engine.order import Pair
from engine.predictions import LabelledPredictions
from engine.ranks import Ranks
from engine.recipe.sections import Recipe, StageSection
from engine.store import checkpoint
from engine.store.epochs import EpochAnswers, add_epoch
from engine.store.resume import load_resume, save_begun, save_resume
from engine.store.run_folder import FoldFolder, MemberFolder
from engine.training.ahead import Ahead, Task, worth_it
from engine.training.feed import Feed, FoldData
from engine.training.history import TRAIN_LOSS, epochs_without_gain, kept_epochs
from engine.training.learner import Learner
from engine.training.memory import size_of, smaller_stage
from engine.training.position import Position, Timetable, own_randomness, seed_torch
from engine.training.writer import Writer, set_apart

HEAR_EVERY = 16  # steps between reads of the loss: each read makes the CPU wait for the GPU
_COMPILED: set[str] = set()  # what this process has had compiled ahead of time
_GOES_ON = "the same command goes on from here"


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What training through an epoch came to, in this process's part of it."""

    loss: float  # mean over all of the epoch's steps, on all ranks
    images: int
    seconds: float
    waited: float  # of these seconds, the share in which the host waited for the next batch; see _Waits


class FoldTrainer:
    """Trains fold number `fold` of `recipe` in `folder`; `train` continues what an earlier process left there.

    `specialist`: whose fold it is; "" for the main model's. `cache` keeps photos of the run decoded. Raises RecipeError
    where the model cannot be built.
    """

    def __init__(
        self,
        recipe: Recipe,
        fold: int,
        data: FoldData,
        folder: FoldFolder,
        ranks: Ranks,
        specialist: str = "",
        cache: DecodedCache | None = None,
    ) -> None:
        self.recipe, self.fold, self.data, self.folder, self.ranks = recipe, fold, data, folder, ranks
        self.specialist = specialist
        self.runtime = Runtime.of(recipe.train, ranks.device)
        self.feed = Feed(recipe, data, ranks, self.runtime.dtype, cache)
        steps = [self.feed.steps(stage) for stage in recipe.stage]
        self.timetable = Timetable(recipe.stage, recipe.train, steps, len(data.held_rows_N), ranks.world)
        self.position = Position()
        with own_randomness(ranks.device):
            self._seed(0)
            counts_C = torch.tensor(data.class_counts)
            size = recipe.stage[0].size
            self.learner = Learner(recipe.model, recipe.train, len(data.classes), size, self.runtime, counts_C)
        self._stage_best: dict[str, Tensor] | None = None  # weights, for a stage that starts from the best of this one
        self._ahead: Generator[Batch, None, None] | None = None  # the next epoch's batches, being decoded
        self._compiling: Ahead | None = None  # of the next stage's step
        self._writer = Writer()
        self._named: set[str] = set()  # bad files that the watcher has heard of

    @property
    def stage(self) -> StageSection:
        return self.recipe.stage[self.position.stage]

    def train(self, watcher: Watcher, stop: Stop) -> None:
        """Train to the end. Raises Interrupted, with the state saved, when `stop` says so."""
        state = load_resume(self.folder.resume)
        if state is not None and state["finished"]:
            return
        restored = state is not None and "position" in state
        if state is not None and restored:
            self._restore(state)
        elif self.ranks.leads:
            save_begun(self.folder.resume)
        at = self.position
        watcher.hear(FoldBegan(self.fold, self.timetable.images, self.timetable.images_done(at), at.run_epoch))
        with told_when_exhausted(self._doing, self._smaller), own_randomness(self.ranks.device), self._writer:
            self._begin_stage(restored)
            try:
                while not self.timetable.is_over(at) or self._goes_on():
                    self._run_epoch(watcher, stop)
            finally:
                self._drop_ahead()
                if self._compiling is not None:
                    self._compiling.close()
        if self.ranks.leads:
            for member in (self.folder, *self.folder.epochs()):
                member.mark_finished()
            # The optimiser and the averages are several times the weights, and nothing will need them again.
            save_resume(self.folder.resume, {"finished": True})

    # -- stages

    def _goes_on(self) -> bool:
        """Begin the next stage; False when there is none."""
        at = self.position
        if at.epoch < self.stage.epochs:
            self._drop_ahead()  # one more epoch of a stage that has ended early
        if at.stage + 1 == len(self.recipe.stage):
            return False
        at.next_stage()
        self._begin_stage(restored=False)
        return True

    def _begin_stage(self, restored: bool) -> None:
        """Settings of the stage; and its starting weights, unless they were restored with the position."""
        stage, learner = self.stage, self.learner
        if self._compiling is not None:
            self._compiling.wait()  # where it has failed, the first step compiles
            self._compiling = None
        learner.begin_stage(stage)
        if restored:
            return
        if stage.start_from == "best":
            assert self._stage_best is not None  # it was kept, for this
            learner.start_from(self._stage_best)
        elif stage.start_from == "average":
            assert learner.average is not None  # the recipe checks it
            learner.start_from(learner.average.model.state_dict())
        if stage.ema_restart or stage.start_from != "last":
            learner.restart_average()
        self._stage_best = None

    # -- epochs

    def _run_epoch(self, watcher: Watcher, stop: Stop) -> None:
        at, train, stage = self.position, self.recipe.train, self.stage
        trained = self._train_epoch(watcher, stop)
        if not train.sampling.hard_pairs:  # else the next batches depend on this validation
            self._ahead = self._begin_next()
        began = time.perf_counter()
        self._average_epoch()
        held = self._hold_out(watcher) if len(self.data.held_rows_N) else None
        metrics = score(held.probabilities_NC, held.labels_N) if held is not None else {}
        record = EpochRecord(
            fold=self.fold,
            stage=at.stage,
            epoch=at.run_epoch,
            size=stage.size,
            lr=self.timetable.rate(at, at.step - 1),
            train_loss=trained.loss,
            metrics=metrics,
            best=held is None or at.best is None or better(train.select, metrics[train.select], at.best),
            images=trained.images,
            train_seconds=trained.seconds,
            valid_seconds=time.perf_counter() - began,
            specialist=self.specialist,
            waited=trained.waited,
        )
        at.history.append(metrics | {TRAIN_LOSS: trained.loss})
        if held is not None:
            if record.best:
                at.best = metrics[train.select]
            at.pairs = self._confused(held)
            self._keep_for_next_stage()
        weights = self._weights_to_save(held, record)
        at.next_epoch()
        # The log before the state: a process that dies in between logs the epoch again, and the first line is dropped;
        # the other way round it would be missing.
        self._writer.wait()
        watcher.hear(EpochEnded(record))
        self._save(weights)
        self._name_bad_files(watcher)
        if self.ranks.any(stop()):
            raise Interrupted(f"stopped in fold {self.fold}, after epoch {at.run_epoch}; {_GOES_ON}")

    def _train_epoch(self, watcher: Watcher, stop: Stop) -> _Trained:
        """Train from the position to the end of the epoch."""
        at, parts = self.position, self.stage.accumulate
        batches, self._ahead = self._ahead or self.feed.epoch(self.stage, at.run_epoch, at.step, at.pairs), None
        self.learner.begin_epoch(self.stage, at.epoch)
        began, waits = time.perf_counter(), _Waits()
        losses: list[Tensor] = []
        images = 0
        with closing(batches):
            for number, batch in enumerate(waits.of(batches)):
                part = number % parts
                self._seed(at.step * parts + part)
                self.learner.set_rate(self.timetable.rate(at, at.step))
                losses.append(self.learner.take_step(batch, part, parts))
                if number == 0 and self._ends_stage:
                    self._compile_next(batch.labels)
                seen = len(batch.rows_B) * self.ranks.world
                images += seen
                if part < parts - 1:
                    watcher.hear(ImagesDone(seen))
                    continue
                at.step += 1
                hear = at.step % HEAR_EVERY == 0
                watcher.hear(ImagesDone(seen, self._hear(losses[-1]) if hear else None))
                # Asking the other ranks makes the CPU wait, too.
                if (hear or self.ranks.world == 1) and self.ranks.any(stop()):
                    self._stop_within_epoch(losses)
        if losses:
            at.losses += torch.stack(losses).tolist()
        if not at.losses:
            raise EngineError(f"fold {self.fold}: no training image could be read{self.feed.some_bad_files()}")
        means = self.ranks.gather(sum(at.losses) / len(at.losses))
        loss = self._hear(sum(means) / len(means))
        seconds = time.perf_counter() - began
        return _Trained(loss, images, seconds, waits.seconds / seconds if seconds else 0.0)

    def _stop_within_epoch(self, losses: list[Tensor]) -> None:
        """Save the state and raise Interrupted."""
        at = self.position
        self._hear(losses[-1])  # a broken state must not replace the one before it
        at.losses += torch.stack(losses).tolist()
        self._save()
        raise Interrupted(f"stopped in fold {self.fold}, epoch {at.run_epoch + 1}, after step {at.step}; {_GOES_ON}")

    def _begin_next(self) -> Generator[Batch, None, None] | None:
        """The batches of the epoch after the current one, if it is the last of its stage of the next stage's first;
        None after the last."""
        at, following = self.position, self.timetable.stage_after(self.position)
        return None if following is None else self.feed.epoch(self.recipe.stage[following], at.run_epoch + 1)

    @property
    def _ends_stage(self) -> bool:
        """Whether this is the last epoch of a stage that another follows, as planned."""
        return self.timetable.stage_after(self.position) not in (None, self.position.stage)

    def _compile_next(self, labels: Labels) -> None:
        """Have the next stage's step compiled while this epoch's batches are learnt, where that is worth it and has not
        been done by this process, for an earlier fold."""
        following = self.recipe.stage[self.position.stage + 1]
        if not worth_it(self.runtime, self.ranks, self.stage, following):
            return
        task = Task.of(self.recipe, following, self.data.class_counts, labels, self.ranks.device)
        if (text := task.text()) not in _COMPILED:
            _COMPILED.add(text)
            self._compiling = Ahead(task)

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _average_epoch(self) -> None:
        """Take the epoch's weights into the mean, when it is among the last ones of the run."""
        at, epochs = self.position, self.recipe.train.swa_epochs
        if not epochs or self.timetable.epochs_left(at) > epochs or not self.learner.take_into_mean():
            return
        self._seed(at.step * self.stage.accumulate)
        self.ranks.mean_(self.learner.renew_norms(self.feed.epoch(self.stage, at.run_epoch, 0, at.pairs)))

    def _hold_out(self, watcher: Watcher) -> LabelledPredictions:
        """Score the held-out samples as the weights that would be saved answer them, on all ranks together."""
        data = self.data
        member = Member(self.learner.scored, self.feed.contract(self.stage), self.runtime, tuple(data.classes))
        images = Images(self.feed.loader, data.held_rows_N, self.stage.batch)
        try:
            (held,) = score_images(Members([member]), images, self.ranks)
        except NotFinite:
            self._hear(math.nan)
            raise
        if not len(held):
            raise EngineError(
                f"fold {self.fold}: none of its {len(data.held_rows_N)} held-out images could be read"
                + self.feed.some_bad_files()
            )
        watcher.hear(ImagesDone(len(held)))
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
        quarantine = self.feed.loader.quarantine
        for id_, entry in quarantine.items():
            if id_ not in self._named:
                watcher.hear(FileSetAside(entry))
        self._named |= quarantine.keys()
        for line in self.feed.loader.cache.news() if self.feed.loader.cache is not None else ():
            watcher.hear(Notice(line))

    # -- what is kept

    def _keep_for_next_stage(self) -> None:
        """Keep the scored weights if they are the stage's best and the next stage starts from these."""
        at, select = self.position, self.recipe.train.select
        wanted = any(stage.start_from == "best" for stage in self.recipe.stage[at.stage + 1 : at.stage + 2])
        is_best = epochs_without_gain(at.values(select, at.epoch + 1), select) == 0
        if wanted and (is_best or self._stage_best is None):
            weights = self.learner.scored.state_dict()
            self._stage_best = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}

    def _weights_to_save(self, held: LabelledPredictions | None, record: EpochRecord) -> Callable[[], None]:
        """What writes the epoch's answers, and its checkpoint where it is the best one or one of those to keep."""
        at, train = self.position, self.recipe.train
        folders: list[MemberFolder] = [self.folder] if record.best else []
        keeps = train.keep_last + train.keep_best > 0
        values = at.values(train.select) if held is not None else [math.nan] * len(at.history)
        kept = kept_epochs(values, train.select, train.keep_last, train.keep_best)
        if at.run_epoch in kept:
            folders.append(self.folder.epoch(at.run_epoch))
        saved = self._checkpoint(record) if folders and self.ranks.leads else None
        answered = EpochAnswers.of(at.run_epoch, held) if held is not None and self.ranks.leads else None

        def write() -> None:
            if answered is not None:
                add_epoch(self.folder.epoch_answers, answered)
            for folder in folders:
                assert saved is not None  # only the leading rank writes
                checkpoint.save(folder.path, saved)
            if keeps:
                self.folder.keep_only(kept)

        return write

    def _checkpoint(self, record: EpochRecord) -> checkpoint.Checkpoint:
        settled = self.recipe.model_copy(update={"train": self.runtime.settled(self.recipe.train)})
        return checkpoint.Checkpoint(
            weights=set_apart(self.learner.scored.state_dict()),
            recipe=settled.model_dump(mode="json"),
            contract=self.feed.contract(self.stage).to_dict(),
            classes=tuple(self.data.classes),
            class_counts=self.data.class_counts,
            data_fingerprint=self.data.fingerprint,
            metrics=record.metrics,
        )

    def _save(self, weights: Callable[[], None] = lambda: None) -> None:
        """Write the position and all that belongs to it, after what `weights` writes."""
        if not self.ranks.leads:
            return
        state = {
            "finished": False,
            "position": dataclasses.asdict(self.position),
            **self.learner.state_dict(),
            "stage_best": self._stage_best,
        }
        apart = set_apart(state)

        def write() -> None:
            weights()
            save_resume(self.folder.resume, apart)

        self._writer.submit(write)

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take over weights and position."""
        self.position = Position(**state["position"])
        self.learner.load_state_dict(state)
        self._stage_best = state["stage_best"]

    def _doing(self) -> str:
        stage = self.stage
        return (
            f"training fold {self.fold}, stage {self.position.stage}: batches of {stage.batch}, {size_of(stage)} pixels"
        )

    def _smaller(self, where: Where) -> str:
        stage = self.position.stage
        return f"{smaller_stage(stage, self.stage, where)}; {_GOES_ON}, at the last epoch that was saved"

    def _seed(self, step: int) -> None:
        seed_torch(self.recipe.seed, self.fold, self.position.run_epoch, step, self.ranks.rank)


class _Waits:
    """Adds up the time in which this thread waits for the next batch and makes its images.

    It is the host's time. On a GPU the host runs ahead: it may wait here while the GPU has steps queued and loses
    nothing, and what the GPU loses between launches that come too slowly is not in it. It stays near 0 where data is no
    bottleneck; where it does not, `engine bench` measures what is lost, by comparison.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, batches: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - began
            if batch is None:
                return
            yield batch
