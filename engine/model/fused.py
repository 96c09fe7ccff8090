"""A backbone's modules whose kernels are ours: LayerNorms, the parts of a ConvNeXt block between its matrix products,
and depthwise 7 x 7 convolutions.

The modules stay timm's own, with their parameters and their names: only their class changes, to one below it whose
forward calls our kernels where these run and is the module's own elsewhere (torch does the same to modules that it
parametrises or shards). So weights files, copies, layers that are frozen and averages know nothing of it, and on a CPU
no bit of an answer changes.

Under autocast torch writes norms in float32, for the next product to cast; here they come in the product's type at
once. That is done only where a product follows: in blocks, and ahead of a convolution that makes a map smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers import DropPath, LayerNorm, LayerNorm2d, Mlp
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import RecipeError
from engine.kernels import network

Fused = Literal["off", "norm", "depthwise", "all"]
_AHEAD_OF_PRODUCTS = {"blocks", "downsample"}  # parts of the names of modules whose norms a product follows


class FusedNorm(LayerNorm):  # type: ignore[misc]  # timm's have no types
    """timm's LayerNorm over the last dimension."""

    def forward(self, maps: Tensor) -> Tensor:
        if not network.runs_on(maps.device):
            return super().forward(maps)
        return network.layer_norm(maps, self.weight, self.bias, self.eps, _working(maps))


class FusedNorm2d(LayerNorm2d):  # type: ignore[misc]
    """timm's LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        if not network.runs_on(maps_BCHW.device):
            return super().forward(maps_BCHW)
        return _normal(self, maps_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FusedDepthwise(nn.Conv2d):
    """A depthwise 7 x 7 convolution of stride 1."""

    def forward(self, input: Tensor) -> Tensor:
        if not network.runs_on(input.device):
            return super().forward(input)
        return network.depthwise(input, self.weight, self.bias, _working(input))


class FusedBlock(ConvNeXtBlock):  # type: ignore[misc]
    """timm's ConvNeXt block with a LayerScale and a plain MLP, of linear layers or of 1 x 1 convolutions."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        if not network.runs_on(maps_BCHW.device):
            return super().forward(maps_BCHW)
        mlp = self.mlp
        shortcut = self.shortcut(maps_BCHW).permute(0, 2, 3, 1)
        maps = _normal(self.norm, self.conv_dw(maps_BCHW).permute(0, 2, 3, 1))
        first, last = mlp.fc1.weight.flatten(1), mlp.fc2.weight.flatten(1)
        if isinstance(mlp.act, nn.GELU):
            maps = network.bias_gelu(functional.linear(maps, first), mlp.fc1.bias)
        else:
            maps = mlp.act(functional.linear(maps, first, mlp.fc1.bias))
        maps = functional.linear(maps, last)
        dtype = torch.promote_types(torch.promote_types(maps.dtype, self.gamma.dtype), shortcut.dtype)
        keep_B = _kept(self.drop_path, maps)
        return network.scale_add(maps, mlp.fc2.bias, self.gamma, keep_B, shortcut, dtype).permute(0, 3, 1, 2)


def fuse(backbone: nn.Module, what: Fused) -> int:
    """Give the backbone's modules our kernels, in place; how many have them."""
    found = 0
    for name, module in backbone.named_modules():
        for fused, fits in _KINDS.get(what, ()):
            if fits(name, module):
                module.__class__ = fused
                found += 1
                break
    return found


def check_fused(backbone: nn.Module, name: str, what: Fused) -> None:
    """Raise RecipeError where there is nothing to fuse in backbone `name`."""
    if what == "off" or any(fits(at, m) for at, m in backbone.named_modules() for _, fits in _KINDS[what]):
        return
    wanted = {"norm": "LayerNorms", "depthwise": "depthwise 7 x 7 convolutions"}
    lacking = wanted.get(what) or " or ".join(wanted.values())
    raise RecipeError(
        f'model.fused = "{what}": {name} has no {lacking} that there are kernels for; set it to "off", or choose '
        "a ConvNeXt"
    )


def slower_without_gpu(what: Fused, device: torch.device) -> str:
    """What to tell of a recipe that asks for kernels which do not run on the device; "" for nothing."""
    if what == "off" or network.runs_on(device):
        return ""
    return f'model.fused = "{what}" changes nothing on the {device.type.upper()}: its kernels run on a GPU'


def _is_norm(name: str, module: nn.Module) -> bool:
    return type(module) is LayerNorm and _feeds_product(name) and _is_affine(module)


def _is_norm2d(name: str, module: nn.Module) -> bool:
    return type(module) is LayerNorm2d and _feeds_product(name) and _is_affine(module)


def _is_affine(norm: nn.Module) -> bool:
    assert isinstance(norm, nn.LayerNorm)
    return norm.weight is not None and norm.bias is not None and len(norm.normalized_shape) == 1


def _is_depthwise(_: str, module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and (module.kernel_size, module.stride, module.dilation) == ((7, 7), (1, 1), (1, 1))
        and (module.padding, module.padding_mode) == ((3, 3), "zeros")
    )


def _is_block(_: str, module: Any) -> bool:
    if type(module) is not ConvNeXtBlock or type(module.mlp) is not Mlp or module.gamma is None:
        return False
    mlp: Any = module.mlp
    plain = isinstance(mlp.norm, nn.Identity) and not (mlp.drop1.p or mlp.drop2.p)
    norm = type(module.norm) in (LayerNorm, LayerNorm2d) and _is_affine(module.norm)
    # GELU by the error function: the other one, by tanh, is a class of timm's, or says so.
    exact = not isinstance(mlp.act, nn.GELU) or mlp.act.approximate == "none"
    return plain and norm and exact and mlp.fc1.bias is not None and mlp.fc2.bias is not None


def _feeds_product(name: str) -> bool:
    return not _AHEAD_OF_PRODUCTS.isdisjoint(name.split("."))


_Kinds = tuple[tuple[type[nn.Module], Callable[[str, nn.Module], bool]], ...]
_NORMS: _Kinds = ((FusedBlock, _is_block), (FusedNorm, _is_norm), (FusedNorm2d, _is_norm2d))
_CONVOLUTIONS: _Kinds = ((FusedDepthwise, _is_depthwise),)
_KINDS: dict[str, _Kinds] = {"norm": _NORMS, "depthwise": _CONVOLUTIONS, "all": (*_NORMS, *_CONVOLUTIONS)}


def _working(maps: Tensor) -> torch.dtype:
    """The type in which products are made of `maps`."""
    device = maps.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else maps.dtype


def _normal(norm: Any, maps: Tensor) -> Tensor:
    """The norm of maps (..., C)."""
    return network.layer_norm(maps, norm.weight, norm.bias, norm.eps, _working(maps))


def _kept(drop_path: Any, maps: Tensor) -> Tensor | None:
    """Each image's factor under stochastic depth, drawn as timm draws it; None when nothing is dropped."""
    if not isinstance(drop_path, DropPath) or not drop_path.training or drop_path.drop_prob == 0:
        return None
    share = 1 - drop_path.drop_prob
    keep_B = maps.new_empty(len(maps)).bernoulli_(share)
    return keep_B.div_(share) if share > 0 and drop_path.scale_by_keep else keep_B
