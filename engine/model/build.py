"""A timm backbone, a pooling and a head become one classifier.

timm's models differ in how they pool, where their norm sits, whether their maps come channels-first, channels-last or
as tokens, and which sizes they take. Tables of such facts go stale; here the backbone is asked instead: built without
memory (on torch's meta device, a fraction of a second), run once, and what comes out says what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import RecipeError
from engine.model.fused import check_fused, fuse
from engine.model.heads import ArcFaceHead, LinearHead, MlpHead
from engine.model.pooling import MapPooling
from engine.model.weights import fit_weights, load_weights
from engine.recipe.sections import ModelSection
from engine.text import count, nearest

log = logging.getLogger(__name__)

_FULL_DROP_PATH = 0.5  # rate the backbone is built with, to learn which share of it each block takes
_FITS = {"squash": "stretch", "border": "letterbox"}  # timm's crop_mode
_SIZE_STEPS = (4, 7, 8, 14, 16, 28, 32, 64)  # patch and window sizes, to suggest a size that fits


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """What timm records of how a backbone's weights were made and scored: normalisation of RGB in [0, 1], size in
    pixels, resize filter, and how an image was fitted, in the words of `augment.valid`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    height: int
    width: int
    interpolation: str  # "bicubic", "bilinear", ...: what augment.filter = "auto" scores with
    fit: str  # "center"; "stretch" and "letterbox" for a few
    crop_pct: float  # center: the share of the shorter side that was kept, as augment.valid.crop says it
    fixed_size: bool  # True: made for one size, others only as far as `check_sizes` finds


class Classifier(nn.Module):
    """Images (B, 3, H, W), normalised -> logits (B, C).

    `features` gives the image's vector (B, E), which neighbours are looked up by; `head` turns it into logits.
    Parameter names start with `backbone.`, `pool.` or `head.`.
    """

    def __init__(self, backbone: nn.Module, pool: MapPooling | None, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.head = head
        self.lowered = False  # whether the backbone's weights are of a lower precision; see `features`
        self._drop_paths = [(m, m.drop_prob / _FULL_DROP_PATH) for m in backbone.modules() if isinstance(m, DropPath)]

    def features(self, images_BCHW: Tensor) -> Tensor:
        maps = self._lowered(images_BCHW) if self.lowered else self.outputs(images_BCHW)
        return maps[0] if self.pool is None else self.pool(maps)

    def _lowered(self, images_BCHW: Tensor) -> list[Tensor]:
        """Autocast would make float32 of what its rules say; a lowered backbone does all in its weights' precision."""
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return self.outputs(images_BCHW.to(torch.bfloat16))

    def outputs(self, images_BCHW: Tensor) -> list[Tensor]:
        """The backbone's vector (B, E), or the maps that are to be pooled."""
        if self.pool is None:
            return [self.backbone(images_BCHW)]
        return _maps(self.backbone, images_BCHW, len(self.pool.pools))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.features(images_BCHW))

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that may come pretrained."""
        yield from self.backbone.parameters()

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that always start fresh: pooling and head."""
        if self.pool is not None:
            yield from self.pool.parameters()
        yield from self.head.parameters()


def backbone_config(name: str) -> BackboneConfig:
    """What timm records of backbone `name` (with or without a pretrained tag), without building it.

    Raises RecipeError naming the nearest names when timm does not have it.
    """
    cfg = _pretrained_cfg(name)
    _, height, width = cfg.input_size
    return BackboneConfig(
        mean=tuple(cfg.mean),
        std=tuple(cfg.std),
        height=height,
        width=width,
        interpolation=cfg.interpolation,
        fit=_FITS.get(cfg.crop_mode, "center"),
        crop_pct=cfg.crop_pct,
        fixed_size=cfg.fixed_input_size,
    )


def check_sizes(model: ModelSection, sizes: Sequence[tuple[int, int]]) -> None:
    """Raise RecipeError unless the backbone and pooling take images of every (height, width), built for the first."""
    backbone, _ = _build_meta(model.backbone, sizes[0])
    stride = _stride(backbone)
    for index, size in enumerate(sizes):
        reason = _refusal(backbone, model.pooling, size)
        if reason is None and min(size) < stride:
            raise RecipeError(
                f"stage.{index}.size = [{size[0]}, {size[1]}] is smaller than the stride of {model.backbone}, {stride} "
                f"pixels: its last map would see padding and little else. Set it to {stride} or more"
            )
        if reason is None:
            continue
        if model.pooling == "gem2" and not hasattr(backbone, "forward_intermediates"):
            raise RecipeError(
                f'model.pooling = "gem2": {model.backbone} gives out no intermediate maps; use "gem" or "avg"'
            )
        raise RecipeError(
            f"stage.{index}.size = [{size[0]}, {size[1]}]: {model.backbone}"
            + (f", built for stage.0's {sizes[0][0]} x {sizes[0][1]}," if index else "")
            + f" cannot take it ({reason}); {_suggestion(backbone, model, size, index == 0)}"
        )


