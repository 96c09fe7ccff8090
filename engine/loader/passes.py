"""The pass for loaders and predictors: the one switch between its executors, and memory that is used again.

The executors are those of `kernels/`, and Kornia's functions for comparison. Kornia is kept out of `kernels/`, which
depends on nothing but torch and its compilers, and is imported only when asked for: it takes seconds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from engine.kernels import Executor, Plan, Ragged, one_pass
from engine.kernels.upload import upload

Name = Executor | Literal["kornia"]


def execute(name: Name, images: Ragged, plan: Plan, out: Tensor | None = None) -> Tensor:
    """Run `plan` on `images`: (B, 3, height, width), normalised, channels-last; into `out` when given.

    `name` is what the recipe's `augment.executor` says. Raises ValueError when the plan, the buffer and the images do
    not fit together or the name is unknown, RuntimeError when that executor cannot run here.
    """
    if name != "kornia":
        return one_pass(images, plan, out, name)
    from engine.loader.kornia_pass import kornia_pass

    batch_BCHW = kornia_pass(images, plan)
    return batch_BCHW if out is None else out.copy_(batch_BCHW)


class BufferedPass:
    """`execute` on `device`, wherever the images were decoded, into one buffer of `dtype` that grows as needed.

    Fresh memory for each batch costs more than the pass itself at large sizes: 25 to 100 MB are mapped and faulted in
    every time. The price is that an answer is valid until the next call only.
    """

    def __init__(self, executor: Name, device: torch.device, dtype: torch.dtype) -> None:
        self.executor = executor
        self.device = device
        self._buffer = torch.empty(0, dtype=dtype, device=device)

    def __call__(self, images: Ragged, plan: Plan) -> Tensor:
        """(B, 3, height, width), normalised, channels-last memory."""
        return execute(self.executor, self.place(images), plan, self.out(plan))

    def place(self, images: Ragged) -> Ragged:
        """The images on the device; the same object when they are there already."""
        if images.device == self.device:
            return images
        return Ragged(upload(images.tensors, self.device))

    def out(self, plan: Plan) -> Tensor:
        """Where the batch of this plan is written: a part of the buffer."""
        shape = (plan.batch, plan.height, plan.width, 3)
        count = plan.batch * plan.height * plan.width * 3
        if self._buffer.numel() < count:
            with torch.inference_mode(False):  # scoring may come first, and training reads the same memory
                self._buffer = torch.empty(count, dtype=self._buffer.dtype, device=self.device)
        return self._buffer[:count].view(shape).permute(0, 3, 1, 2)
