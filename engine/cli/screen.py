"""What commands that train have in common: the run drawn on the terminal, and signals that end it in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from engine.cli.common import Meter, console, progress, tell
from engine.events import (
    BankFilled,
    EpochEnded,
    EpochRecord,
    Event,
    FileSetAside,
    FoldBegan,
    HeldOutAnswered,
    ImagesDone,
    Notice,
    RunBegan,
    Watcher,
)


class Screen(Watcher):
    """Draws a run: one bar a fold, one line an epoch. What several runs in a row say of the same data is shown once."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._meter: Meter | None = None
        self._title = ""
        self._said: set[str] = set()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def hear(self, event: Event) -> None:
        match event:
            case RunBegan(title=title):
                self._bar.close()
                console().print(title, markup=False, soft_wrap=True, style="bold")
            case FoldBegan():
                self._begin_fold(event)
            case ImagesDone(count=count, loss=loss) if self._meter is not None:
                self._meter.advance(count)
                if loss is not None:
                    self._meter.note(f"loss {loss:.4f}")
            case EpochEnded(record=record):
                self._print_epoch(record)
            case HeldOutAnswered(fold=fold, done=done, images=images):
                self._begin_bar(f"fold {fold} answers", images)(done, images)
            case BankFilled(fold=fold, done=done, images=images):
                self._begin_bar(f"fold {fold} remembers", images)(done, images)
            case FileSetAside(entry=entry):
                self._say(f"set aside: {entry}")
            case Notice(message=message):
                self._say(message)

    def _begin_fold(self, begun: FoldBegan) -> None:
        self._title = ""  # a fold that goes on begins a bar of its own
        meter = self._begin_bar(f"fold {begun.fold}", begun.images)
        if begun.done:
            console().print(
                f"fold {begun.fold}: going on after {begun.done:,} of {begun.images:,} images", markup=False
            )
            meter(begun.done, begun.images)

    def _begin_bar(self, title: str, images: int) -> Meter:
        """The bar of this title: the one that is drawn, or a new one in its place."""
        if self._meter is None or self._title != title:
            self._bar.close()
            self._meter, self._title = self._bar.enter_context(progress(images, title=title)), title
        return self._meter

    def _print_epoch(self, record: EpochRecord) -> None:
        height, width = record.size
        console().print(
            f"{record.specialist and f'{record.specialist}  '}fold {record.fold}  epoch {record.epoch + 1:3d}  "
            f"{height}x{width}  lr {record.lr:.1e}  "
            f"train {record.train_loss:.4f}  {_scores(record.metrics)}{record.images_per_second:,.0f} images/s"
            f"{_waited(record)}{'  best' if record.best and record.metrics else ''}",
            markup=False,
            soft_wrap=True,
        )

    def _say(self, message: str) -> None:
        if message not in self._said:
            tell(message)
        self._said.add(message)


def _scores(metrics: dict[str, float]) -> str:
    """What held-out images came to; nothing when there are none."""
    return f"valid {metrics['log_loss']:.4f}  accuracy {metrics['accuracy']:.4f}  " if metrics else ""


def _waited(record: EpochRecord) -> str:
    return "" if record.waited is None else f"  waited {record.waited:.0%}"


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
