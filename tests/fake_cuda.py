"""A CUDA device that is none: it says what a program would have made a GPU and its host do.

    with FakeCuda() as gpu:
        ...  # runs on "cuda", in this thread and in those it starts
    gpu.uploads, gpu.waits, gpu.launches

Tensors "on cuda" are tensors of the CPU whose storages are known to the double, so all numbers come out as on the CPU.
Three of torch's own means do it: a function mode answers `.device` and moves tensors, a dispatch mode sees every
operation, and the CUDA sanitizer (`torch.cuda._sanitizer`) tells whether what one stream does is ordered after what
another did. Streams and events are counters.

**Kernels finish late.** An operation has its answer at once, but counts as running until the host has waited for it: an
event answers `query()` with False until then. When it has ended, the memory that it read from outside of torch's
allocator must be there and hold what it held when the operation was queued:

* pinned memory, read by asynchronous copies: unchanged (torch itself keeps it from being handed out again);
* memory that somebody else owns, such as a decoder's (`lend`): unchanged, and not given back;
* device memory that belongs to another stream than the one that used it: not given back (`record_stream` allows it).

What is wrong raises CudaFault where it is found, and at the end of the `with` whatever became of that.

What it does not know: how long anything takes, dtypes and layouts that CUDA lacks, several devices, and copies to the
host that are not waited for, which it refuses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple, Self
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.cuda import _sanitizer
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.augment.extras import Extras
from engine.decode.dali import DaliDecoder
from engine.decode.decoder import Opened, Pixels, whole
from engine.kernels import Filter, Plan, Ragged, one_pass, triton_extras, triton_pass
from engine.loader import neighbourhood
from engine.quarantine import Fault

DEVICE = torch.device("cuda", 0)
_HOST = torch.device("cpu")
Kind = Literal["pageable", "pinned", "device", "lent"]
_STAGED = 64 << 10
_ON_DEVICE = ("device", "lent")


class CudaFault(Exception):
    """What on a GPU would have been wrong pixels, or a crash."""


@dataclasses.dataclass(frozen=True)
class Upload:
    """One copy from the host to the device. The host waits for it without `non_blocking`, and where more than 64 KiB of
    pageable memory have to be staged (CUDA's "API synchronization behavior")."""

    bytes: int
    pinned: bool
    blocking: bool
    stream: int


class Wait(NamedTuple):
    """The host waited for the device, in this thread."""

    why: str
    thread: str


@dataclasses.dataclass
class _Memory:
    """What is known of a storage."""

    number: int  # never used again
    kind: Kind
    stream: int  # whose it is in torch's allocator
    ref: StorageWeakRef
    shared_with: set[int] = dataclasses.field(default_factory=set)  # streams by record_stream


@dataclasses.dataclass
class _Running:
    """A queued operation that the host has not waited for."""

    name: str
    stream: int
    number: int
    used: list[_Memory]
    read: list[tuple[_Memory, int, int, bytes]]  # from where to where, and what was there


class FakeCuda:
    """See the module. All counters may be read and cleared (`clear`) at any time."""

    # Shared: libraries keep tables on the device from one test to the next.
    _memories: ClassVar[dict[int, _Memory]] = {}
    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.waits: list[Wait] = []  # of the host for the device, uploads that block not among them
        self.launches: Counter[str] = Counter()
        self.on_default_stream = 0  # of these: the model's, and whatever else holds it up
        self._handler = _sanitizer.EventHandler()
        self._running: list[_Running] = []
        self._lock = threading.RLock()
        self._local = threading.local()
        self._faults: list[str] = []
        self._stack = contextlib.ExitStack()
        self.default_stream = Stream(self, 0)

    # -- what tests ask and say

    @property
    def blocking_uploads(self) -> list[Upload]:
        return [one for one in self.uploads if one.blocking]

    @property
    def pageable_uploads(self) -> list[Upload]:
        return [one for one in self.uploads if not one.pinned]

    def clear(self) -> None:
        """Count from here on."""
        with self._lock:
            for address in [address for address, memory in self._memories.items() if memory.ref.expired()]:
                del self._memories[address]
        self.uploads.clear()
        self.waits.clear()
        self.launches.clear()
        self.on_default_stream = 0

    @property
    def waits_here(self) -> list[Wait]:
        """Those of the calling thread."""
        return [one for one in self.waits if one.thread == threading.current_thread().name]

    def lend(self, tensor: Tensor) -> Tensor:
        """The same tensor as one on the device whose memory belongs to somebody else than torch."""
        self._note(tensor, "lent")
        return tensor

    def kind_of(self, tensor: Tensor) -> Kind:
        memory = self._memories.get(_address(tensor))
        return "pageable" if memory is None or memory.ref.expired() else memory.kind

    def finish(self) -> None:
        """Let all that is queued come to its end. Raises CudaFault for what went wrong."""
        with self._lock:
            self._handler._handle_device_synchronization()
            self._end(self._running)
            self._raise()

    # -- as a context

    def __enter__(self) -> Self:
        patches = {
            "Stream": lambda device=None, priority=0: self._new_stream(),
            "Event": lambda *args, **kwargs: Event(self),
            "current_stream": lambda device=None: self.current_stream,
            "default_stream": lambda device=None: self.default_stream,
            "stream": self.on_stream,
            "device": lambda device: contextlib.nullcontext(),
            "device_of": lambda tensor: contextlib.nullcontext(),
            "synchronize": lambda device=None: self._wait_for_all(),
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "is_bf16_supported": lambda including_emulation=True: False,
            "mem_get_info": lambda device=None: (64 << 30, 80 << 30),
        }
        for name, replacement in patches.items():
            self._stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        self._stack.enter_context(mock.patch.object(threading.Thread, "run", self._in_modes(threading.Thread.run)))
        # Optimizers ask whether a graph is being captured.
        current = SimpleNamespace(is_capturing=lambda: False)
        self._stack.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda: current))
        self._stack.enter_context(
            mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", self._grouping(torch._C))
        )
        self._stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        # The sanitizer keeps a stack trace of every access, which takes longer than all else.
        summary = SimpleNamespace(extract=lambda *_, **__: [])
        untraced = SimpleNamespace(StackSummary=summary, walk_stack=lambda frame: ())
        self._stack.enter_context(mock.patch.object(_sanitizer, "traceback", untraced))
        self._stack.enter_context(mock.patch.object(Tensor, "record_stream", self._record_stream))
        for patch in (*_PassKernels(self).patches(), *_ExtrasKernels(self).patches()):
            self._stack.enter_context(patch)
        self._stack.enter_context(self._modes())
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        if kind is None:
            self.finish()

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        with _Dispatch(self), _Function(self):  # torch's modes are each thread's own
            yield

    def _in_modes(self, run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        def in_modes(thread: threading.Thread) -> None:
            with self._modes():
                run(thread)

        return in_modes

    # -- streams

    @property
    def current_stream(self) -> Stream:
        stream: Stream = getattr(self._local, "stream", self.default_stream)
        return stream

    @contextlib.contextmanager
    def on_stream(self, stream: Stream | None) -> Iterator[None]:
        before = self.current_stream
        self._local.stream = stream or before
        try:
            yield
        finally:
            self._local.stream = before

    def _new_stream(self) -> Stream:
        with self._lock:
            stream = Stream(self, next(self._numbers))
            self._handler._handle_stream_creation(stream.number)
            return stream

    def _wait_for_all(self) -> None:
        self.waits.append(Wait("synchronize", threading.current_thread().name))
        self.finish()

    def _wait_for(self, state: dict[int, int], why: str) -> None:
        """The host waits until streams have come as far as `state` says; "" for a wait that is counted elsewhere."""
        with self._lock:
            self.waits += [Wait(why, threading.current_thread().name)] if why else []
            self._end([one for one in self._running if one.number <= state.get(one.stream, -1)])
            self._raise()

    # -- operations

    def launch(self, name: str, reads: Iterable[Tensor], writes: Iterable[Tensor] = (), copy: bool = False) -> None:
        """Note an operation of the current stream as queued; with `copy` one by the copy engine, which may read what is
        pinned."""
        reads, writes = [*reads], [*writes]
        with self._lock:
            if not copy:
                self.launches[name] += 1
                self.on_default_stream += self.current_stream is self.default_stream
            read, written = [self._known(one) for one in reads], [self._known(one) for one in writes]
            for memory in read + written:
                if memory.kind == "pageable" or (memory.kind == "pinned" and not copy):
                    self._faults.append(f"{name} looks at {memory.kind} memory of the host")
            self._raise()
            stream = self.current_stream.number
            self._order(name, stream, read, written)
            held = []
            for memory, one in zip(read, reads, strict=True):
                if memory.kind != "device":
                    held.append((memory, *_extent(one), _content(memory, *_extent(one))))
            self._running.append(_Running(name, stream, self._handler.seq_num, read + written, held))

    def _order(self, name: str, stream: int, read: list[_Memory], written: list[_Memory]) -> None:
        """Ask the sanitizer whether other streams are done with this memory."""
        changed = {memory.number for memory in written}
        only_read = {memory.number for memory in read} - changed
        names = {number: [name] for number in changed | only_read}
        with self._lock:  # a launch of another thread must not take this one's number for its own
            errors = self._handler._handle_kernel_launch(stream, only_read, changed, changed, name, names)
        for error in errors:
            before = error.previous_access  # type: ignore[attr-defined]
            self._faults.append(f"{name} on stream {stream} races with {before.operator} on stream {before.stream}")
        self._raise()

    def _end(self, ended: list[_Running]) -> None:
        for one in ended:
            for memory in one.used:
                foreign = memory.stream != one.stream and one.stream not in memory.shared_with
                if memory.ref.expired() and (memory.kind == "lent" or (memory.kind == "device" and foreign)):
                    self._faults.append(f"memory was given back while {one.name} was reading it")
            for memory, start, stop, content in one.read:
                if not memory.ref.expired() and _content(memory, start, stop) != content:
                    self._faults.append(f"memory was overwritten while {one.name} was reading it")
        ids = {id(one) for one in ended}
        self._running = [one for one in self._running if id(one) not in ids]

    def _raise(self) -> None:
        """What was found stays: an exception may get lost, in a generator that is closed by nobody or in a thread."""
        if self._faults:
            raise CudaFault("; ".join(dict.fromkeys(self._faults)))

    # -- memory

    def _note(self, tensor: Tensor, kind: Kind) -> None:
        """Say what kind of memory the tensor lies in, unless that is known."""
        with self._lock:
            known = self._memories.get(_address(tensor))
            if known is None or known.ref.expired() or known.kind != kind:
                ref = StorageWeakRef(tensor.untyped_storage())
                memory = _Memory(next(self._numbers), kind, self.current_stream.number, ref)
                self._memories[_address(tensor)] = memory  # a weak reference keeps the address from being used again

    def _known(self, tensor: Tensor) -> _Memory:
        memory = self._memories.get(_address(tensor))
        if memory is None or memory.ref.expired():
            return _Memory(0, "pageable", 0, StorageWeakRef(tensor.untyped_storage()))
        return memory

    def at(self, address: int, shape: tuple[int, ...]) -> Tensor:
        """The bytes at an address of the device, as a kernel sees them. Raises CudaFault where nothing is."""
        with self._lock:
            for memory in self._memories.values():
                storage = None if memory.ref.expired() else torch.UntypedStorage._new_with_weak_ptr(memory.ref.cdata)
                if storage is None or memory.kind not in _ON_DEVICE:
                    continue
                start = address - storage.data_ptr()
                if 0 <= start < storage.nbytes():
                    return torch.empty(0, dtype=torch.uint8).set_(storage)[start : start + math.prod(shape)].view(shape)
        self._faults.append("a kernel looks at an address that is not the device's")
        self._raise()
        raise AssertionError

    def on_device(self, tensor: Tensor) -> bool:
        return self.kind_of(tensor) in _ON_DEVICE

    def _grouping(self, real: Any) -> Callable[..., Any]:
        """C++ sees through the double: the device in the keys is put right."""
        group = real._group_tensors_by_device_and_dtype

        def by_device(lists: Any, *args: Any) -> Any:
            found = group(lists, *args)
            device = next(_tensors(lists), None)
            if device is None or not self.on_device(device):
                return found
            return {(DEVICE, dtype): value for (_, dtype), value in found.items()}

        return by_device

    @property
    def _record_stream(self) -> Callable[[Tensor, Stream], None]:
        def record_stream(tensor: Tensor, stream: Stream) -> None:
            self._known(tensor).shared_with.add(stream.number)

        return record_stream

    def upload(self, to: Tensor, source: Tensor, non_blocking: bool) -> None:
        """Note a copy from the host."""
        pinned = self.kind_of(source) == "pinned"
        size = source.numel() * source.element_size()
        blocking = not non_blocking or (not pinned and size > _STAGED)
        self.uploads.append(Upload(size, pinned, blocking, self.current_stream.number))
        if not blocking:
            self.launch("upload", [source] if pinned else [], [to], copy=True)
            return
        self._order("upload", self.current_stream.number, [], [self._known(to)])
        self.current_stream._waited("")

    def download(self, source: Tensor, why: str) -> None:
        """Note that the host wants to know what is on the device."""
        self._order(why, self.current_stream.number, [self._known(source)], [])
        self.current_stream._waited(why)


class Stream:
    """A queue of operations: a number in the sanitizer's books."""

    def __init__(self, gpu: FakeCuda, number: int) -> None:
        self._gpu, self.number = gpu, number
        self.device = DEVICE
        self.cuda_stream = number

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self._gpu)
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        self._gpu._handler._handle_event_wait(event.number, self.number)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())

    def synchronize(self) -> None:
        self._waited("Stream.synchronize")

    def query(self) -> bool:
        return not any(one.stream == self.number for one in self._gpu._running)

    def _waited(self, why: str) -> None:
        gpu = self._gpu
        with gpu._lock:
            state = dict(gpu._handler.syncs.current_sync_states[self.number])
            gpu._handler._handle_stream_synchronization(self.number)
            gpu._wait_for(state, why)