def why_not_size(model: ModelSection, built_for: tuple[int, int], size: tuple[int, int]) -> str:
    """Why the backbone, built for images of one (height, width), cannot take those of another; "" when it can."""
    backbone, _ = _build_meta(model.backbone, built_for)
    if min(size) < (stride := _stride(backbone)):
        return f"its stride is {stride} pixels"
    return _refusal(backbone, model.pooling, size) or ""


def check_drop_path(model: ModelSection, size: tuple[int, int], rates: Sequence[float]) -> None:
    """Raise RecipeError, as `set_drop_path` would, when the stages' rates ask for more than the backbone has."""
    backbone, _ = _build_meta(model.backbone, size)
    if any(rates) and not any(isinstance(m, DropPath) for m in backbone.modules()):
        raise RecipeError(_no_drop_path(max(rates), backbone))


def check_kernels(model: ModelSection, size: tuple[int, int]) -> None:
    """Raise RecipeError where `model.fused` asks for kernels that the backbone, built for images of (height, width),
    has no use for."""
    backbone, _ = _build_meta(model.backbone, size)
    check_fused(backbone, model.backbone, model.fused)


def build_shapes(model: ModelSection, num_classes: int, size: tuple[int, int]) -> Classifier:
    """`build_model` without weights and memory, on torch's meta device."""
    with torch.device("meta"):
        return build_model(model.model_copy(update={"pretrained": False, "weights": ""}), num_classes, size)


def check_weights(model: ModelSection, num_classes: int, size: tuple[int, int]) -> str:
    """What is to be said about the weights that `build_model` would begin with, "" where they are drawn.

    Raises RecipeError, as it would, for a file that does not fit, and for weights that cannot be had.
    """
    name = model.backbone
    if model.weights:
        shapes = build_shapes(model, num_classes, size)
        _, arguments = _build_meta(name, size)
        plain = _timm_tensors(name, arguments)
        return fit_weights(shapes.state_dict(), shapes.backbone, Path(model.weights), plain).said
    if not model.pretrained:
        return ""
    cfg = _pretrained_cfg(name)
    if not cfg.has_weights:
        raise RecipeError(_no_weights(name))
    if is_cached(cfg):
        return f"model.pretrained: the weights of {name} are in the cache"
    if huggingface_hub.constants.is_offline_mode():
        raise RecipeError(_not_fetched(name, "they are not in the cache, and HF_HUB_OFFLINE is set"))
    return f"model.pretrained: the weights of {name} are not in the cache; they are fetched when training begins"


def build_model(model: ModelSection, num_classes: int, size: tuple[int, int]) -> Classifier:
    """Build the classifier on the CPU, in fp32, with drop path off.

    `size` is (height, width) of the first stage; only backbones of fixed size are built differently for it. Weights
    come from `model.weights` when given, else from timm's hub when `model.pretrained`, else they are drawn from
    torch's global generator.

    Raises RecipeError when the backbone, its weights or the size cannot be used; the message names the remedy.
    """
    name = model.backbone
    _, arguments = _build_meta(name, size)
    channels, used = _ask(name, model.pooling, size)

    if model.pretrained and not model.weights:
        backbone = _from_hub(name, arguments)
    else:
        backbone = timm.create_model(name, num_classes=0, **arguments)
    _drop_unused(backbone, used)
    fuse(backbone, model.fused)

    pool = None if model.pooling == "avg" else MapPooling(channels)
    head: nn.Module
    if model.head == "arcface":
        head = ArcFaceHead(sum(channels), num_classes, model.subcenters, model.scale, model.dropout)
    elif model.head == "mlp":
        head = MlpHead(sum(channels), num_classes, model.dropout)
    else:
        head = LinearHead(sum(channels), num_classes, model.dropout)
    classifier = Classifier(backbone, pool, head)
    set_drop_path(classifier, 0.0)

    if model.weights:
        log.info(load_weights(classifier, Path(model.weights), _timm_tensors(name, arguments)).said)
    return classifier


