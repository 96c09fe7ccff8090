"""News of a run, and whoever hears it. What works knows no console: the command line draws these as progress bars, the
log writes them down, trackers send them on, a test collects them, a library user may ignore them.

One method for all news, so that a new event is one class here and one line where it is told, and what passes events on
(to another process, to several listeners) need not know what they are.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

from engine.quarantine import SetAside


class Event:
    """News of a run. Events are frozen dataclasses of plain values: they can be sent to another process."""


@dataclasses.dataclass(frozen=True)
class RunBegan(Event):
    """One of several runs begins, or goes on: what tells it from the others."""

    title: str


@dataclasses.dataclass(frozen=True)
class FoldBegan(Event):
    """`images` will be trained on and scored over all epochs of the fold, `done` of them by an earlier process, which
    has ended `epoch` epochs."""

    fold: int
    images: int
    done: int
    epoch: int


@dataclasses.dataclass(frozen=True)
class ImagesDone(Event):
    """`count` more images were trained on or scored; `loss` is the latest known one."""

    count: int
    loss: float | None = None


@dataclasses.dataclass(frozen=True)
class EpochRecord:
    """One line of the log: an epoch of a fold. Images and seconds (wall time) are those of the process that ended it,
    on all ranks."""

    fold: int
    stage: int
    epoch: int  # counted over the whole run, from 0
    size: tuple[int, int]
    lr: float  # at the epoch's end
    train_loss: float
    metrics: dict[str, float]  # of the validation images
    best: bool
    images: int  # trained on
    train_seconds: float
    valid_seconds: float
    specialist: str = ""  # whose fold it is; "" for the main model's
    waited: float | None = None  # share of train_seconds in which training waited for data; None: of an older log

    @property
    def images_per_second(self) -> float:
        return self.images / self.train_seconds if self.train_seconds > 0 else 0.0


@dataclasses.dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch was trained and scored."""

    record: EpochRecord


@dataclasses.dataclass(frozen=True)
class HeldOutAnswered(Event):
    """The trained fold has answered about `done` of the `images` that it held out, with the recipe's views."""

    fold: int
    done: int
    images: int


@dataclasses.dataclass(frozen=True)
class BankFilled(Event):
    """The trained fold has looked again at `done` of the `images` that it was trained on, to remember them."""

    fold: int
    done: int
    images: int


@dataclasses.dataclass(frozen=True)
class FileSetAside(Event):
    """A file could not be used; the run goes on without it."""

    entry: SetAside


@dataclasses.dataclass(frozen=True)
class Notice(Event):
    """Something the user should read."""

    message: str


class Watcher:
    """Hears of a run's progress; this one ignores it all."""

    def hear(self, event: Event) -> None:
        """An event, told in the thread and between the steps of what works: be quick."""


class Relay(Watcher):
    """Tells several watchers the same, in order."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def hear(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.hear(event)


class Stop(Protocol):
    """Asked between steps: whether the run should save its state and end."""

    def __call__(self) -> bool: ...