class Event:
    """A place in a stream."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._gpu = gpu
        with gpu._lock:
            self.number = next(gpu._numbers)
            gpu._handler._handle_event_creation(self.number)
        self._state: dict[int, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self._gpu.current_stream
        with self._gpu._lock:
            self._gpu._handler._handle_event_record(self.number, stream.number)
            self._state = dict(self._gpu._handler.syncs.recorded_sync_states[self.number])

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._gpu.current_stream).wait_event(self)

    def synchronize(self) -> None:
        with self._gpu._lock:
            self._gpu._handler._handle_event_synchronization(self.number)
            self._gpu._wait_for(self._state, "Event.synchronize")

    def query(self) -> bool:
        """Late: True only for what the host has waited for."""
        return not any(one.number <= self._state.get(one.stream, -1) for one in self._gpu._running)


class _Generator(torch.Generator):
    """On the CPU, whatever device is asked for."""

    def __new__(cls, device: object = None) -> Self:
        return super().__new__(cls)


class LendingDecoder:
    """Decodes as DALI on a GPU does: whole photos, into memory that is its own. Stands in the place of DaliDecoder."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._gpu, self._by = gpu, DaliDecoder(_HOST, 1)
        self.device = DEVICE

    def open(self, contents: Sequence[bytes]) -> list[Opened | Fault]:
        return self._by.open(contents)

    def pixels(self, opened: Sequence[Opened], regions: object = None, rough: bool = False) -> list[Pixels | Fault]:
        def decoded(one: Opened) -> Pixels:
            with Image.open(io.BytesIO(bytes(one.content))) as image:
                return whole(self._gpu.lend(torch.from_numpy(np.array(image.convert("RGB")))))

        return [decoded(one) for one in opened]