def set_drop_path(model: Classifier, rate: float) -> None:
    """Set stochastic depth: the last block is skipped with probability `rate`, earlier ones less, as timm spreads it.

    A compiled step is compiled again on the next call. RecipeError when the backbone has no stochastic depth.
    """
    if rate > 0 and not model._drop_paths:
        raise RecipeError(_no_drop_path(rate, model.backbone))
    for layer, share in model._drop_paths:
        layer.drop_prob = share * rate


def set_checkpointing(model: Classifier, on: bool) -> None:
    """Whether training keeps of the backbone's blocks only what goes into them, and computes the rest again for the
    gradients. Raises RecipeError where timm has no way to, and for batch norms: these would count each batch twice.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; torch's checkpoint, as timm places it.
    """
    backbone: Any = model.backbone
    if not on:
        if hasattr(backbone, "set_grad_checkpointing"):
            with contextlib.suppress(AssertionError):  # so do those say that cannot
                backbone.set_grad_checkpointing(False)
        return
    if norms := sum(isinstance(module, _BatchNorm) for module in backbone.modules()):
        raise RecipeError(
            f"stage checkpoint_activations: {type(backbone).__name__} has {count(norms, 'batch norm')}, whose "
            "statistics would take in every batch twice; leave it out, or choose a backbone without batch norms"
        )
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):
        raise RecipeError(
            f"stage checkpoint_activations: timm has no way to do so for {type(backbone).__name__}; leave it out"
        ) from None


def _no_drop_path(rate: float, backbone: nn.Module) -> str:
    return f"stage drop_path = {rate}: {type(backbone).__name__} has no stochastic depth; set it to 0"


def _maps(backbone: Any, images_BCHW: Tensor, count: int) -> list[Tensor]:
    """The last `count` (1 or 2) feature maps, shallow to deep, each (B, C, ...positions)."""
    if count == 1:
        return [_channels_first(backbone, backbone.forward_features(images_BCHW))]
    last, (before, _) = backbone.forward_intermediates(images_BCHW, indices=2)
    return [before, _channels_first(backbone, last)]


def _channels_first(backbone: nn.Module, features: Tensor) -> Tensor:
    """timm's final features, (B, C, H, W), (B, H, W, C) or class and patch tokens (B, N, C) -> (B, C, ...positions)."""
    if features.ndim == 3:
        return features[:, getattr(backbone, "num_prefix_tokens", 0) :].transpose(1, 2)
    if getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    return features


def _answer(backbone: nn.Module, pooling: str, images_BCHW: Tensor) -> list[Tensor]:
    """What the pooling is given; for "avg", what the backbone's own pooling answers."""
    if pooling == "avg":
        return [backbone(images_BCHW)]
    return _maps(backbone, images_BCHW, 2 if pooling == "gem2" else 1)


def _refusal(meta: nn.Module, pooling: str, size: tuple[int, int]) -> str | None:
    """Why images of `size` cannot be taken, or None."""
    try:
        _answer(meta, pooling, torch.zeros(1, 3, *size, device="meta"))
    except Exception as error:  # whatever it is that any of a thousand architectures raises
        return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return None


@functools.lru_cache(maxsize=16)
def _ask(name: str, pooling: str, size: tuple[int, int]) -> tuple[tuple[int, ...], frozenset[str]]:
    """The channels of what comes out, and the names of the parameters that took part, or that timm never trains.

    Raises RecipeError when the backbone does not take images of `size`.
    """
    meta, _ = _build_meta(name, size)
    if (reason := _refusal(meta, pooling, size)) is not None:
        raise RecipeError(f"{name} cannot take images of {size[0]} x {size[1]} ({reason})")
    outputs = _answer(meta, pooling, torch.zeros(1, 3, *size, device="meta"))
    learnt = {name: own for name, own in meta.named_parameters() if own.requires_grad}
    total = torch.stack([o.sum() for o in outputs]).sum()
    # The graph is kept: some (LeViT) hand a part of it to the next who asks, and here it takes no memory.
    gradients = torch.autograd.grad(total, [*learnt.values()], allow_unused=True, retain_graph=True)
    unused = {name for name, gradient in zip(learnt, gradients, strict=True) if gradient is None}
    taken = frozenset(name for name, _ in meta.named_parameters() if name not in unused)
    return tuple(o.shape[1] for o in outputs), taken


