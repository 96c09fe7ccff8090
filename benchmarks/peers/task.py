"""What every side of a training comparison is given and what it answers. Knows neither side."""

from __future__ import annotations

import dataclasses
import hashlib
import resource
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Task:
    """One training: the same numbers for both sides wherever they mean the same."""

    data: str  # folder of class folders: what the engine reads
    split: str  # folder of links, train/<class>/ and validation/<class>/: what timm reads
    output: str  # for checkpoints
    cache: str  # the engine's manifest
    weights: str  # state dict of the plain timm model without its classifier
    classes: int
    folds: int  # fold 0 of so many is held out, by the engine's split with seed 0
    backbone: str
    size: int
    batch: int
    epochs: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    min_lr_ratio: float
    clip: float
    ema: float
    smoothing: float
    mixup: float
    cutmix: float
    mix_p: float
    scale: tuple[float, float]  # of random resized crops
    magnitude: int  # of RandAugment with two operations; 0: none
    erase_p: float
    workers: int  # timm's loader processes, the engine's decoding threads
    threads: int  # torch's
    seed: int
    test: str = ""  # folder of links, test/<class>/: answered with the best epoch, into output/answers.csv


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """An epoch: `waited_s` is the part of `train_s` in which the step stood waiting for its batch."""

    images: int
    train_s: float
    waited_s: float
    valid_s: float
    train_loss: float
    log_loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A training, from building the model to the last epoch's files. Marks are of the image files' real paths."""

    epochs: tuple[EpochResult, ...]
    total_s: float
    cpu_s: float  # processor time of the process and its workers
    train_mark: str
    valid_mark: str

    @property
    def best(self) -> EpochResult:
        """The epoch that both sides keep when told to select by log loss."""
        return min(self.epochs, key=lambda epoch: epoch.log_loss)

    @property
    def images_per_s(self) -> float:
        """Of training epochs, the median, without the first one (unless it is the only one)."""
        return statistics.median(e.images / e.train_s for e in self.epochs[1:] or self.epochs)

    @property
    def waited(self) -> float:
        """Share of the training epochs in which the step waited for its batch, the median, likewise."""
        return statistics.median(e.waited_s / e.train_s for e in self.epochs[1:] or self.epochs)


Report = Callable[[EpochResult], None]


def mark(paths: Iterable[str]) -> str:
    """A hash of the files that the paths lead to, in any order: equal for equal sets."""
    real = sorted(str(Path(path).resolve()) for path in paths)
    return hashlib.sha256("\n".join(real).encode()).hexdigest()[:16]


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Waits:
    """Adds up the time that whoever iterates over `of(batches)` waits for the next one."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def of(self, batches: Iterable[T]) -> Generator[T, None, None]:
        iterator: Iterator[T] = iter(batches)
        try:
            while True:
                began_s = time.perf_counter()
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
                finally:
                    self._seconds += time.perf_counter() - began_s
                yield batch
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def link(split: Path, name: str, ids: Sequence[str], labels: Sequence[str], paths: Sequence[str]) -> None:
    """Make split/name/<label>/ with a link to each of the files."""
    for id_, label, path in zip(ids, labels, paths, strict=True):
        place = split / name / label / id_.replace("/", "__")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path(path).resolve())