# --- what programs call ---------------------------------------------------------------------------------------------

_MAKERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}  # of what is on the host: a copy that blocks
_LOOKS = {
    Tensor.tolist: "tolist",
    Tensor.item: "item",
    Tensor.__bool__: "bool",
    Tensor.__float__: "float",
    Tensor.__int__: "int",
    Tensor.__index__: "index",
    Tensor.numpy: "numpy",
    Tensor.__array__: "numpy",
}
_IS = {Tensor.is_cuda.__get__: ("cuda", True), Tensor.is_cpu.__get__: ("cpu", True)}  # type: ignore[attr-defined]


class _Function(TorchFunctionMode):
    """Answers for devices: what is asked for on "cuda" is made on the CPU and noted."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self._gpu, dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if gpu.on_device(args[0]) else func(*args)
        if func in _IS:
            return gpu.on_device(args[0]) == (_IS[func][0] == "cuda")
        if func is Tensor.get_device:
            return 0 if gpu.on_device(args[0]) else -1
        if func is Tensor.is_pinned:
            return gpu.kind_of(args[0]) == "pinned"
        if func is Tensor.pin_memory:
            if gpu.kind_of(args[0]) == "pinned":
                return args[0]
            copied = args[0].clone(memory_format=torch.preserve_format)
            gpu._note(copied, "pinned")
            return copied
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._moved(func, args, kwargs)
        if first is not None and func in _LOOKS and gpu.on_device(first):
            gpu.download(first, _LOOKS[func])
            with _Unseen(gpu):
                return func(*args, **kwargs)
        return self._made(func, first, args, kwargs)

    def _made(self, func: Any, first: Tensor | None, args: Any, kwargs: dict[str, Any]) -> Any:
        gpu = self._gpu
        pinned = kwargs.pop("pin_memory", False)
        wanted = kwargs.get("device")
        on_cuda = _is_cuda(wanted) if wanted is not None else func is Tensor.new_tensor and gpu.on_device(args[0])
        if wanted is not None:
            kwargs["device"] = _HOST if on_cuda else wanted
        if func in _MAKERS and on_cuda:
            with _Unseen(gpu):
                made = func(*args, **kwargs)
            return self._copied(made, made.dtype, non_blocking=False)
        gpu._local.makes = on_cuda
        try:
            made = func(*args, **kwargs)
        finally:
            gpu._local.makes = False
        if pinned:
            gpu._note(made, "pinned")
        if func is Tensor.__deepcopy__ and first is not None and gpu.on_device(first):
            gpu._note(made, "device")
        return made

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        gpu, source, rest = self._gpu, args[0], args[1:]
        if func is Tensor.cpu:
            device, dtype, non_blocking = _HOST, None, False
        elif func is Tensor.cuda:
            device, dtype, non_blocking = DEVICE, None, kwargs.get("non_blocking", False)
        elif rest and isinstance(rest[0], Tensor):
            device, dtype, non_blocking = (
                DEVICE if gpu.on_device(rest[0]) else _HOST,
                rest[0].dtype,
                kwargs.pop("non_blocking", False),
            )
            rest = ()
        else:
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(
                *rest, **{k: v for k, v in kwargs.items() if k != "copy"}
            )
        here = gpu.on_device(source)
        there = here if device is None else _is_cuda(device)
        if here == there:
            options = {name: kwargs[name] for name in ("copy", "memory_format") if name in kwargs}
            return source.to(dtype or source.dtype, **options)
        if there:
            return self._copied(source, dtype or source.dtype, non_blocking)
        if non_blocking:
            raise NotImplementedError("a copy to the host that is not waited for")
        gpu.download(source, "cpu")
        with _Unseen(gpu):
            return source.detach().clone(memory_format=torch.preserve_format).to(dtype or source.dtype)

    def _copied(self, source: Tensor, dtype: torch.dtype, non_blocking: bool) -> Tensor:
        with _Unseen(self._gpu):
            made = source.clone(memory_format=torch.preserve_format).to(dtype)
        self._gpu._note(made, "device")
        self._gpu.upload(made, source, non_blocking)
        return made


class _Unseen:
    """What the double itself computes."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._local = gpu._local

    def __enter__(self) -> None:
        self._local.unseen = getattr(self._local, "unseen", 0) + 1

    def __exit__(self, *_: object) -> None:
        self._local.unseen -= 1


