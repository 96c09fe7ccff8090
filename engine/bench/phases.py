"""The path of an image through one stage of a recipe, measured piece by piece and then whole.

Every phase runs the engine's own parts, the loader that trains and the step that trains, never a copy of them made for
measuring. The pieces alone say what each could do; the whole says what is left of it when they share a machine. How
long the model waits is no clock's reading: a clock in the program cannot see what a GPU waits for. It is the
comparison of training on what the loader brings with training on a batch that is always there, in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from engine.augment.contract import Contract
from engine.augment.mix import MixedLabels, mix_at
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions
from engine.augment.views import PLAIN, View, views_of
from engine.bench.ceilings import Ceilings, ceilings
from engine.bench.flops import Flops, flops
from engine.bench.timers import PeakMemory, Rate, alternately, in_turn, measure
from engine.decode.choose import decode_device
from engine.exhausted import told_when_exhausted
from engine.inference.members import Members
from engine.kernels import Plan, Ragged
from engine.loader.assemble import Assembler
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.passes import BufferedPass
from engine.loader.source import Files
from engine.loader.stream import Decoded
from engine.model.build import backbone_config, build_model
from engine.model.runtime import Runtime
from engine.order import epoch_batches
from engine.recipe.sections import Recipe
from engine.store.checkpoint import Checkpoint, save
from engine.store.resume import save_resume
from engine.system import GIB, peak_host_bytes, reset_peak
from engine.training.learner import Learner
from engine.training.writer import set_apart

CLASSES = 400  # of the made-up labels: about as many as the fine-grained sets this is for
_HELD = 4  # decoded batches that the pass goes round, more than a cache holds
_ENDLESS = 1_000_000  # batches: more than any phase gets through
_WRITES = 3  # of a checkpoint


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one phase came to: a rate, or `seconds` of what happens once. waited: the share of the time in which the
    model had nothing to do. share, limit: how much of which ceiling was reached. note: what has to be said, as of a
    phase that is not to be had here."""

    name: str
    rate: Rate | None = None
    seconds: tuple[float, ...] = ()
    waited: float | None = None
    share: float | None = None
    limit: str = ""  # "arithmetic" or "memory"
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Measured:
    """Phases that were measured together, and the most memory that was held meanwhile: on the GPU (None on a CPU) and
    by the process in main memory."""

    phases: tuple[Phase, ...]
    device_gib: float | None
    host_gib: float


