"""A network is shown batches of one shape only, so that an answer depends on the photo alone, to the last bit.

What a convolution or a matrix product adds up in which order is decided by libraries, by the shape of the batch and by
the number of threads: the same photo in a batch of 7 and of 64, or with one thread and with two, gets answers that
differ in their last bits. Here whatever comes is cut into parts of a fixed number of images, and the last part is
filled up with blank ones. Each is copied into memory of its own, because libraries look at alignment, too.

The number depends on the model, the size of the images and the device alone: as many as `Runtime.images_at_once`
says, unless the network adds up differently in one place of the batch than in another. Libraries promise nothing
there (squeeze-and-excitation of two images did so on a CPU), so it is tried, by one image in all places; then it is
half as many, down to one, where there is nothing to promise.

On the CPU each part is one thread's, and the parts are spread over as many threads as torch would use for one batch.
That costs nothing where there are many: no thread waits for another, and a part stays in a core's cache. The price is
paid by a single photo, which is answered by one core, in the company of blank images where it is small. On a GPU parts
go one after another, and cuDNN may only choose among kernels that always add up in the same order.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from engine.model.runtime import Runtime

Answers = tuple[Tensor, ...]  # each (B, ...)
_TRIES = 2  # images that are put into all places: one may be rounded alike by chance


class MicroBatches:
    """`network` (images (B, 3, H, W) to tensors (B, ...)) as it answers in parts of a fixed shape, without gradients
    and in the runtime's precision. It must answer about each image by itself; on the CPU several threads call it.

    `tried` is what was found out about the network before, by precision, height and width."""

    def __init__(
        self, network: Callable[[Tensor], Answers], runtime: Runtime, tried: dict[tuple[int, ...], int] | None = None
    ) -> None:
        self._network = network
        self._runtime = runtime
        self._at_once = {} if tried is None else tried

    def __call__(self, pixels_BCHW: Tensor) -> Answers:
        count = len(pixels_BCHW)
        with self._runtime.autocast():  # what is cast within is dropped when the outermost ends
            size = self.at_once(pixels_BCHW)
            starts = range(0, count, size)
            parts = self._each(lambda start: _part(pixels_BCHW[start : start + size], size), starts)
        parts = [tuple(each[: count - start] for each in part) for start, part in zip(starts, parts, strict=True)]
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def at_once(self, pixels_BCHW: Tensor) -> int:
        """How many images like these make a part."""
        height, width = pixels_BCHW.shape[2:]
        key = (self._runtime.bf16, height, width)
        if key not in self._at_once:
            size = self._runtime.images_at_once(height, width)
            while not self._alike_everywhere(pixels_BCHW[:1], size):
                size //= 2
            self._at_once[key] = size
        return self._at_once[key]

    def _alike_everywhere(self, like_1CHW: Tensor, size: int) -> bool:
        """Whether an image gets the same answer in all places of a part. Tried with noise, the same for everybody."""
        if size == 1:
            return True
        expand = (size, *like_1CHW.shape[1:])
        parts = self._each(lambda number: _part(_noise(like_1CHW, number).expand(expand), size), range(_TRIES))
        return all(torch.equal(each, each[:1].expand_as(each)) for part in parts for each in part)

    def _each(self, part: Callable[[int], Tensor], of: range) -> list[Answers]:
        """What the network makes of the part for each of these numbers."""

        @torch.no_grad()  # a thread's own, as autocast is
        def answer(number: int) -> Answers:
            with self._runtime.autocast():
                return self._network(part(number))

        if self._runtime.device.type == "cpu":
            return [*_workers(torch.get_num_threads()).map(answer, of)]
        with _same_kernels():
            return [answer(number) for number in of]


def _noise(like_1CHW: Tensor, number: int) -> Tensor:
    """An image of no structure, from -1 to 1, made where it is needed. The same for everybody."""
    n = torch.arange(like_1CHW.numel(), device=like_1CHW.device, dtype=torch.float32)
    return ((n + 1000 * number).sin() * 43758.5453).frac().view(like_1CHW.shape).to(like_1CHW.dtype)


def _part(images_BCHW: Tensor, size: int) -> Tensor:
    """The images and blank ones after the last, `size` in all, in channels-last memory of their own."""
    shape, layout = (size, *images_BCHW.shape[1:]), torch.channels_last
    part = torch.empty(shape, dtype=images_BCHW.dtype, device=images_BCHW.device, memory_format=layout)
    part[: len(images_BCHW)] = images_BCHW
    part[len(images_BCHW) :] = 0
    return part


@contextlib.contextmanager
def _same_kernels() -> Iterator[None]:
    """cuDNN measures no kernels, which would choose by the moment, and takes none whose sums depend on it."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    """`count` threads in which torch uses no others, and keeps what autocast casts until the caller's context ends.

    How many it uses is each thread's own (OpenMP's and MKL's), but a thread that says so says it for all that begin
    later; so they begin at once, and then it is said again as it was.
    """
    before = torch.get_num_threads()
    ready = threading.Barrier(count + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread that was never asked takes what was said last, its own word or not
        torch.set_num_threads(1)
        torch.autocast("cpu", enabled=False).__enter__()  # the cache is one for all threads: none is to drop it
        ready.wait()

    workers = ThreadPoolExecutor(count, thread_name_prefix="answer", initializer=begin)
    for _ in range(count):  # none is idle before all are ready, so that each task begins a thread
        workers.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return workers


os.register_at_fork(after_in_child=_workers.cache_clear)  # threads stay behind
