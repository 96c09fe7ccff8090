"""The one switch between the executors of the pass: those of `kernels/`, and Kornia's functions for comparison.

Kornia is kept out of `kernels/`, which depends on nothing but torch and its compilers, and is imported only when asked
for: it takes seconds.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from engine.kernels import Executor, Plan, Ragged, one_pass

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