class Bench:
    """Measures stage `number` of `recipe` on `device` with the images at `paths`; weights are random.

    `seconds` is how long each phase is measured, after a warm-up; `limits` is what the device can do, measured when it
    is not given.
    """

    def __init__(
        self,
        recipe: Recipe,
        paths: Sequence[str],
        device: torch.device,
        seconds: float,
        number: int = 0,
        limits: Ceilings | None = None,
    ) -> None:
        self.recipe, self.stage, self.device, self.seconds = recipe, recipe.stage[number], device, seconds
        self.number = number
        self.backbone = own = backbone_config(recipe.model.backbone)
        self.runtime = Runtime.of(recipe.train, device)
        self.limits = limits or ceilings(device, self.runtime.dtype, seconds)
        self.policy = Policy(recipe.augment, own.mean, own.std, own.interpolation)
        self.images = len(paths)
        rows_N = np.arange(self.images)
        self.samples = Samples(paths, Files(paths), rows_N, rows_N % CLASSES)
        self.batches = epoch_batches(rows_N, self.stage.batch, recipe.seed, epoch=0)
        first = sum(stage.epochs for stage in recipe.stage[:number])
        mix = self.stage.mix or mix_at(recipe.augment.mix, first)
        self.epoch = Epoch(recipe.seed, first, *self.stage.size, mix)
        self._learner: Learner | None = None
        self._flops: Flops | None = None

    def phases(self) -> dict[str, Callable[[], Sequence[Phase]]]:
        """What is measured together, by name, in the order in which an image meets it."""
        return {
            "first batch": self.first_batch,
            "decode": self.decode,
            "pass": self.passing,
            "transfer": self.transfer,
            "loader": self.loader,
            "forward, backward, optimiser": self.parts,
            "training": self.training,
            "inference": self.inference,
            "checkpoint": self.checkpoint,
        }

    def run(self, watch: Callable[[str], None] = lambda name: None) -> Iterator[Measured]:
        """Measure every phase; `watch` hears the name of each as it begins."""
        for name, phase in self.phases().items():
            watch(name)
            reset_peak()
            memory = PeakMemory(self.device)
            with told_when_exhausted(
                f"measuring: {name}", lambda _: "Measure smaller batches or images: --batch, --res"
            ):
                phases = tuple(phase())
            yield Measured(phases, memory.gib, peak_host_bytes() / GIB)

    # -- from files to batches

    def first_batch(self) -> Sequence[Phase]:
        """From nothing to the first training batch: what an epoch that nobody prepared makes the model wait for."""
        began = time.perf_counter()
        with closing(self.train_batches()) as batches:
            next(batches)
            took_s = time.perf_counter() - began
        return [Phase("first batch", seconds=(took_s,))]

    def decode(self) -> Sequence[Phase]:
        """Files to pixels of their own size."""
        with closing(self._photos()) as decoded:
            return [Phase("decode", self._measure(lambda: len(next(decoded).rows_B)))]

    def passing(self) -> Sequence[Phase]:
        """Drawing plans and running the pass, on images decoded before."""
        assemble = Assembler(self.samples.labels_N, None, self._pass())
        held = self._held()
        number = itertools.count()

        def step() -> int:
            turn = next(number)
            decoded = held[turn % _HELD]
            keys_B = torch.from_numpy(self.samples.keys_N[decoded.rows_B])
            extras = self.policy.extras(keys_B, self.epoch.seed, turn)
            assemble(decoded.images, decoded.rows_B, self._plan(decoded, turn), extras)
            return len(decoded.rows_B)

        rate = self._measure(step)
        moved = statistics.mean(self._moved(decoded) for decoded in held)
        return [Phase("pass", rate, share=rate.median * moved / self.limits.bytes, limit="memory")]

    def transfer(self) -> Sequence[Phase]:
        """Decoded pixels from pinned memory to the device, a batch at a time."""
        if self.device.type != "cuda":
            return [Phase("transfer", note="none: the model is on the CPU")]
        if decode_device(self.recipe.decode, self.device).type == "cuda":
            return [Phase("transfer", note="none: the GPU decodes")]
        held = self._held(device=torch.device("cpu"))
        most = max(sum(image.numel() for image in decoded.images.tensors) for decoded in held)
        block = torch.empty(most, dtype=torch.uint8, pin_memory=True)

        def step() -> int:
            block.to(self.device, non_blocking=True)
            return self.stage.batch

        return [Phase("transfer", self._measure(step))]

    def loader(self) -> Sequence[Phase]:
        """Files to augmented batches."""
        with closing(self.train_batches()) as batches:
            return [Phase("loader", self._measure(lambda: len(next(batches).rows_B)))]

    # -- the model

    def parts(self) -> Sequence[Phase]:
        """Forward, backward and optimiser of a step on one made-up batch, from the differences of what takes turns: the
        loss, the loss with gradients, and all of the step."""
        learner, batch = self.learner, self.made_up()
        works = (
            lambda: learner.loss_of(batch),
            lambda: learner.loss_of(batch).backward(),
            lambda: learner.take_step(batch),
        )
        clear = learner.optimizer.zero_grad
        forward, both, step = (
            np.array(own) for own in alternately(works, self.device, self.seconds, between=lambda: clear(True))
        )
        return [
            self._part("forward", forward, self.counted.forward),
            self._part("backward", both - forward, self.counted.training - self.counted.forward),
            self._part("optimiser", step - both, None),
        ]

    def _part(self, name: str, seconds_W: np.ndarray, operations: float | None) -> Phase:
        """`seconds_W` of a batch in each window; `operations`: of an image."""
        if np.median(seconds_W) <= 0:
            return Phase(name, note="too short to be told from the rest of the step")
        rate = Rate(tuple((self.stage.batch / seconds_W[seconds_W > 0]).tolist()))
        return self._of_arithmetic(Phase(name, rate), operations)

    def training(self) -> Sequence[Phase]:
        """The training step on one made-up batch that is always ready, and on what the loader brings, in turn."""
        learner, ready = self.learner, self.made_up()
        with closing(self.train_batches()) as batches:

            def alone() -> int:
                learner.take_step(ready)
                return self.stage.batch

            def fed() -> int:
                batch = next(batches)
                learner.take_step(batch)
                return len(batch.rows_B)

            def before(index: int) -> None:
                if index:  # what was made ready while others had their turn would flatter it
                    for _ in range(self.recipe.decode.prefetch + 1):
                        next(batches)
                    fed()

            step, whole = in_turn([alone, fed], self.device, self.seconds, before=before)
        operations = self.counted.training
        return [
            self._of_arithmetic(Phase("training step", step), operations),
            self._of_arithmetic(Phase("training", whole, waited=whole.waited(step)), operations),
        ]

    def inference(self) -> Sequence[Phase]:
        """Files to answers: of the photo as it is, and with the views that `predict` asks for."""
        views = views_of(self.recipe.predict)
        asked = {"inference": (PLAIN,)} | ({f"inference, {len(views)} views": views} if len(views) > 1 else {})
        return [self._answering(name, own) for name, own in asked.items()]

    def _answering(self, name: str, views: Sequence[View]) -> Phase:
        """By the way that scoring takes (engine/inference/scoring.py); and on images that are held, in turn."""
        members = Members.restored([self._checkpoint()], self.device, views, self.recipe.augment.executor)
        contract = members.contract
        assert contract is not None  # of one model
        plain = len(views) == 1
        batches: Generator[Batch | Decoded, None, None] = (
            self.loader_of().valid(self._endless(), contract, views[0]) if plain else self._photos()
        )
        ready = self.made_up().images_BCHW if plain else self._held()[0].images
        with closing(batches), members.weights_cast_once():

            def answer(images: torch.Tensor | Ragged) -> int:
                found = members.outputs(images) if isinstance(images, Ragged) else members.outputs_of_pixels(images)
                for output in found:
                    output.logits_VBC.cpu()  # an answer has been given when the host has it
                return len(images)

            def fed() -> int:
                batch = next(batches)
                return answer(batch.images if isinstance(batch, Decoded) else batch.images_BCHW)

            there, whole = in_turn([lambda: answer(ready), fed], self.device, self.seconds / 2)
        operations = self.counted.forward * sum(view.cost(*self.stage.size) for view in views)
        return self._of_arithmetic(Phase(name, whole, waited=whole.waited(there)), operations)

    def checkpoint(self) -> Sequence[Phase]:
        """What an epoch's end writes: weights that answer, and the state to go on from."""
        learner, took_s = self.learner, []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(_WRITES):
                began = time.perf_counter()
                save(Path(folder), self._checkpoint(learner))
                save_resume(Path(folder) / "resume.pt", set_apart(learner.state_dict()))
                took_s.append(time.perf_counter() - began)
            mib = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        return [Phase("checkpoint", seconds=tuple(took_s), note=f"{mib:,.0f} MiB, in a thread beside training")]

    # -- what they are made of

    @property
    def counted(self) -> Flops:
        """Operations of an image."""
        self._flops = self._flops or flops(self.recipe.model, self.stage, CLASSES)
        return self._flops

    def made_up(self) -> Batch:
        """A batch of noise, as the loader would bring one."""
        count = self.stage.batch
        images_BCHW = torch.randn(count, 3, *self.stage.size, dtype=self.runtime.dtype, device=self.device)
        images_BCHW = images_BCHW.to(memory_format=torch.channels_last)
        labels_B = torch.arange(count, device=self.device) % CLASSES
        share_B = torch.full((count,), 0.7, device=self.device)
        return Batch(images_BCHW, MixedLabels(labels_B, labels_B.flip(0), share_B), np.arange(count))

    def _measure(self, step: Callable[[], int]) -> Rate:
        return measure(step, self.device, self.seconds)

    def _of_arithmetic(self, phase: Phase, operations: float | None) -> Phase:
        """With its share of the limit, where the operations of an image are known."""
        if phase.rate is None or operations is None:
            return phase
        share = phase.rate.median * operations / self.limits.flops
        return dataclasses.replace(phase, share=share, limit="arithmetic")

    def _endless(self) -> list[np.ndarray]:
        return self.batches * (_ENDLESS // len(self.batches))

    def _photos(self) -> Generator[Decoded, None, None]:
        return self.loader_of().photos(self._endless())

    def _held(self, device: torch.device | None = None) -> list[Decoded]:
        """A few decoded batches on the model's device, or another, out of the decoder's memory, which it may use again
        for the next."""
        device = device or self.device
        with closing(self._photos()) as decoded:
            return [
                Decoded(Ragged([image.to(device, copy=True) for image in batch.images.tensors]), batch.rows_B)
                for batch in itertools.islice(decoded, _HELD)
            ]

    def _plan(self, decoded: Decoded, number: int) -> Plan:
        keys_B = torch.from_numpy(self.samples.keys_N[decoded.rows_B])
        return self.policy.draw(
            keys_B, decoded.images.sizes_B2, *self.stage.size, self.epoch.seed, number, self.epoch.mix
        )

    def _moved(self, decoded: Decoded) -> float:
        """Bytes an image that no pass can do without: the source pixels that it looks at, and those it writes."""
        regions = needed_regions(self._plan(decoded, 0), decoded.images.sizes_B2, False)
        read = sum(3 * (one.x1 - one.x0) * (one.y1 - one.y0) for one in regions) / len(regions)
        return read + 3 * self.stage.size[0] * self.stage.size[1] * self.runtime.dtype.itemsize

    def _pass(self) -> BufferedPass:
        return BufferedPass(self.recipe.augment.executor, self.device, self.runtime.dtype)

    def loader_of(self) -> Loader:
        """What makes the stage's batches."""
        executor = self.recipe.augment.executor
        return Loader(self.samples, self.recipe.decode, self.device, executor, self.runtime.dtype)

    def train_batches(self, loader: Loader | None = None) -> Generator[Batch, None, None]:
        """Training batches without end, by a loader of their own or by the one that is given."""
        return (loader or self.loader_of()).train(self._endless(), self.policy, self.epoch)

    @property
    def learner(self) -> Learner:
        """What takes a step of training; built once, so that it is compiled once."""
        if self._learner is None:
            recipe, stage = self.recipe, self.stage
            self._learner = Learner(recipe.model, recipe.train, CLASSES, recipe.stage[0].size, self.runtime)
            self._learner.begin_stage(stage)
            self._learner.begin_epoch(stage, stage.epochs - 1)  # by then the most of it learns
            self._learner.set_rate(stage.lr)
        return self._learner

    def _checkpoint(self, learner: Learner | None = None) -> Checkpoint:
        own, recipe = self.backbone, self.recipe
        contract = Contract.of(self.recipe.augment, self.stage.size, own.mean, own.std, own.interpolation)
        model = learner.scored if learner is not None else build_model(recipe.model, CLASSES, self.stage.size)
        return Checkpoint(
            weights=set_apart(dict(model.state_dict())),
            recipe=recipe.model_copy(update={"train": self.runtime.settled(recipe.train)}).model_dump(mode="json"),
            contract=contract.to_dict(),
            classes=tuple(f"class {i}" for i in range(CLASSES)),
            class_counts=(1,) * CLASSES,
            data_fingerprint="",
            metrics={},
        )
