"""Bytes of JPEGs to upright RGB uint8 images of their own sizes, by DALI's dynamic mode.

Dynamic mode and not a pipeline, for two reasons. A pipeline dies for good with its first unreadable file; here the bad
batch raises, is decoded again one by one, and Pillow has the last word on the culprit. And the order of samples stays
outside, in `engine.order`, so a run can be stopped and continued. The rate is the same. Only decoding happens here:
resizing is part of the one pass, and DALI's own CPU resize costs more than its decode.

Only plain JPEGs are DALI's. What else there is it decodes on the CPU, no faster than Pillow, and with its own ideas of
16 bits, transparency and palettes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine import pictures
from engine.decode.decoder import Opened, Pixels, whole
from engine.decode.pillow import PillowDecoder
from engine.errors import EngineError
from engine.hush import hushed
from engine.kernels import Placed
from engine.kernels.files import Content, Encoded
from engine.kernels.jpeg import Region
from engine.quarantine import Fault

# What DALI, CUDA and nvJPEG say when the device or its memory is at fault, and not a file.
_OF_THE_DEVICE = re.compile(
    r"CUDA (runtime|driver) API error|CUDA error|cudaError|out of memory|bad_alloc|(can't|failed to) allocate"
    r"|NVJPEG_STATUS_(ALLOCATOR_FAILURE|ARCH_MISMATCH|NOT_INITIALIZED)",
    re.IGNORECASE,
)


class DaliDecoder:
    """Decodes batches of encoded images on `device`, with `threads` threads (0: DALI's choice, one per core).

    `others` decodes what is no plain JPEG, and what DALI refuses. `gpu`: the index of the GPU whose model the pixels
    are for, also when they are decoded on the CPU; None where there is none.
    """

    def __init__(
        self, device: torch.device, threads: int = 0, others: PillowDecoder | None = None, gpu: int | None = None
    ) -> None:
        self.device = device
        self._threads = threads
        self._others = others or PillowDecoder(threads)
        self._gpu = device.index if device.type == "cuda" else gpu

    def open(self, contents: Sequence[Content]) -> list[Opened | Fault]:
        """See `Decoder`."""
        return self._others.open(contents)

    def pixels(
        self, opened: Sequence[Opened], regions: Sequence[Region] | None = None, rough: bool = False
    ) -> list[Pixels | Fault]:
        """See `Decoder`. Whole photos, whatever the regions: on the CPU, DALI's decoding of one is hardly faster.

        Raises EngineError when the device is at fault and not a file.
        """
        jpegs = [i for i, one in enumerate(opened) if one.header and _runs_to_its_end(one.content)]
        found: dict[int, Pixels | Fault] = {}
        found |= {i: one for i, one in zip(jpegs, self.jpegs([opened[i] for i in jpegs]), strict=True) if one}
        rest = [i for i in range(len(opened)) if i not in found]
        for i, one in zip(rest, self._others.pixels([opened[i] for i in rest]), strict=True):
            found[i] = one if isinstance(one, Fault) else one._replace(image=one.pixels_HW3.to(self.device))
        if self.device.type == "cuda" and len(jpegs) > 1 and set(jpegs) <= set(rest):
            good = sum(isinstance(found[i], Pixels) for i in jpegs)
            if good:
                raise EngineError(_of_the_device(f"it refused all of {len(jpegs)} JPEGs, of which Pillow reads {good}"))
        return [found[i] for i in range(len(opened))]

    def jpegs(self, opened: Sequence[Opened]) -> list[Pixels | None]:
        """Plain JPEGs by DALI itself; None for those that it refuses. Raises EngineError as `pixels` does."""
        if not opened:
            return []
        try:
            with hushed():
                return [*self._decode(opened)]
        except MemoryError:
            raise EngineError(_of_the_device("it has no memory for a batch of photos")) from None
        except RuntimeError as error:
            if _OF_THE_DEVICE.search(str(error)):
                raise EngineError(_of_the_device(str(error).splitlines()[0])) from error
            if len(opened) == 1:
                return [None]
            return [photo for one in opened for photo in self.jpegs([one])]

    def _decode(self, opened: Sequence[Opened]) -> list[Pixels]:
        ndd, context, rgb = self._dali
        # sync_full: when this returns the pixels are there, so another thread may use them on any stream.
        with context, ndd.EvalMode.sync_full:
            # Looked at before it is decoded: a file whose header cannot be parsed makes the decoder of DALI 2.4 raise
            # and, some batches later, crash the process. The look raises too, harmlessly, and costs little.
            batch = ndd.as_batch([_writable(one.content) for one in opened])
            ndd.peek_image_shape(batch).evaluate()
            # Turned here and not by DALI, which knows orientations of one type of integer.
            where = "gpu" if self.device.type == "cuda" else "cpu"
            decoded = ndd.decoders.image(batch, device=where, output_type=rgb, adjust_orientation=False)
            decoded.evaluate()
            images = [_lent(t, self.device) for t in decoded.tensors]
            _release(decoded)
        turns = {i: one.header.orientation for i, one in enumerate(opened) if one.header and one.header.orientation > 1}
        found: list[Tensor | Placed] = [*images]
        for i, image in self._upright({i: images[i].tensor() for i in turns}, turns).items():
            found[i] = image
        return [_whole(one) for one in found]

    def _upright(self, pixels: Mapping[int, Tensor], orientations: Mapping[int, int]) -> dict[int, Tensor]:
        if self.device.type != "cuda" or not pixels:
            return {i: upright(one, orientations[i]) for i, one in pixels.items()}
        stream = torch.cuda.Stream(self.device)  # of its own, so as to wait for these pixels alone
        with torch.cuda.stream(stream):
            turned = {i: upright(one, orientations[i]) for i, one in pixels.items()}
        stream.synchronize()
        return turned

    @cached_property
    def _dali(self) -> _Dali:
        """Loaded when it is first needed: a slow import, which behind libjpeg-turbo is never needed."""
        import nvidia.dali.experimental.dynamic as ndd
        import nvidia.dali.types as types

        context = ndd.EvalContext(num_threads=self._threads or ndd.get_num_threads(), device_id=self._gpu)
        return _Dali(ndd, context, types.RGB)


class _Dali(NamedTuple):
    dynamic: Any  # the module
    context: Any
    rgb: Any


class _Lent(Placed):
    """In memory that a tensor of DALI's keeps. One of torch's takes ten times as long to make, which for a batch of
    them is longer than a step of a small model."""

    __slots__ = ()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.keep[1]
        return device

    def tensor(self) -> Tensor:
        return tensor_of(self.keep[0])


def _lent(decoded: Any, device: torch.device) -> _Lent:
    storage = decoded._storage
    height, width, _ = storage.shape()
    return _Lent(storage.data_ptr(), height, width, (decoded, device))


def _whole(image: Tensor | Placed) -> Pixels:
    return Pixels(image, image.height, image.width) if isinstance(image, Placed) else whole(image)


def tensor_of(decoded: Any) -> Tensor:
    """DALI's tensor as torch's, without a copy. Not by DLPack: where there is a GPU, DALI pins what it puts into host
    memory, and torch refuses capsules of pinned memory."""
    tensor: Tensor = decoded.torch()
    return tensor


def _release(batch: Any) -> None:
    """Take apart a batch of DALI's whose tensors have become torch's. It and they refer to each other, so that until
    Python's collector comes by, which goes by the number of objects and not by their size, nothing of them would be
    given back: neither pixels, batch after batch, nor the decoder, of which each batch would then make another."""
    batch._tensors = None


def upright(pixels_HW3: Tensor, orientation: int) -> Tensor:
    """`pictures.upright` of a tensor, wherever it lies."""
    if orientation >= 5:
        pixels_HW3 = pixels_HW3.transpose(0, 1)
    flipped = [axis for axis, ways in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))) if orientation in ways]
    return (pixels_HW3.flip(flipped) if flipped else pixels_HW3).contiguous()


class _Shared:
    """The bytes of a file as an array that claims to be writable. DALI copies arrays that are not, and writes to none
    of its inputs."""

    def __init__(self, content: bytes) -> None:
        self._content = content  # kept for as long as the array
        described = dict(np.frombuffer(content, dtype=np.uint8).__array_interface__)
        self.__array_interface__ = described | {"data": (described["data"][0], False)}


def _writable(content: Content) -> Any:
    return np.asarray(content if isinstance(content, Encoded) else _Shared(content))


def _runs_to_its_end(content: Content) -> bool:
    if isinstance(content, Encoded) and content.header is not None:
        return content.header.sound
    return pictures.runs_to_its_end(bytes(content))


def _of_the_device(what: str) -> str:
    return (
        f"DALI cannot decode, and the files are not at fault: {what}. Where memory is short, set a smaller batch of "
        'the stage or a smaller decode.prefetch; or decode.device = "cpu"'
    )
