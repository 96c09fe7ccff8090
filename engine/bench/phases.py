"""The path of an image, measured piece by piece and then whole.

Every phase runs the engine's own parts, the loader that trains and the step that trains, never a copy of them made for
measuring. The pieces alone say what each could do; the whole says what is left of it when they share a machine; and
the share of time in which the model waited says which of them to mend.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing

import numpy as np
import torch

from engine.augment.contract import Contract
from engine.augment.mix import MixedLabels
from engine.augment.policy import Policy
from engine.augment.views import views_of
from engine.bench.timers import Busy, PeakMemory, Rate, measure
from engine.exhausted import told_when_exhausted
from engine.inference.members import Members
from engine.kernels import Ragged
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.source import Files
from engine.loader.stream import Decoded
from engine.model.build import backbone_config, build_model
from engine.model.runtime import Runtime
from engine.order import epoch_batches
from engine.recipe.sections import Recipe
from engine.recipe.sections.augment import MixSection
from engine.store.checkpoint import Checkpoint
from engine.system import GIB, peak_host_bytes
from engine.training.learner import Learner

CLASSES = 400  # of the made-up labels: about as many as the fine-grained sets this is for
_HELD = 4  # decoded batches that the augmentation goes round, more than a cache holds
_ENDLESS = 1_000_000  # batches: more than any phase gets through


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one phase came to. device_gib: most GPU memory while it ran; None on a CPU. host_gib: most main memory that
    the process had held when it ended, earlier phases included."""

    name: str
    rate: Rate
    device_gib: float | None
    host_gib: float


