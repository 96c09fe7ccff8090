"""A GPU that has nothing to do: what a program asks of it is done at once, and costs the host what it would cost.

    with IdleGpu(launch_us=30, copy_us=10):
        ...  # runs on "cuda"

For benchmarks of the host's part on a machine without a GPU. Copies and Triton kernels are replaced by loops that keep
the interpreter's lock for as long as the host takes to queue one; streams and events by objects that do nothing;
tensors "on cuda" are the CPU's that lie in a range of addresses of their own, one over the other. Nothing is computed,
and nothing that is there may be read: the double in tests/fake_cuda.py, which computes and checks, takes far too long
to measure with.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor

DEVICE = torch.device("cuda", 0)
_HOST = torch.device("cpu")
_MEMORY = 1 << 30  # bytes of addresses; none of them is touched
_MODULES = ("triton_pass", "triton_extras")  # of kernels/, those that are there


class Stream:
    device = DEVICE
    cuda_stream = 0

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_event(self, event: Event) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class Event:
    def record(self, stream: object = None) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class IdleGpu:
    """See the module. `launch_us`, `copy_us`: microseconds that the host takes to queue a Triton kernel, a copy."""

    def __init__(self, launch_us: float, copy_us: float) -> None:
        self.launches = self.copies = 0
        self._launch_s, self._copy_s = launch_us * 1e-6, copy_us * 1e-6
        self._stack = contextlib.ExitStack()
        self._memory = torch.empty(_MEMORY, dtype=torch.uint8)
        self._used = 0

    def __enter__(self) -> Self:
        stream = Stream()
        patches = {
            "Stream": lambda device=None, priority=0: Stream(),
            "Event": lambda *args, **options: Event(),
            "current_stream": lambda device=None: stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "device_of": lambda tensor: contextlib.nullcontext(),
            "set_device": lambda device: None,
            "is_available": lambda: True,
            "current_device": lambda: 0,
            "mem_get_info": lambda device=None: (64 << 30, 80 << 30),
        }
        for name, replacement in patches.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        start = self._memory.data_ptr()
        where = property(lambda tensor: DEVICE if 0 <= tensor.data_ptr() - start < _MEMORY else _HOST)
        self._stack.enter_context(mock.patch.object(Tensor, "device", where))
        is_there = property(lambda tensor: tensor.device is DEVICE)
        self._stack.enter_context(mock.patch.object(Tensor, "is_cuda", is_there))
        self._stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        self._stack.enter_context(mock.patch.object(torch, "empty", self._making(torch.empty)))
        self._stack.enter_context(mock.patch.object(Tensor, "to", self._moving(Tensor.to)))
        for module, name in _kernels():
            self._stack.enter_context(mock.patch.object(module, name, _Kernel(self)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def launch(self, *args: object, **options: object) -> None:
        self.launches += 1
        _busy(self._launch_s)

    def _new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        start = self._used if self._used + size <= _MEMORY else 0
        self._used = start + -(-size // 64) * 64
        return self._memory[start : start + size].view(dtype).view(shape)

    def _making(self, real: Any) -> Any:
        def empty(
            *shape: Any,
            dtype: torch.dtype = torch.float32,
            device: Any = None,
            pin_memory: bool = False,
            **options: Any,
        ) -> Tensor:
            if device is None or torch.device(device).type != "cuda":
                made: Tensor = real(*shape, dtype=dtype, device=device, **options)
                return made
            return self._new(shape[0] if isinstance(shape[0], Sequence) else shape, dtype)

        return empty

    def _moving(self, real: Any) -> Any:
        @functools.wraps(real)
        def to(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
            device = options.get("device", args[0] if args else None)
            if not isinstance(device, (str, torch.device)) or torch.device(device).type != "cuda":
                moved: Tensor = real(tensor, *args, **options)
                return moved
            if tensor.device is DEVICE:
                return tensor
            self.copies += 1
            _busy(self._copy_s)
            return self._new(tensor.shape, tensor.dtype)

        return to


class _Kernel:
    """In the place of a Triton kernel."""

    def __init__(self, gpu: IdleGpu) -> None:
        self._gpu = gpu

    def __getitem__(self, grid: object) -> Any:
        return self._gpu.launch


def _kernels() -> Iterator[tuple[Any, str]]:
    """What is launched from Python: a module, and the name of a kernel in it."""
    import triton

    for name in _MODULES:
        with contextlib.suppress(ModuleNotFoundError):
            module = importlib.import_module(f"engine.kernels.{name}")
            yield from (
                (module, key)
                for key, value in vars(module).items()
                if isinstance(value, triton.JITFunction) and key.endswith("_kernel")
            )


def _busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
