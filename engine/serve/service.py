"""A model at work: its queue, its limits and its counts, and what becomes of a request's photos.

Nothing here knows a path or a header; app.py says how it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.concurrency import run_in_threadpool

from engine.kernels.memory import give_back
from engine.quarantine import Fault
from engine.serve.batcher import Batcher, Closed, Full
from engine.serve.fetch import fetched
from engine.serve.gauges import Gauges
from engine.serve.heat import shown
from engine.serve.model import Answer, Model
from engine.serve.photo import Photo, looked_at
from engine.serve.problems import Problem, Refused
from engine.serve.settings import Settings
from engine.serve.uploads import Body, Memory, Sent

T = TypeVar("T")
logger = logging.getLogger("engine.serve")
_TIDY_S = 10.0  # between times that memory is given back, of which each takes some milliseconds
_FETCHERS = 8  # threads that fetch addresses


class Gone(Exception):
    """The client has left."""


class Looked(NamedTuple):
    """A photo that may be answered, or why not, and its name."""

    name: str
    photo: Photo | Problem


class Heatmap(NamedTuple):
    """Where the model saw a class: h rows of w numbers in [0, 1], and the upright photo."""

    label: str
    heat_HW: NDArray[np.float32]
    picture: Image.Image


class Service:
    """`model` by `settings`, between `start` and `close`."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.memory = Memory(settings.memory_bytes)
        self.gauges = Gauges(lambda: self._batcher.waiting if self._batcher else 0, lambda: self.ready)
        self.stopping = False  # whether new work is refused
        self.working = 0  # requests for work that are being answered
        self._batcher: Batcher[Answer | Fault] | None = None
        self.warm: Future[None] | None = None
        self._tidied_s = 0.0  # when memory was last given back
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")

    def start(self) -> None:
        """Load the model and warm it up, in a thread."""
        self._batcher = Batcher(self._asked, self.settings.shape, self.gauges.batch)
        self.warm = self._batcher.alone(self._warm_up)

    def close(self) -> None:
        """Returns when all that was accepted is answered."""
        self.stopping = True
        if self._batcher is not None:
            self._batcher.close()
        self._fetchers.shutdown()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and warm, and takes on work."""
        return self.warm is not None and self.warm.done() and self.failure is None and not self.stopping

    @property
    def failure(self) -> BaseException | None:
        """Why the model cannot be asked at all."""
        return self.warm.exception() if self.warm is not None and self.warm.done() else None

    def refuse_unless_ready(self) -> None:
        if self.stopping:
            raise Refused("stopping", "The server is about to stop.", 1)
        if not self.ready:
            told = f"The model cannot be used: {self.failure}." if self.failure else "The model is being loaded."
            raise Refused("not ready", told, 1)

    def _asked(self, photos: Sequence[Photo]) -> Sequence[Answer | Fault]:
        answers = self.model(photos)
        now_s = time.monotonic()
        if now_s > self._tidied_s + _TIDY_S:
            self._tidied_s = now_s
            give_back()
        return answers

    def _warm_up(self) -> None:
        """One photo, and a full batch: memory is taken, and programs are chosen, for each shape."""
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (128, 128, 128)).save(file, "JPEG")
        for count in (1, self.settings.shape.batch):
            found = self.model([Photo(file.getvalue(), 64 * 48)] * count)
            if isinstance(found[0], Fault):
                raise RuntimeError(f"a plain photo cannot be read: it {found[0]}")

    async def look(self, sent: Sequence[Sent], body: Body, left_s: Callable[[], float]) -> list[Looked]:
        """What of it can be answered. Addresses are fetched."""
        end_s = time.monotonic() + left_s() / 2  # the other half is for the answers
        found = await asyncio.gather(*(self._content(one, body, end_s) for one in sent), return_exceptions=True)
        if failed := next((one for one in found if isinstance(one, BaseException)), None):
            raise failed
        contents = [one for one in found if not isinstance(one, BaseException)]

        def look_at_all() -> list[Photo | Problem]:
            pixels = self.settings.pixels
            return [one if isinstance(one, Problem) else looked_at(one, pixels) for one in contents]

        looked = await run_in_threadpool(look_at_all)
        return [Looked(one.name, photo) for one, photo in zip(sent, looked, strict=True)]

    async def _content(self, sent: Sent, body: Body, end_s: float) -> bytes | Problem:
        if not sent.url:
            return sent.content
        if not self.settings.allow_url:
            return Problem("url off", "This server fetches no addresses.")

        def fetch() -> bytes | Problem:  # begins when a thread is free
            return fetched(sent.url, self.settings.limits.photo_bytes, end_s - time.monotonic())

        fetching = asyncio.get_running_loop().run_in_executor(self._fetchers, fetch)
        try:
            content = await asyncio.wait_for(fetching, max(0.0, end_s - time.monotonic()))
        except TimeoutError:  # while others were fetched, or its name was looked up, which knows no limit
            return Problem("url", "The address cannot be fetched: it takes too long.")
        body.hold(len(content) if isinstance(content, bytes) else 0)
        return content

    async def answers(
        self, looked: Sequence[Looked], gone: Callable[[], Awaitable[None]], left_s: float
    ) -> list[Answer | Problem]:
        """Of each its answer or what is wrong with it. Raises Refused when there is no room or no time, Gone."""
        photos = [one.photo for one in looked if isinstance(one.photo, Photo)]
        futures = self._entered(lambda batcher: batcher.submit(photos))
        found = iter(await _settled(futures, gone, left_s))
        answers = [next(found) if isinstance(one.photo, Photo) else one.photo for one in looked]
        settled = [self._settled(answer) for answer in answers]
        for answer in settled:
            if isinstance(answer, Problem):
                self.gauges.fault(answer.kind)
            else:
                self.gauges.answered()
        return settled

    async def heat(
        self, photo: Photo, label: str | None, gone: Callable[[], Awaitable[None]], left_s: float
    ) -> Heatmap | Problem:
        """Where the model sees a class, or the likeliest. Raises Refused and Gone."""

        def look() -> Heatmap | Problem:
            picture = shown(photo)  # here, where one is decoded at a time: it may be large
            if isinstance(picture, Problem):
                return picture
            (answer,) = self.model([photo])  # which also says whether the model takes it
            if isinstance(answer, Fault):
                return Problem.of(answer)
            named = self.model.classes[int(answer.p_C.argmax())] if label is None else label
            return Heatmap(named, self.model.heatmap(photo, named), picture)

        (found,) = await _settled([self._entered(lambda batcher: batcher.alone(look))], gone, left_s)
        if isinstance(found, BaseException):
            raise found
        return found

    def _entered(self, enter: Callable[[Batcher[Answer | Fault]], T]) -> T:
        assert self._batcher is not None  # started
        try:
            return enter(self._batcher)
        except Full as full:
            raise Refused("busy", "As many photos wait as may wait.", full.retry_after_s) from None
        except Closed:
            raise Refused("stopping", "The server is about to stop.", 1) from None

    def _settled(self, answer: Any) -> Answer | Problem:
        if isinstance(answer, Fault):
            return Problem.of(answer)
        if isinstance(answer, BaseException):
            logger.error("a photo could not be answered", exc_info=answer)
            return Problem("broken", f"The model failed: {str(answer).partition(chr(10))[0][:200]}")
        assert isinstance(answer, Answer | Problem)
        return answer


async def _settled(futures: Sequence[Future[Any]], gone: Callable[[], Awaitable[None]], left_s: float) -> list[Any]:
    """What each of them came to, an exception too. Those that wait yet are cancelled when the time is over (Refused) or
    the client has left (Gone)."""
    if not futures:
        return []
    leaving: asyncio.Future[Any] = asyncio.ensure_future(gone())
    every: asyncio.Future[list[Any]] = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    try:
        await asyncio.wait({every, leaving}, timeout=max(left_s, 0), return_when=asyncio.FIRST_COMPLETED)
        if every.done():
            return every.result()
        if leaving.done():
            raise Gone
        raise Refused("too late", "The answer was not ready in the time that a request has.", 1)
    finally:
        leaving.cancel()
        for future in futures:
            future.cancel()
        every.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(every, leaving, return_exceptions=True)


def ranked(p_C: NDArray[np.float32], classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """The likeliest classes, the likeliest first, of equal ones the first; a float32 is written as the double that it
    is, and so read back to the last bit."""
    order = np.argsort(-p_C, kind="stable")[:top].tolist()
    return [{"name": classes[c], "probability": float(p_C[c])} for c in order]
