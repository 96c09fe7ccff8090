"""A stage's compiled step, made by a process beside this one while the stage before it still trains.

A stage has a size of its own, and a size is compiled once: a minute in which nothing is learnt, were it done at the
switch. What the compiler makes lies in torch's caches on disk, so it can be made by anybody who asks for the same; here
by a process that builds the same learner and has it compiled, but runs nothing. What is left at the switch is to trace
the network and to load what was made.

Not by a thread: torch's compiler sets state of the whole process while it works (its generators' states, whether
"somebody is compiling"), which steps that run meanwhile would notice in their bits. A process knows nothing of ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, Self

import torch

from engine.augment.mix import Labels, MixedLabels, TaughtLabels
from engine.loader.batches import Batch
from engine.model.runtime import Runtime
from engine.ranks import Ranks
from engine.recipe.sections import ModelSection, Recipe, StageSection, TrainSection
from engine.training.learner import Learner

PATIENCE_S = 300.0  # that a switch waits for a process that has begun
# What a stage may change without another step to compile: all that is decided outside of it, and the margin, a tensor.
NOT_COMPILED = frozenset(
    ("epochs", "lr", "schedule", "early_stop", "start_from", "ema_restart", "mix", "accumulate", "margin")
)


@dataclasses.dataclass(frozen=True)
class Task:
    """What is to be compiled: the step of a stage's first epoch. temperature: of the teacher's answers, where there is
    a teacher. counts: training images of each class."""

    model: ModelSection
    train: TrainSection
    stage: StageSection
    built_for: tuple[int, int]  # the size that the network was built for
    counts: tuple[int, ...]
    temperature: float | None
    device: str
    threads: int  # of torch, which code for a CPU is made for

    @classmethod
    def of(
        cls, recipe: Recipe, stage: StageSection, counts: Sequence[int], labels: Labels, device: torch.device
    ) -> Self:
        """The step of `stage`, on batches whose labels are like `labels`."""
        # Neither the values of weights nor their averages are in what is compiled.
        model = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
        train = recipe.train.model_copy(update={"ema": 0.0, "swa_epochs": 0})
        temperature = labels.temperature if isinstance(labels, TaughtLabels) else None
        size, threads = recipe.stage[0].size, torch.get_num_threads()
        return cls(model, train, stage, size, tuple(counts), temperature, str(device), threads)

    def text(self) -> str:
        """As one line of JSON."""
        sections = {name: getattr(self, name).model_dump(mode="json") for name in ("model", "train", "stage")}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(own | sections)

    @classmethod
    def read(cls, text: str) -> Self:
        found: dict[str, Any] = json.loads(text)
        found |= {
            "model": ModelSection.model_validate(found["model"]),
            "train": TrainSection.model_validate(found["train"]),
            "stage": StageSection.model_validate(found["stage"]),
            "built_for": tuple(found["built_for"]),
            "counts": tuple(found["counts"]),
        }
        return cls(**found)


class Ahead:
    """A process that compiles a task; it ends by itself, or with `close`. Where none can be started (no memory, no
    disk) there is none: training goes on, and its step is compiled when it comes."""

    def __init__(self, task: Task) -> None:
        self._process: subprocess.Popen[str] | None = None
        with contextlib.suppress(OSError):
            self._process = _started(task.text())

    @property
    def done(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def wait(self, seconds: float = PATIENCE_S) -> bool:
        """Wait until it has ended, for it is faster than to begin anew; whether the step has been compiled."""
        if self._process is None:
            return False
        try:
            return self._process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self.close()
            return False

    def close(self) -> None:
        """End it, whatever it has come to."""
        if self._process is None:
            return
        if not self.done:
            self._process.kill()
        self._process.wait()


def _started(text: str) -> subprocess.Popen[str]:
    """A process that compiles what `text` says. It reads that from a file: into a pipe no more may fit than a reader
    takes, who begins after seconds, and who may end before."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        told.write(text)
        told.seek(0)
        return subprocess.Popen(
            [sys.executable, "-m", "engine.training.ahead"],
            stdin=told,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def worth_it(runtime: Runtime, ranks: Ranks, now: StageSection, then: StageSection) -> bool:
    """Whether the step of the stage `then` has to be compiled anew after that of `now`, and can be ahead of its time.
    Where several processes train together the network is compiled in pieces that only they know."""
    apart = set(NOT_COMPILED)
    differ = now.model_dump(exclude=apart) != then.model_dump(exclude=apart)
    return runtime.compile and ranks.world == 1 and differ


def compile_step(task: Task) -> None:
    """Have the step compiled into torch's caches on disk."""
    device = torch.device(task.device)
    torch.set_num_threads(task.threads)
    runtime = Runtime.of(task.train, device)
    counts_C = torch.tensor(task.counts)
    learner = Learner(task.model, task.train, len(task.counts), task.built_for, runtime, counts_C)
    learner.begin_stage(task.stage)
    learner.begin_epoch(task.stage, 0)
    _run_nothing()
    with contextlib.suppress(_Compiled):
        learner.loss_of(made_up_batch(task.stage, runtime, task.temperature, len(task.counts)))


def made_up_batch(stage: StageSection, runtime: Runtime, temperature: float | None, classes: int) -> Batch:
    """A batch as the loader makes them, of no content."""
    count, device = stage.batch, runtime.device
    shape, layout = (count, 3, *stage.size), torch.channels_last
    images_BCHW = torch.empty(shape, dtype=runtime.dtype, device=device, memory_format=layout)
    own_B, partner_B = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
    shares = [torch.ones(count, device=device) for _ in range(2)]
    labels: Labels = MixedLabels(own_B, partner_B, shares[0])
    if temperature is not None:
        answer_BC = torch.zeros(count, classes, device=device)
        labels = TaughtLabels(own_B, partner_B, shares[0], shares[1], answer_BC, temperature)
    return Batch(images_BCHW, labels, torch.arange(count).numpy())


class _Compiled(Exception):
    """What was compiled is about to run."""


def _run_nothing() -> None:
    """From now on what is compiled in this process is not run: activations would take a stage's memory once more."""
    from torch._inductor.output_code import CompiledFxGraph

    def run(*_: Any) -> None:
        raise _Compiled

    CompiledFxGraph.__call__ = run  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    os.nice(10)  # the cores are the loader's
    compile_step(Task.read(sys.stdin.read()))
