"""What the kernels' tests share: every executor behind one fixture, and pictures to run them on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels import Executor, Plan, Ragged, cpu_pass, one_pass

Run = Callable[..., Tensor]


@pytest.fixture(scope="session")
def triton_worker(interpreter: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`one_pass` through the interpreter."""

    def work(images: Ragged, plan: Plan, out: Tensor) -> Tensor:
        return out.copy_(interpreter(one_pass, images, plan, out, "triton"))

    return work


@pytest.fixture(scope="session", params=["reference", "cpu", "triton"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """The name of each executor in turn."""
    if request.param == "cpu" and not cpu_pass.available():
        pytest.skip(f"no compiled kernel: {cpu_pass.why_not()}")
    return request.param


@pytest.fixture(scope="session")
def run(executor: Executor, request: pytest.FixtureRequest) -> Run:
    """`run(images, plan, dtype=float32)`: the pass on each executor in turn, from and to the host.

    Triton runs on the GPU where there is one, else through its interpreter. The buffer is handed over full of NaN.
    """
    interpreted = executor == "triton" and not torch.cuda.is_available()
    worker = request.getfixturevalue("triton_worker") if interpreted else None

    def run(images: Ragged, plan: Plan, dtype: torch.dtype = torch.float32) -> Tensor:
        device = "cuda" if executor == "triton" and not interpreted else "cpu"
        shape = (len(images), 3, plan.height, plan.width)
        out = torch.empty(shape, dtype=dtype, device=device, memory_format=torch.channels_last).fill_(torch.nan)
        if worker:
            return worker(images, plan, out)
        images = Ragged([t.to(device) for t in images.tensors])
        return one_pass(images, plan, out, executor).cpu()

    return run


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture as a camera makes them: sky, shaded shapes, fine texture, a little noise. uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.stack([0.35 + 0.3 * y, 0.5 + 0.2 * y - 0.1 * x, 0.8 - 0.4 * y], axis=2)
    for _ in range(12):
        cx, cy, radius, turn = rng.random(4) * [1, 1, 0.25, 6.3]
        dx, dy = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        edge = 1 / (1 + np.exp((np.hypot(dx, 1.7 * dy) - radius - 0.02) * max(height, width)))  # a pixel wide
        shade = 0.6 + 0.4 * np.cos(3 * dx + 5 * dy)
        image += edge[..., None] * (rng.random(3) * shade[..., None] - image)
    image += 0.04 * np.sin(90 * x + 40 * y**2)[..., None] + 0.015 * rng.standard_normal((height, width, 3))
    return torch.from_numpy((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Tensor]:
    return photo
