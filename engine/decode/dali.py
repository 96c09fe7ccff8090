"""Bytes of images to upright RGB uint8 images of their own sizes, by DALI's dynamic mode.

Dynamic mode and not a pipeline, for two reasons. A pipeline dies for good with its first unreadable file; here the bad
batch raises, is decoded again one by one, and the culprit is set aside. And the order of samples stays outside, in
`engine.order`, so a run can be stopped and continued. The rate is the same. Only decoding happens here: resizing is
part of the one pass, and DALI's own CPU resize costs more than its decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from engine.data.headers import jpeg_header
from engine.decode.decoder import Opened, Pixels, whole
from engine.kernels.jpeg import Header, Region
from engine.quarantine import Fault, FaultKind

File = TypeVar("File")
Answer = TypeVar("Answer")


class DaliDecoder:
    """Decodes batches of encoded images on `device`, with `threads` threads (0: DALI's choice, one per core)."""

    def __init__(self, device: torch.device, threads: int = 0) -> None:
        self.device = device
        self._threads = threads

    def open(self, contents: Sequence[bytes]) -> list[Opened | Fault]:
        """See `Decoder`. JPEGs are read here, twenty times as fast; DALI looks at whatever else there is."""
        jpegs = [_jpeg(content) for content in contents]
        others = [content for content, jpeg in zip(contents, jpegs, strict=True) if jpeg is None]
        looked_at = iter(_each(others, self._look, FaultKind.NOT_AN_IMAGE))
        return [next(looked_at) if jpeg is None else jpeg for jpeg in jpegs]

    def pixels(self, opened: Sequence[Opened], regions: Sequence[Region] | None = None) -> list[Pixels | Fault]:
        """See `Decoder`. Whole photos, whatever the regions: on the CPU, DALI's decoding of one is hardly faster."""
        return _each(opened, self._decode, FaultKind.DAMAGED)

    def _look(self, contents: Sequence[bytes]) -> list[Opened]:
        ndd, context, _ = self._dali
        with context, ndd.EvalMode.sync_full:
            shapes = ndd.peek_image_shape(_batch(ndd, contents))
            shapes.evaluate()
            sizes = [from_dlpack(shape)[:2].tolist() for shape in shapes.tensors]
        return [Opened(content, height, width) for content, (height, width) in zip(contents, sizes, strict=True)]

    def _decode(self, opened: Sequence[Opened]) -> list[Pixels]:
        ndd, context, rgb = self._dali
        # sync_full: when this returns the pixels are there, so another thread may use them on any stream.
        with context, ndd.EvalMode.sync_full:
            # Looked at before it is decoded: a file whose header cannot be parsed makes the decoder of DALI 2.4 raise
            # and, some batches later, crash the process. The look raises too, harmlessly, and costs little. `_look` has
            # seen what is no JPEG.
            if unseen := [one.content for one in opened if one.header is not None]:
                ndd.peek_image_shape(_batch(ndd, unseen)).evaluate()
            batch = _batch(ndd, [one.content for one in opened])
            decoded = ndd.decoders.image(batch, device="gpu" if self.device.type == "cuda" else "cpu", output_type=rgb)
            decoded.evaluate()
            return [whole(from_dlpack(t)) for t in decoded.tensors]

    @cached_property
    def _dali(self) -> _Dali:
        """Loaded when it is first needed: a slow import, which behind libjpeg-turbo most data sets never need."""
        import nvidia.dali.experimental.dynamic as ndd
        import nvidia.dali.types as types

        index = self.device.index if self.device.type == "cuda" else None
        context = ndd.EvalContext(num_threads=self._threads or ndd.get_num_threads(), device_id=index)
        return _Dali(ndd, context, types.RGB)


class _Dali(NamedTuple):
    dynamic: Any  # the module
    context: Any
    rgb: Any


def _batch(ndd: Any, contents: Sequence[bytes]) -> Any:
    return ndd.as_batch([np.frombuffer(content, dtype=np.uint8) for content in contents])


def _each(
    files: Sequence[File], work: Callable[[Sequence[File]], Sequence[Answer]], kind: FaultKind
) -> list[Answer | Fault]:
    """`work`'s answers about all files; when it raises, about each alone, with a fault where it raises again."""
    if not files:
        return []
    try:
        return [*work(files)]
    except RuntimeError as error:
        if len(files) == 1:
            return [Fault(kind, f"is not an image DALI can decode ({str(error).splitlines()[0]})")]
        return [answer for file in files for answer in _each([file], work, kind)]


def _jpeg(content: bytes) -> Opened | None:
    """None for what is no sound JPEG."""
    if content[:2] != b"\xff\xd8":
        return None
    try:
        header = Header(*jpeg_header(content))
    except ValueError:
        return None
    return Opened(content, *header.upright, header) if header.height > 0 and header.width > 0 else None
