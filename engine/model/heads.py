"""From an image's vector to its logits.

ArcFace's margin is not here: it needs the true class, and a head that is fed labels answers differently in training
than in use. These heads always answer the plain logits; the margin is applied to them by the loss (`losses.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearHead(nn.Sequential):
    """Dropout, then a linear layer: (B, E) -> logits (B, C)."""

    def __init__(self, features: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(features, classes)


class MlpHead(nn.Sequential):
    """A hidden layer as wide as the vector, GELU, dropout, a linear layer: (B, E) -> logits (B, C)."""

    def __init__(self, features: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = _linear(features, features)
        self.act = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.linear = _linear(features, classes)


class ArcFaceHead(nn.Module):
    """Cosine to the nearest of K sub-centres of each class, times a scale: (B, E) -> logits (B, C), float32.

    In fp32 also under autocast: a bf16 cosine near 1 has steps of 0.004, a tenth of a margin once scaled.

    Source: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-Scale Noisy Web Faces", ECCV 2020.
    """

    def __init__(self, features: int, classes: int, subcenters: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.classes = classes
        self.subcenters = subcenters
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.centers = nn.Parameter(torch.empty(classes * subcenters, features))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, embedding_BE: Tensor) -> Tensor:
        with torch.autocast(embedding_BE.device.type, enabled=False):
            directions_BE = functional.normalize(self.dropout(embedding_BE.float()))
            cosine_BN = functional.linear(directions_BE, functional.normalize(self.centers.float()))
            return cosine_BN.unflatten(1, (self.classes, self.subcenters)).amax(2) * self.scale


def _linear(features: int, outputs: int) -> nn.Linear:
    """A linear layer that starts small, as timm's classifiers do: the first answers are close to undecided."""
    layer = nn.Linear(features, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
