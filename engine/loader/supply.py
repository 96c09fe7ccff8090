"""What the streams of one loader share: room for pixels, memory that is used again, decoders.

Two streams are alive at once while an epoch is scored and the next one's batches are made ready. Their batches are
counted together, and one's decoder and memory become the other's: a decoder starts threads, and fresh memory has to be
mapped (and pinned, for a GPU), which can take longer than decoding into it.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from engine.decode.choose import decode_device, decoder_for
from engine.decode.decoder import Decoder
from engine.errors import EngineError
from engine.ranks import own_cores
from engine.recipe.sections import DecodeSection
from engine.system import GIB, total_host_bytes

_SHARE = 8  # the part of memory that decoded batches may fill


class Room:
    """Bytes of pixels that may be alive at once. What is taken is given back, by any thread."""

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


class Lane:
    """A decoder, for one stream at a time, and the slab that it took for what it decoded last."""

    def __init__(self, section: DecodeSection, device: torch.device, slabs: Slabs) -> None:
        self._slabs = slabs
        self._slab: Tensor | None = None
        self.decoder: Decoder = decoder_for(section, device, self._memory)

    def taken(self) -> Tensor | None:
        """The slab that holds the last batch, from now on the caller's to give back; None where none was needed."""
        slab, self._slab = self._slab, None
        return slab

    def _memory(self, count: int) -> Tensor:
        self._slab = self._slabs.take(count)
        return self._slab


class Supply:
    """For a model on `device`. The first lane raises RecipeError when the recipe's decoder cannot be had here."""

    def __init__(self, section: DecodeSection, device: torch.device) -> None:
        self.device = device
        self.prefetch = section.prefetch
        # Every process of this machine would start a thread a core.
        self._section = section.model_copy(update={"threads": section.threads or own_cores()})
        limit = prefetch_bytes(section, device)
        self.room = Room(limit)
        self.slabs = Slabs(device.type == "cuda", limit)
        self._idle: list[Lane] = []

    def lane(self) -> Lane:
        """One that is idle, or a new one."""
        try:
            return self._idle.pop()
        except IndexError:
            return Lane(self._section, self.device, self.slabs)

    def give(self, lane: Lane) -> None:
        self._idle.append(lane)


def prefetch_bytes(section: DecodeSection, device: torch.device) -> int:
    """Bytes that decoded batches may take together of the memory that they lie in: what the recipe says, or an eighth
    of what there is."""
    if section.prefetch_mb:
        return section.prefetch_mb * 2**20
    if device.type == "cuda" or decode_device(section, device).type == "cuda":
        return int(torch.cuda.mem_get_info(device if device.type == "cuda" else None)[1]) // _SHARE
    return (total_host_bytes() or 16 * GIB) // _SHARE
