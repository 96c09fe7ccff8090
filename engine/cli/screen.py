"""What commands that train have in common: the run drawn on the terminal, and signals that end it in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from engine.cli.common import Meter, console, progress
from engine.events import EpochRecord, Watcher


class Screen(Watcher):
    """Draws a run: one bar a fold, one line an epoch."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._meter: Meter | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def fold_begins(self, fold: int, images: int, done: int, epoch: int) -> None:
        self._bar.close()
        self._meter = self._bar.enter_context(progress(images, title=f"fold {fold}"))
        if done:
            console().print(f"fold {fold}: going on after {done:,} of {images:,} images", markup=False)
            self._meter(done, images)

    def images_done(self, count: int, loss: float | None) -> None:
        if self._meter is not None:
            self._meter.advance(count)
            if loss is not None:
                self._meter.note(f"loss {loss:.4f}")

    def epoch_ends(self, record: EpochRecord) -> None:
        height, width = record.size
        console().print(
            f"{record.specialist and f'{record.specialist}  '}fold {record.fold}  epoch {record.epoch + 1:3d}  "
            f"{height}x{width}  lr {record.lr:.1e}  "
            f"train {record.train_loss:.4f}  {_scores(record.metrics)}{record.images_per_second:,.0f} images/s"
            f"{'  best' if record.best and record.metrics else ''}",
            markup=False,
            soft_wrap=True,
        )

    def notice(self, message: str) -> None:
        console().print(message, markup=False, soft_wrap=True, style="yellow")


def _scores(metrics: dict[str, float]) -> str:
    """What held-out images came to; nothing when there are none."""
    return f"valid {metrics['log_loss']:.4f}  accuracy {metrics['accuracy']:.4f}  " if metrics else ""


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only set the flag that the answer reads; a second one interrupts at once."""
    asked = False

    def ask(number: int, _: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console().print("stopping after this step; once more to stop at once", style="yellow")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
