"""From feature maps to one vector an image: generalised mean (GeM) pooling, over one map or the last two.

The usual `x.pow(p).mean().pow(1 / p)` underflows in fp32 from p = 7 on (1e-6 ** 7) and its gradient is then NaN; in
bf16 it is wrong long before. Here the powers are taken as logarithms in fp32, which is the same number and is finite
for any p.

Source: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised mean over positions, p learned: p = 1 is the mean, p -> infinity the maximum.

    (B, C, ...positions) of any float dtype -> (B, C) float32. Values below `floor` count as `floor`: the mean of
    p-th powers is defined for positive numbers.
    """

    def __init__(self, p: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.floor = floor

    def forward(self, map_BCHW: Tensor) -> Tensor:
        positions = tuple(range(2, map_BCHW.ndim))
        count = math.prod(map_BCHW.shape[2:])
        with torch.autocast(map_BCHW.device.type, enabled=False):
            p = self.p.float()
            powers = map_BCHW.float().clamp(min=self.floor).log() * p
            return ((powers.logsumexp(positions) - math.log(count)) / p).exp()


class MapPooling(nn.Module):
    """GeM, then LayerNorm, for each of several feature maps; the vectors are joined.

    The norm brings maps of different depth to one scale before a head sees them together.
    Maps (B, C_i, ...positions) -> (B, sum of C_i) float32.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.pools = nn.ModuleList(GeM() for _ in channels)
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [norm(pool(m)).float() for pool, norm, m in zip(self.pools, self.norms, maps, strict=True)], dim=1
        )
