"""The pass into memory that is used again.

Fresh memory for each batch costs more than the pass itself at large sizes: 25 to 100 MB are mapped and faulted in every
time. So training, scoring and prediction run the pass through this.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels import Plan, Ragged
from engine.loader.passes import Name, execute


class BufferedPass:
    """`execute` on `device`, wherever the images were decoded, into one buffer of `dtype` that grows as needed.

    The answer is valid until the next call.
    """

    def __init__(self, executor: Name, device: torch.device, dtype: torch.dtype) -> None:
        self.executor = executor
        self.device = device
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def __call__(self, images: Ragged, plan: Plan) -> Tensor:
        """(B, 3, height, width), normalised, channels-last memory."""
        return execute(self.executor, self.place(images), plan, self._out(plan))

    def place(self, images: Ragged) -> Ragged:
        """The images on the device; the same object when they are there already."""
        if images.device == self.device:
            return images
        return Ragged([image.to(self.device, non_blocking=True) for image in images.tensors])

    def _out(self, plan: Plan) -> Tensor:
        shape = (plan.batch, plan.height, plan.width, 3)
        count = plan.batch * plan.height * plan.width * 3
        if self._buffer.numel() < count:
            with torch.inference_mode(False):  # scoring may come first, and training reads the same memory
                self._buffer = torch.empty(count, dtype=self._buffer.dtype, device=self.device)
        return self._buffer[:count].view(shape).permute(0, 3, 1, 2)
