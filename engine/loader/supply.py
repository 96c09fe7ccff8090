"""What the streams of a run share: the decoder, room for batches, memory that is used again.

Two streams are alive at once while an epoch is scored and the next one's batches are made ready, and a run of folds has
a loader for each. Their batches are counted together, and there is one decoder for all, which takes one batch at a
time: decoders start threads, and one for a GPU holds memory there; fresh memory has to be mapped (and pinned, for a
GPU), which can take longer than decoding into it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from engine.decode.choose import decode_device, decoder_for
from engine.decode.decoder import Decoder, Opened, Pixels
from engine.errors import EngineError
from engine.kernels.jpeg import Region
from engine.quarantine import Fault
from engine.ranks import own_cores
from engine.recipe.sections import DecodeSection
from engine.system import GIB, total_host_bytes

_SHARE = 8  # the part of memory that decoded batches may fill


class Room:
    """Bytes of batches that may be alive at once. What is taken is given back, by any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.changed = threading.Condition()  # whoever changes what the streams wait for tells it

    def take(self, count: int) -> None:
        with self.changed:
            self.taken += count

    def give(self, count: int) -> None:
        with self.changed:
            self.taken -= count
            self.changed.notify_all()

    def fits(self, count: int) -> bool:
        return self.taken + count <= self.limit


class Slabs:
    """Blocks of memory on the host, each for the pixels of one batch; `pinned` where a GPU copies from them. Those that
    nobody has are kept, up to `limit` bytes."""

    def __init__(self, pinned: bool, limit: int) -> None:
        self._pinned, self._limit = pinned, limit
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    def take(self, count: int) -> Tensor:
        """At least `count` bytes, of any content. Raises EngineError when there is no memory."""
        with self._lock:
            self._free.sort(key=len)
            for index, slab in enumerate(self._free):
                if len(slab) >= count:
                    return self._free.pop(index)
            if self._free:
                self._free.pop()  # too small, and a larger one takes its place
        try:
            # Batches differ a little.
            return torch.empty(count + count // 4, dtype=torch.uint8, pin_memory=self._pinned)
        except (MemoryError, RuntimeError) as error:
            raise EngineError(
                f"no memory for the pixels of a batch, {count / 2**20:,.0f} MiB ({error}): set a smaller batch of the "
                "stage, decode.prefetch or decode.prefetch_mb"
            ) from error

    def give(self, slab: Tensor) -> None:
        """Back, when nobody reads it any more, the device's copies included."""
        with self._lock:
            if sum(map(len, self._free)) + len(slab) <= self._limit:
                self._free.append(slab)


class Ring:
    """Buffers on a GPU for finished batches, which go round: written on one stream, read on another, written again when
    that is done, and no host waits in between. Those that nobody has are kept, up to `limit` bytes."""

    def __init__(self, device: torch.device, limit: int) -> None:
        self._device, self._limit = device, limit
        self._free: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        self._lock = threading.Lock()

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """At least `count` elements, of any content, for kernels of the current stream: it is made to wait for those
        that still read them."""
        stream = torch.cuda.current_stream(self._device)
        with self._lock:
            fits = [one.dtype == dtype and len(one) >= count for one, _ in self._free]
            found = self._free[fits.index(True)] if any(fits) else None
            if found is not None:
                del self._free[fits.index(True)]
            elif self._free:
                self._free.popleft()  # too small, and a larger one takes its place
        if found is None:
            with torch.inference_mode(False):  # scoring may come first, and training reads the same memory
                return torch.empty(count, dtype=dtype, device=self._device)
        buffer, read = found
        stream.wait_event(read)
        buffer.record_stream(stream)
        return buffer

    def give(self, buffer: Tensor, read: torch.cuda.Event) -> None:
        """Back; `read` is when nobody reads it any more."""
        with self._lock:
            if sum(one.nbytes for one, _ in self._free) + buffer.nbytes <= self._limit:
                self._free.append((buffer, read))


class Supply:
    """For a model on `device`."""

    def __init__(self, section: DecodeSection, device: torch.device) -> None:
        self.section, self.device = section, device
        self.prefetch = section.prefetch
        limit = prefetch_bytes(section, device)
        self.room = Room(limit)
        self.slabs = Slabs(device.type == "cuda", limit)
        self.ring = Ring(device, limit)
        self._decoder: Decoder | None = None
        self._decoding = threading.Lock()
        self._slab: Tensor | None = None  # that the decoder has asked for
        self._streams: list[torch.cuda.Stream] = []  # on the device, that nobody uses

    @property
    def decoder(self) -> Decoder:
        """Made when it is first asked for. Raises RecipeError when the recipe's decoder cannot be had here."""
        with self._decoding:
            if self._decoder is None:
                # Every process of this machine would start a thread a core.
                threads = self.section.threads or own_cores()
                section = self.section.model_copy(update={"threads": threads})
                self._decoder = decoder_for(section, self.device, self._memory)
            return self._decoder

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None, rough: bool = False
    ) -> tuple[list[Pixels | Fault], Tensor | None]:
        """`Decoder.pixels`, when no other stream is at it; and the slab that they lie in, from now on the caller's to
        give back; None where none was needed."""
        decoder = self.decoder
        with self._decoding:
            self._slab = None
            found = decoder.pixels(opened, regions, rough)
            slab, self._slab = self._slab, None
        return found, slab

    def take_stream(self) -> torch.cuda.Stream:
        """A stream of the GPU beside the model's, for one thread at a time."""
        try:
            return self._streams.pop()
        except IndexError:
            return torch.cuda.Stream(self.device)

    def give_stream(self, stream: torch.cuda.Stream) -> None:
        """Back. What is queued on it need not have ended."""
        self._streams.append(stream)

    def _memory(self, count: int) -> Tensor:
        self._slab = self.slabs.take(count)
        return self._slab


_shared: ContextVar[list[Supply] | None] = ContextVar("supplies", default=None)


@contextlib.contextmanager
def shared_supplies() -> Iterator[None]:
    """Within, loaders that decode alike share one Supply: those of a run's folds, of its scoring and of its answers."""
    before = _shared.set([])
    try:
        yield
    finally:
        _shared.reset(before)


def supply_for(section: DecodeSection, device: torch.device) -> Supply:
    """The one that is shared here by those who decode like that; a new one where nothing is shared."""
    shared = _shared.get()
    for one in shared or ():
        if one.section == section and one.device == device:
            return one
    supply = Supply(section, device)
    if shared is not None:
        shared.append(supply)
    return supply


def prefetch_bytes(section: DecodeSection, device: torch.device) -> int:
    """Bytes that decoded batches may take together of the memory that they lie in: what the recipe says, or an eighth
    of what there is."""
    if section.prefetch_mb:
        return section.prefetch_mb * 2**20
    if device.type == "cuda" or decode_device(section, device).type == "cuda":
        return int(torch.cuda.mem_get_info(device if device.type == "cuda" else None)[1]) // _SHARE
    return (total_host_bytes() or 16 * GIB) // _SHARE
