"""Photos that come one by one are answered together: a batch is begun when it is full, or when its first photo has
waited for the deadline.

A network costs less a photo when it is shown many, and what a photo is answered does not depend on its company (see
inference/microbatches.py), so strangers may share a batch. While one batch is answered the next one gathers: the
deadline is only paid where little is asked. One thread owns the model, because it is no faster asked by several; what
is asked beside batches (a heatmap) takes its turn among them.

The queue is bounded. Beyond its bound a photo would wait longer than its sender does, so it is refused at once, with a
word on when to come again, measured and not guessed. Answers are `concurrent.futures.Future`s: whoever is no longer
interested cancels his, and its place is free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from engine.serve.photo import Photo

A = TypeVar("A")
T = TypeVar("T")
_LONGEST_S = 60  # nobody is told to stay away for longer
_NEWS = 0.2  # how much the latest batch counts in the measured rate


class Full(Exception):
    """The queue has no room; in `retry_after_s` whole seconds it should have."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; come again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Closed(Exception):
    """Nothing new is taken on."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """How photos gather: up to `batch` of them and (but for a single one) up to `pixels` in all, for `deadline_s`
    seconds at most; and how many may wait (`queue`)."""

    batch: int = 32
    deadline_s: float = 0.005
    queue: int = 256
    pixels: float = 200e6


@dataclasses.dataclass(eq=False)
class _Ticket:
    """One that waits: a photo, or some other work."""

    future: Future[Any]
    arrived_s: float
    photo: Photo | None = None
    work: Callable[[], Any] | None = None


def _nobody(photos: int, seconds: float) -> None: ...


class Batcher(Generic[A]):
    """`answer` (photos to as many answers) with a queue before it and a thread of its own.

    `told` hears of every batch how many photos it had and how many seconds it took.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Photo]], Sequence[A]],
        shape: Shape,
        told: Callable[[int, float], None] = _nobody,
    ) -> None:
        self._answer, self._shape, self._told = answer, shape, told
        self._waiting: deque[_Ticket] = deque()
        self._changed = threading.Condition()  # guards all that follows
        self._closing = False
        self._seconds_a_photo = 0.0
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def submit(self, photos: Sequence[Photo]) -> list[Future[A]]:
        """A place for each of the photos, or for none. Raises Full or Closed."""
        now = time.monotonic()
        return self._enter([_Ticket(Future(), now, photo=photo) for photo in photos])

    def alone(self, work: Callable[[], T]) -> Future[T]:
        """What `work` returns, run between batches. Raises Full or Closed."""
        return self._enter([_Ticket(Future(), time.monotonic(), work=work)])[0]

    def close(self) -> None:
        """Take on nothing more; returns when all that waits is answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def retry_after_s(self) -> int:
        """In how many seconds what waits now should be answered: at least 1."""
        return max(1, min(_LONGEST_S, math.ceil(self.waiting * self._seconds_a_photo)))

    def _enter(self, tickets: Sequence[_Ticket]) -> list[Future[Any]]:
        with self._changed:
            if self._closing:
                raise Closed
            if len(self._waiting) + len(tickets) > self._shape.queue:
                raise Full(self.retry_after_s())
            self._waiting.extend(tickets)
            self._changed.notify_all()
        for ticket in tickets:
            ticket.future.add_done_callback(partial(self._leave, ticket))
        return [ticket.future for ticket in tickets]

    def _leave(self, ticket: _Ticket, future: Future[Any]) -> None:
        if future.cancelled():
            with self._changed, contextlib.suppress(ValueError):  # it was just taken
                self._waiting.remove(ticket)

    # -- in the thread

    def _run(self) -> None:
        while taken := self._next():
            running = [ticket for ticket in taken if ticket.future.set_running_or_notify_cancel()]
            if running and running[0].work is not None:
                _settle(running[0].future, running[0].work)
            elif running:
                self._answer_all(running)

    def _next(self) -> list[_Ticket]:
        """What is to be done together next; waits for it. Nothing when all is done and nothing more will come."""
        with self._changed:
            while True:
                batch = self._first()
                if not self._waiting:
                    if self._closing:
                        return []
                    self._changed.wait()
                elif (left_s := self._left_s(batch)) > 0:
                    self._changed.wait(left_s)
                else:
                    return [self._waiting.popleft() for _ in range(batch)]

    def _left_s(self, batch: int) -> float:
        """For how long the first may wait for company yet."""
        full = batch < len(self._waiting) or batch == self._shape.batch
        if full or self._closing or self._waiting[0].work is not None:
            return 0.0
        return self._waiting[0].arrived_s + self._shape.deadline_s - time.monotonic()

    def _first(self) -> int:
        """How many of those that wait make up the next batch."""
        pixels = 0
        for place, ticket in enumerate(self._waiting):
            if ticket.photo is None:
                return place or 1
            pixels += ticket.photo.pixels
            if place == self._shape.batch or (place and pixels > self._shape.pixels):
                return place
        return len(self._waiting)

    def _answer_all(self, tickets: Sequence[_Ticket]) -> None:
        """Should all fail together, each is asked about by itself: one must not cost the others their answers."""
        photos = [ticket.photo for ticket in tickets if ticket.photo is not None]
        begun_s = time.monotonic()
        try:
            answers = self._asked(photos)
        except BaseException:  # the thread must outlive whatever a model does
            for ticket, photo in zip(tickets, photos, strict=True):
                _settle(ticket.future, partial(self._asked_alone, photo))
            return
        seconds = time.monotonic() - begun_s
        own = seconds / len(tickets)
        self._seconds_a_photo = own if not self._seconds_a_photo else (1 - _NEWS) * self._seconds_a_photo + _NEWS * own
        self._told(len(tickets), seconds)
        for ticket, answer in zip(tickets, answers, strict=True):
            ticket.future.set_result(answer)

    def _asked_alone(self, photo: Photo) -> A:
        return self._asked([photo])[0]

    def _asked(self, photos: Sequence[Photo]) -> Sequence[A]:
        answers = self._answer(photos)
        if len(answers) != len(photos):
            raise RuntimeError(f"{len(answers)} answers about {len(photos)} photos")
        return answers


def _settle(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # whoever waits for it can tell
        future.set_exception(error)
