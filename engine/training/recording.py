"""A step of training recorded as a CUDA graph: what launches thousands of kernels becomes one launch.

A recording repeats what was done on the addresses where it was done, so the batch is copied to where the recorded one
lay, and nothing that the host decides may change between two steps: a stage's shape, which layers learn, how much of
the depth is dropped. For another shape, or a new stage, another recording is made. What does change lies in the
device's memory: learning rates, the optimiser's counters, the state of the random numbers, which torch puts there for
each launch from the seed that the host has set, so that a recorded step drops what the step itself would have dropped.

The first steps of a shape are taken as they are, on the stream that is recorded afterwards: libraries choose their
kernels and take their memory then, which cannot be recorded. They are steps like any other. Source: torch's notes on
CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from engine.augment.mix import Labels

TAKEN_FIRST = 3  # steps of a shape that are not recorded

Step = Callable[[Tensor, Labels], Tensor]


class Graph(Protocol):
    """What records a function's kernels, and launches them again."""

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        """The function's result, without recording."""

    def record(self, function: Callable[[], Tensor]) -> Tensor:
        """Record the function without doing what it does; where its result will lie."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """torch's, with a stream of its own."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._graph = torch.cuda.CUDAGraph()

    def run(self, function: Callable[[], Tensor]) -> Tensor:
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = function()
        here.wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Tensor]) -> Tensor:
        # The threads that decode go on taking memory and copying: they are not recorded, and do not break it off.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return function()

    def replay(self) -> None:
        self._graph.replay()


class Recording:
    """A step recorded after the first few batches of a shape, and made anew for another."""

    def __init__(self, graph: Callable[[], Graph] = CudaGraph) -> None:
        self._make = graph
        self._graph: Graph | None = None
        self._key: object = None
        self._taken = 0

    def __call__(self, step: Step, images_BCHW: Tensor, labels: Labels) -> Tensor:
        """The loss of `step` (images, labels -> loss), which is always the same one, in memory of its own."""
        if (key := _key(images_BCHW, labels)) != self._key:
            self._begin(key, images_BCHW, labels)
        self._images_BCHW.copy_(images_BCHW)
        for mine, theirs in zip(_tensors(self._labels), _tensors(labels), strict=True):
            mine.copy_(theirs)
        self._taken += 1
        graph = self._graph
        assert graph is not None
        if self._taken <= TAKEN_FIRST:
            return graph.run(lambda: step(self._images_BCHW, self._labels)).clone()
        if self._taken == TAKEN_FIRST + 1:
            self._loss = graph.record(lambda: step(self._images_BCHW, self._labels))
        graph.replay()
        return self._loss.clone()

    def _begin(self, key: object, images_BCHW: Tensor, labels: Labels) -> None:
        """Another shape. The memory of the last recording is given back before more is taken."""
        self._graph = None
        self._key, self._taken = key, 0
        self._images_BCHW = torch.empty_like(images_BCHW)
        own: dict[str, Any] = {
            name: torch.empty_like(each) for name, each in labels._asdict().items() if isinstance(each, Tensor)
        }
        self._labels: Labels = labels._replace(**own)
        self._graph = self._make()


def _tensors(labels: Labels) -> list[Tensor]:
    return [each for each in labels if isinstance(each, Tensor)]


def _key(images_BCHW: Tensor, labels: Labels) -> object:
    """What a recording is made for: shapes and types, and numbers that are no tensors."""
    described = [(each.shape, each.dtype) if isinstance(each, Tensor) else each for each in (images_BCHW, *labels)]
    return (type(labels), images_BCHW.stride(), *described)