# --- what torch computes --------------------------------------------------------------------------------------------

_NO_KERNEL = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::new_empty_strided"}
_NO_KERNEL |= {"aten::detach", "aten::lift_fresh", "aten::set_"}
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::_unique2", "aten::unique_dim", "aten::equal"}
_WAITING |= {"aten::masked_select", "aten::unique_consecutive", "aten::bincount", "aten::is_nonzero"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class _Dispatch(TorchDispatchMode):
    """Sees every operation: which are kernels, which make the host wait, what they read and write."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self._gpu, kwargs or {}
        if getattr(gpu._local, "unseen", 0):
            return func(*args, **kwargs)
        name = func._schema.name
        inputs = [*_tensors([args, *kwargs.values()])]
        device = [one for one in inputs if gpu.on_device(one)]
        if name == "aten::copy_":
            return self._copy(func, args, kwargs)
        if not device and not getattr(gpu._local, "makes", False):
            return func(*args, **kwargs)
        self._look_at_indices(name, args, inputs)
        made = func(*args, **kwargs)
        before = {_address(one) for one in inputs}
        outputs = [*_tensors(made)]
        for one in outputs:
            if _address(one) not in before:
                gpu._note(one, "device")
        fresh = [one for one in outputs if _address(one) not in before]
        if name not in _NO_KERNEL and (fresh or func._schema.is_mutable or not outputs):
            written = [one for one, changed in _arguments(func, args, kwargs) if changed and gpu.on_device(one)]
            changed = {id(one) for one in written}
            gpu.launch(name, [one for one in device if id(one) not in changed], [*written, *fresh])
        if name in _WAITING:
            gpu.download(device[0], name)
        return made

    def _copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        gpu, to, source = self._gpu, args[0], args[1]
        made = func(*args, **kwargs)
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        match gpu.on_device(source), gpu.on_device(to):
            case True, True:
                gpu.launch("aten::copy_", [source], [to])
            case False, True if source.dim() or source.numel() > 1:
                gpu.upload(to, source, non_blocking)
            case False, True:
                gpu.launch("aten::fill_", [], [to])
            case True, False:
                gpu.download(source, "copy to the host")
        return made

    def _look_at_indices(self, name: str, args: Any, inputs: list[Tensor]) -> None:
        gpu = self._gpu
        if name in _INDEXING:
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    gpu.download(args[0], "a mask as an index")
                elif index is not None and not gpu.on_device(index):
                    gpu.uploads.append(Upload(index.numel() * index.element_size(), False, True, 0))
            inputs = [one for one in inputs if all(one is not index for index in args[1])]
        for one in inputs:
            if one.dim() and not gpu.on_device(one):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")


def _arguments(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Tensor, bool]]:
    """The tensors that an operation takes, and whether it writes to them."""
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        yield from ((one, written) for one in _tensors(value))


def _tensors(value: object) -> Iterator[Tensor]:
    """All that there are in lists of lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


class _PassKernels:
    """The pass's two kernels: the first reads a plan, a table of addresses and what is there, the second what the first
    has written and the images, and it writes a batch, here on the CPU."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._gpu = gpu
        self._prepared: dict[int, tuple[list[Tensor], Plan]] = {}  # by the rows that the first kernel has written

    def patches(self) -> Iterator[Any]:
        for name, run in (("prepare", self._prepare), ("pass", self._pass)):
            kernel = getattr(triton_pass, f"_{name}_kernel")
            yield mock.patch.object(triton_pass, f"_{name}_kernel", _Launching(kernel.arg_names, run))

    def _prepare(self, named: dict[str, Any]) -> None:
        gpu, rows = self._gpu, named["rows"]
        with _Unseen(gpu), torch._C.DisableTorchFunction():
            images = [gpu.at(address, (height, width, 3)) for address, height, width in named["table"].tolist()]
        tensors = [one for name, one in named.items() if isinstance(one, Tensor) and name != "rows"]
        gpu.launch("prepare", [*images, *tensors], [rows])
        scale, shift = ([named[f"{what}_{channel}"] for channel in "rgb"] for what in ("scale", "shift"))
        mean = tuple(-b / a for a, b in zip(scale, shift, strict=True))
        own = ("border", "border_color", "color_op", "color_arg", "rect", "rect_fill", "rect_color", "noise_seed")
        plan = Plan(
            *(named["height"], named["width"], named["matrix"], mean, tuple(1 / a for a in scale)),
            *(Filter(named["FILTER"]), named["ANTIALIAS"], *(named[name] for name in own)),
        )
        self._prepared[_address(rows)] = images, plan

    def _pass(self, named: dict[str, Any]) -> None:
        gpu, out, rows = self._gpu, named["out"], named["rows"]
        images, plan = self._prepared.pop(_address(rows))
        mix = [named["partner"], named["weight"], named["box"]]
        gpu.launch("pass", [*images, rows, *(one for one in mix if one is not None)], [out])
        plan = dataclasses.replace(plan, partner_B=mix[0], weight_B=mix[1], box_B4=mix[2])
        with _Unseen(gpu), torch._C.DisableTorchFunction():
            out.copy_(one_pass(Ragged(images), plan))


class _ExtrasKernels:
    """The extras' kernels: each launch is noted with what it reads and writes, and when all of a batch are queued, the
    pixels are made as the definition says."""

    def __init__(self, gpu: FakeCuda) -> None:
        self._gpu = gpu
        self._drawn: dict[int, Extras] = {}  # by the jobs that were made of them
        self._real = triton_extras.triton_extras, neighbourhood.jobs_of

    def patches(self) -> Iterator[Any]:
        yield mock.patch.object(neighbourhood, "jobs_of", self._jobs_of)
        yield mock.patch.object(triton_extras, "triton_extras", self._run)
        written = {"count": "counts", "table": "counts", "shift": "places", "smooth": "places pixels"}
        written |= {"change": "places pixels", "chroma": "places", "block": "places pixels"}
        for name, results in written.items():
            kernel = getattr(triton_extras, f"_{name}_kernel")
            yield mock.patch.object(triton_extras, f"_{name}_kernel", self._noting(name, kernel, results.split()))

    def _noting(self, name: str, kernel: Any, written: list[str]) -> Any:
        def note(*args: Any, **options: object) -> None:
            named = dict(zip(kernel.arg_names, args, strict=False))
            tensors = {key: one for key, one in named.items() if isinstance(one, Tensor)}
            reads = [one for key, one in tensors.items() if key not in written]
            self._gpu.launch(name, reads, [tensors[key] for key in written])

        class Kernel:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                assert min(grid) > 0
                return note

        return Kernel()

    def _jobs_of(self, op_NE: Tensor, arg_NE: Tensor, seed_N: Tensor, height: int, width: int) -> Any:
        jobs = self._real[1](op_NE, arg_NE, seed_N, height, width)
        self._drawn[id(jobs)] = Extras(op_NE, arg_NE, seed_N)
        return jobs

    def _run(self, jobs: Any, tables: Sequence[Tensor], places: Tensor, pixels_NHW3: Tensor) -> Tensor:
        self._real[0](jobs, tables, places, pixels_NHW3)
        with _Unseen(self._gpu), torch._C.DisableTorchFunction():
            warped_NHW3 = places[: pixels_NHW3.numel()].view(pixels_NHW3.shape)
            extras = self._drawn.pop(id(jobs))
            return pixels_NHW3.copy_(neighbourhood.changed(extras, warped_NHW3.permute(0, 3, 1, 2)))


class _Launching:
    """Stands for a Triton kernel: `kernel[grid](...)` calls `run` with the arguments by name."""

    def __init__(self, names: Sequence[str], run: Callable[[dict[str, Any]], None]) -> None:
        self.arg_names, self._run = names, run

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert min(grid) > 0
        return lambda *args, **more: self._run(dict(zip(self.arg_names, args, strict=False)) | more)


def _is_cuda(device: object) -> bool:
    if isinstance(device, int):
        return True
    return torch.device(device).type == "cuda"  # type: ignore[arg-type]


def _address(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()._cdata


def _extent(tensor: Tensor) -> tuple[int, int]:
    """From which byte of its storage to which a tensor reaches."""
    start = tensor.storage_offset() * tensor.element_size()
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return start, start + (reach * tensor.element_size() if tensor.numel() else 0)


def _content(memory: _Memory, start: int, stop: int) -> bytes:
    storage = torch.UntypedStorage._new_with_weak_ptr(memory.ref.cdata)
    with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
        whole = torch.empty(0, dtype=torch.uint8).set_(storage)
        return whole[start:stop].numpy().tobytes()
