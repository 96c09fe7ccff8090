"""JPEG bytes to upright RGB uint8 images of their own sizes, by DALI's dynamic mode.

Dynamic mode and not a pipeline, for two reasons. A pipeline dies for good with its first unreadable file; here the bad
batch raises, is decoded again one by one, and the culprit is set aside. And the order of samples stays outside, in
`engine.order`, so a run can be stopped and continued. The rate is the same. Only decoding happens here: resizing is
part of the one pass, and DALI's own CPU resize costs more than its decode.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from engine.decode.image import Bad, Image, Want, whole
from engine.recipe.sections import DecodeSection


def decode_device(section: DecodeSection, device: torch.device) -> torch.device:
    """Where images are decoded for a model on `device`: what the recipe says, or beside the model."""
    if section.device == "cpu" or (section.device == "auto" and device.type != "cuda"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        from engine.errors import RecipeError

        raise RecipeError('decode.device = "gpu": no CUDA device is visible; use "auto" or "cpu"')
    return device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())


class DaliDecoder:
    """Decodes batches of encoded images on `device`, with `threads` threads (0: DALI's choice, one per core)."""

    def __init__(self, device: torch.device, threads: int = 0) -> None:
        # DALI takes a second to import, and only decoding needs it.
        import nvidia.dali.experimental.dynamic as ndd
        import nvidia.dali.types as types

        self._ndd, self._rgb = ndd, types.RGB
        self._where = "gpu" if device.type == "cuda" else "cpu"
        self._context = ndd.EvalContext(
            num_threads=threads or ndd.get_num_threads(), device_id=device.index if device.type == "cuda" else None
        )

    def __call__(self, encoded: Sequence[bytes], want: Want | None = None) -> tuple[list[Image], list[Bad]]:
        """See `Decoder`. Whole photos, whatever is wanted: on the CPU, DALI's decoding of a part is hardly faster."""
        try:
            return self._decode(encoded), []
        except RuntimeError:
            images: list[Image] = []
            bad: list[Bad] = []
            for i, one in enumerate(encoded):
                try:
                    images += self._decode([one])
                except RuntimeError as error:
                    bad.append((i, f"is not an image DALI can decode ({str(error).splitlines()[0]})"))
            return images, bad

    def _decode(self, encoded: Sequence[bytes]) -> list[Image]:
        ndd = self._ndd
        # sync_full: when this returns the pixels are there, so another thread may use them on any stream.
        with self._context, ndd.EvalMode.sync_full:
            batch = ndd.as_batch([np.frombuffer(content, dtype=np.uint8) for content in encoded])
            # Looked at before it is decoded: a file whose header cannot be parsed makes the decoder of DALI 2.4 raise
            # and, some batches later, crash the process. The look raises too, harmlessly, and takes microseconds.
            ndd.peek_image_shape(batch).evaluate()
            decoded = ndd.decoders.image(batch, device=self._where, output_type=self._rgb)
            decoded.evaluate()
            return [whole(from_dlpack(t)) for t in decoded.tensors]
