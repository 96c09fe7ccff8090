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
from torch import Tensor
from torch.utils.dlpack import from_dlpack

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
    """Decodes batches of encoded images. Belongs to the thread that made it (DALI's contexts are per thread).

    Raises nothing for a bad image: it is named in the second result instead.
    """

    def __init__(self, device: torch.device, threads: int = 0) -> None:
        # DALI takes a second to import, and only decoding needs it.
        import nvidia.dali.experimental.dynamic as ndd
        import nvidia.dali.types as types

        self._ndd, self._rgb = ndd, types.RGB
        self._where = "gpu" if device.type == "cuda" else "cpu"
        self._context = ndd.EvalContext(
            num_threads=threads or ndd.get_num_threads(), device_id=device.index if device.type == "cuda" else None
        )

    def __call__(self, encoded: Sequence[np.ndarray]) -> tuple[list[Tensor], list[tuple[int, str]]]:
        """Decode `encoded` (uint8 arrays of file contents).

        Returns the good images in order, uint8 (height, width, 3), and (position, reason) of the bad ones.
        """
        try:
            return self._decode(encoded), []
        except RuntimeError:
            images: list[Tensor] = []
            bad: list[tuple[int, str]] = []
            for i, one in enumerate(encoded):
                try:
                    images += self._decode([one])
                except RuntimeError as error:
                    bad.append((i, f"is not an image DALI can decode ({str(error).splitlines()[0]})"))
            return images, bad

    def _decode(self, encoded: Sequence[np.ndarray]) -> list[Tensor]:
        ndd = self._ndd
        # sync_full: when this returns the pixels are there, so another thread may use them on any stream.
        with self._context, ndd.EvalMode.sync_full:
            batch = ndd.as_batch(encoded)
            # Looked at before it is decoded: a file whose header cannot be parsed makes the decoder of DALI 2.4 raise
            # and, some batches later, crash the process. The look raises too, harmlessly, and takes microseconds.
            ndd.peek_image_shape(batch).evaluate()
            decoded = ndd.decoders.image(batch, device=self._where, output_type=self._rgb)
            decoded.evaluate()
            return [from_dlpack(t) for t in decoded.tensors]