class Bench:
    """Measures the first stage of `recipe` on `device` with the images at `paths`; weights are random.

    `seconds` is how long each phase is measured, after a warm-up.
    """

    def __init__(self, recipe: Recipe, paths: Sequence[str], device: torch.device, seconds: float) -> None:
        self.recipe, self.stage, self.device, self.seconds = recipe, recipe.stage[0], device, seconds
        self.backbone = own = backbone_config(recipe.model.backbone)
        self.runtime = Runtime.of(recipe.train, device)
        self.policy = Policy(recipe.augment, own.mean, own.std, own.interpolation)
        self.images = len(paths)
        rows_N = np.arange(self.images)
        self.samples = Samples(paths, Files(paths), rows_N, rows_N % CLASSES)
        self.batches = epoch_batches(rows_N, self.stage.batch, recipe.seed, epoch=0)
        self.epoch = Epoch(recipe.seed, 0, *self.stage.size, _mix(recipe))
        self._learner: Learner | None = None

    def phases(self) -> dict[str, Callable[[], Rate]]:
        """By name, in the order in which an image meets them."""
        return {
            "decode": self.decode,
            "augmentation": self.augmentation,
            "loader": self.loader,
            "training step": self.training_step,
            "training": self.training,
            "inference": self.inference,
        }

    def run(self, watch: Callable[[str], None] = lambda name: None) -> Iterator[Phase]:
        """Measure every phase; `watch` hears the name of each as it begins."""
        for name, phase in self.phases().items():
            watch(name)
            memory = PeakMemory(self.device)
            with told_when_exhausted(
                f"measuring: {name}", lambda _: "Measure smaller batches or images: --batch, --res"
            ):
                rate = phase()
            yield Phase(name, rate, memory.gib, peak_host_bytes() / GIB)

    def decode(self) -> Rate:
        """Files to pixels of their own size."""
        with closing(self._decoded()) as decoded:
            return self._measure(lambda: len(next(decoded).rows_B))

    def augmentation(self) -> Rate:
        """Drawing plans and running the pass, on images decoded before."""
        loader = self._loader()
        with closing(self._decoded()) as decoded:
            held = [Decoded(self._copied(batch.images), batch.rows_B) for batch in itertools.islice(decoded, _HELD)]
        number = itertools.count()

        def step() -> int:
            turn = next(number)
            loader.augment(held[turn % _HELD], self.policy, dataclasses.replace(self.epoch, number=turn))
            return self.stage.batch

        return self._measure(step)

    def loader(self) -> Rate:
        """Files to augmented batches."""
        with closing(self._train_batches()) as batches:
            return self._measure(lambda: len(next(batches).rows_B))

    def training_step(self) -> Rate:
        """The training step on one made-up batch that is always ready."""
        count, learner = self.stage.batch, self._train()
        images_BCHW = torch.randn(count, 3, *self.stage.size, dtype=self.runtime.dtype, device=self.device)
        images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
        labels_B = torch.arange(count, device=self.device) % CLASSES
        share_B = torch.full((count,), 0.7, device=self.device)
        batch = Batch(images_BCHW, MixedLabels(labels_B, labels_B.flip(0), share_B), np.arange(count))

        def step() -> int:
            learner.take_step(batch)
            return count

        return self._measure(step)

    def training(self) -> Rate:
        """The training step on what the loader brings."""
        learner, busy = self._train(), Busy(self.device)
        with closing(self._train_batches()) as batches:

            def step() -> int:
                batch = next(batches)
                with busy.span():
                    learner.take_step(batch)
                return len(batch.rows_B)

            return self._measure(step, busy)

    def inference(self) -> Rate:
        """Files to answers, with the views that `predict.tta` asks for; the pass counts as the model's work."""
        members = Members.restored(
            [self._checkpoint()], self.device, views_of(self.recipe.predict), self.recipe.augment.executor
        )
        busy = Busy(self.device)
        with closing(self._decoded()) as decoded:

            def step() -> int:
                batch = next(decoded)
                with busy.span():
                    for logits_VBC in members.logits(batch.images):
                        logits_VBC.cpu()  # an answer has been given when the host has it
                return len(batch.rows_B)

            return self._measure(step, busy)

    def _measure(self, step: Callable[[], int], busy: Busy | None = None) -> Rate:
        return measure(step, self.device, self.seconds, busy=busy)

    def _endless(self) -> list[np.ndarray]:
        return self.batches * (_ENDLESS // len(self.batches))

    def _decoded(self) -> Generator[Decoded, None, None]:
        return self._loader().photos(self._endless())

    def _loader(self) -> Loader:
        executor = self.recipe.augment.executor
        return Loader(self.samples, self.recipe.decode, self.device, executor, self.runtime.dtype)

    def _train_batches(self) -> Generator[Batch, None, None]:
        return self._loader().train(self._endless(), self.policy, self.epoch)

    def _copied(self, images: Ragged) -> Ragged:
        """On the model's device, and out of the decoder's memory, which it may use again for the next batch."""
        return Ragged([image.to(self.device, copy=True) for image in images.tensors])

    def _train(self) -> Learner:
        """What takes a step of training; built once, so that it is compiled once."""
        if self._learner is None:
            recipe, stage = self.recipe, self.stage
            self._learner = Learner(recipe.model, recipe.train, CLASSES, stage.size, self.runtime)
            self._learner.begin_stage(stage)
            self._learner.begin_epoch(stage, stage.epochs - 1)  # by then the most of it learns
            self._learner.set_rate(stage.lr)
        return self._learner

    def _checkpoint(self) -> Checkpoint:
        own, recipe = self.backbone, self.recipe
        contract = Contract.of(self.recipe.augment, self.stage.size, own.mean, own.std, own.interpolation)
        return Checkpoint(
            weights=build_model(self.recipe.model, CLASSES, self.stage.size).state_dict(),
            recipe=recipe.model_copy(update={"train": self.runtime.settled(recipe.train)}).model_dump(mode="json"),
            contract=contract.to_dict(),
            classes=tuple(f"class {i}" for i in range(CLASSES)),
            class_counts=(1,) * CLASSES,
            data_fingerprint="",
            metrics={},
        )


def _mix(recipe: Recipe) -> MixSection | None:
    return recipe.stage[0].mix or next(iter(recipe.augment.mix), None)
