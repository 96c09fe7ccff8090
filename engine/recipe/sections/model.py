"""The model section: the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.recipe.sections.base import PathText, Section


class ModelSection(Section):
    """The network: a timm backbone, a pooling, a head."""

    backbone: str = Field("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", description="Any timm model name.")
    pretrained: bool = Field(True, description="Start from the pretrained weights of timm's hub.")
    weights: PathText = Field(
        "", description="Start from this file instead (safetensors, or a PyTorch file of tensors)."
    )
    pooling: Literal["avg", "gem", "gem2"] = Field(
        "avg",
        description="avg: mean; gem: generalised mean, p learned from 3; gem2: one for each of the last two feature maps, normalised and joined.",
    )
    head: Literal["linear", "mlp", "arcface"] = Field(
        "linear",
        description="linear; mlp: a hidden layer as wide as the image's vector before it; arcface: sub-center ArcFace (cosine logits with an angular margin).",
    )
    subcenters: int = Field(3, ge=1, le=16, description="arcface: centres per class (K).")
    scale: float = Field(30.0, gt=0, description="arcface: factor on the cosine logits (s).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the head.")
    fused: Literal["off", "norm", "depthwise", "all"] = Field(
        "off",
        description="On a GPU, kernels of our own in the backbone. norm: LayerNorms, and in ConvNeXt's blocks bias with GELU, and bias with LayerScale and the residual, each in one kernel; depthwise: 7 x 7 depthwise convolutions, forward and backward; all: both. Weights and their names stay as they are. On a CPU it changes nothing.",
    )
