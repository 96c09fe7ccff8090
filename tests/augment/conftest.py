"""Photo-like images: smooth shapes with edges and texture, made from a seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.kernels import Ragged


def picture(height: int, width: int, seed: int) -> Tensor:
    """uint8 (height, width, 3): a random low-frequency picture with a few hard-edged rectangles and slight noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=random)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    for _ in range(4):
        y, x = (int(torch.randint(0, max(n - n // 4, 1), (1,), generator=random)) for n in (height, width))
        image[:, y : y + max(height // 4, 1), x : x + max(width // 4, 1)] = torch.rand(3, 1, 1, generator=random)
    image = image + 0.02 * torch.randn(3, height, width, generator=random)
    return (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous()


@pytest.fixture(scope="session")
def pictures() -> Ragged:
    """Six images of different sizes and aspects."""
    sizes = [(80, 60), (60, 90), (64, 64), (100, 50), (45, 120), (70, 71)]
    return Ragged([picture(h, w, i) for i, (h, w) in enumerate(sizes)])
