"""What a run tells whoever watches it. The trainer knows no console: the command line draws these as progress bars,
a test collects them, a library user may ignore them."""

from __future__ import annotations

import dataclasses
from typing import Protocol


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

    @property
    def images_per_second(self) -> float:
        return self.images / self.train_seconds if self.train_seconds > 0 else 0.0


class Watcher:
    """Hears of a run's progress; this one ignores it all. Override what you want to know."""

    def fold_begins(self, fold: int, images: int, done: int, epoch: int) -> None:
        """`images` will be trained on and scored over all epochs of the fold, `done` of them by an earlier process,
        which has ended `epoch` epochs."""

    def images_done(self, count: int, loss: float | None) -> None:
        """`count` more images trained on or scored; `loss` is the latest known one."""

    def epoch_ends(self, record: EpochRecord) -> None:
        """An epoch was trained and scored."""

    def notice(self, message: str) -> None:
        """Something the user should read."""


class Stop(Protocol):
    """Asked between steps: whether the run should save its state and end."""

    def __call__(self) -> bool: ...