def _drop_unused(backbone: nn.Module, used: frozenset[str]) -> None:
    """Take out modules none of whose parameters take part: DistributedDataParallel would wait for their gradients."""
    gone: tuple[str, ...] = ()
    for name, module in list(backbone.named_modules()):
        own = [f"{name}.{p}" for p, _ in module.named_parameters()]
        if name and own and used.isdisjoint(own) and not name.startswith(gone):
            backbone.set_submodule(name, nn.Identity())
            gone = (*gone, f"{name}.")


@functools.lru_cache(maxsize=16)  # a run builds a backbone for its checks, and twice a fold
def _build_meta(name: str, size: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
    """The backbone without memory, in evaluation mode, and what timm took beside num_classes.

    A backbone of fixed size is built so that it takes other sizes, where timm has a way, else for `size`.
    """
    ways: list[dict[str, Any]] = [{}]
    if _pretrained_cfg(name).fixed_input_size:
        ways = [
            {"dynamic_img_size": True},
            {"img_size": size, "strict_img_size": False},
            {"img_size": size},
            {},
        ]
    for way in ways:
        for drop_path in ({"drop_path_rate": _FULL_DROP_PATH}, {}):
            arguments = {**way, **drop_path}
            try:
                with torch.device("meta"):
                    backbone = timm.create_model(name, num_classes=0, **arguments).eval()
            except TypeError:  # an argument that this architecture does not know
                continue
            except Exception as error:
                raise RecipeError(
                    f'model.backbone = "{name}" cannot be built for images of {size[0]} x {size[1]}: {error}'
                ) from error
            return backbone, arguments
    raise RecipeError(f'model.backbone = "{name}" cannot be built without its classifier; choose another')


def _timm_tensors(name: str, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Those of timm's own model, with its head, without memory."""
    with torch.device("meta"):
        return dict(timm.create_model(name, **arguments).state_dict())


def _suggestion(meta: nn.Module, model: ModelSection, size: tuple[int, int], rebuild: bool) -> str:
    """A size near the refused one that works, in words. `rebuild`: a backbone may be built for the size tried."""
    config = backbone_config(model.backbone)
    rounded = {(-(-size[0] // step) * step, -(-size[1] // step) * step) for step in _SIZE_STEPS}
    candidates = [*sorted(rounded - {size}, key=sum), (config.height, config.width)]
    for candidate in candidates:
        backbone = _build_meta(model.backbone, candidate)[0] if rebuild and config.fixed_size else meta
        if _refusal(backbone, model.pooling, candidate) is None:
            return f"[{candidate[0]}, {candidate[1]}] works"
    return "give every stage the first one's size, or choose another backbone"


def _from_hub(name: str, arguments: dict[str, Any]) -> nn.Module:
    if not _pretrained_cfg(name).has_weights:
        raise RecipeError(_no_weights(name))
    try:
        return timm.create_model(name, num_classes=0, pretrained=True, **arguments)
    except Exception as error:  # the network's and the hub client's errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeError(_not_fetched(name, reason)) from error


def _no_weights(name: str) -> str:
    return f"model.pretrained: timm has no pretrained weights for {name}; set model.pretrained = false"


def _not_fetched(name: str, reason: str) -> str:
    return (
        f"model.pretrained: the weights of {name} could not be fetched from timm's hub ({reason}). "
        'Without a network, set model.weights = "path" to a downloaded file, or model.pretrained = false'
    )


def is_cached(cfg: Any) -> bool:
    """Whether a backbone's weights lie where timm's hub keeps what it has fetched."""
    if not cfg.hf_hub_id:
        return bool(cfg.file) or (Path(torch.hub.get_dir()) / "checkpoints" / Path(cfg.url or "none").name).is_file()
    names = (cfg.hf_hub_filename, "model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
    found = (huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, name) for name in names if name)
    return any(isinstance(path, str) for path in found)


def _stride(backbone: Any) -> int:
    """Pixels of the image for each step of the last map, 1 where timm does not say."""
    infos = getattr(backbone, "feature_info", None)
    infos = infos if isinstance(infos, list) else getattr(infos, "info", [])
    return int(infos[-1].get("reduction", 1)) if infos and isinstance(infos[-1], dict) else 1


def _pretrained_cfg(name: str) -> Any:
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the architecture is known, the tag is not
        cfg = None
    if cfg is not None:
        return cfg
    architecture, _, _ = name.partition(".")
    known = timm.list_models() if not timm.is_model(architecture) else timm.list_pretrained(f"{architecture}.*")
    near = nearest(name, known, cutoff=0.4)
    raise RecipeError(
        f'model.backbone = "{name}": no such model in timm {timm.__version__}; nearest: {", ".join(near)}'
    )
