"""Where on a photo a model finds what speaks for a class.

Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", ICCV 2017) weighs the channels of the
last feature map by the mean of the class's gradient over all places. Behind an average and a linear layer the gradient
is the same everywhere, and that is right. Behind generalised-mean pooling or the attention of a class token it differs
from place to place, and the mean lights up places that nothing was taken from. So value and gradient are multiplied
place by place (HiResCAM: Draelos and Carin, arXiv:2011.08891), which is Grad-CAM where that is right, and elsewhere
what each place has put into the logit, to first order.

Which layer that is, the model is asked, as in `engine.model.build`: the map that is pooled, unless its places do not
matter (tokens of a transformer whose class token answers) or there is but one (a small image). Then it is the last
normalised map before it of which neither is true. Inputs of norms would not do: a norm does not see the length of what
it is given, so value times gradient is nothing there.

Models that answer are left alone. Hooks are put into a twin, whose modules are copies and whose weights are the model's
own, made for the question and then dropped; gradients are taken of what lies between, never of weights, and no switch
of the process is turned. So heatmaps may be asked for by any threads while others answer, and no answer changes by a
bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.augment.views import view_plan
from engine.inference.members import Members
from engine.kernels import Plan, Ragged
from engine.loader.passes import execute
from engine.model.build import Classifier

LONGEST = 256  # pixels: the longer side of a heatmap
_ASPECT = math.log(1.5)  # how far a map's shape may be from the image's
_LEAST = 1e-3  # of all that was added up at a place: less is what rounding left of a sum of nothing


def heatmap(runs: Sequence[Members], photo: Ragged, label: str) -> NDArray[np.float32]:
    """Where the models of all runs see `label` on the one upright photo: (h, w) in [0, 1], from corner to corner of it,
    the longer side at most 256 pixels.

    The mean over models and views of what each place adds to the logit, positive parts, the greatest as 1. What no view
    shows is 0; so is all of it where nothing speaks for the class.
    """
    height, width = photo.sizes_B2[0].tolist()
    shrink = min(1.0, LONGEST / max(height, width))
    heat_HW = torch.zeros(max(1, round(height * shrink)), max(1, round(width * shrink)))
    for members in runs:
        for member in members:
            twin = _Twin(member.model)
            placed = Ragged([image.to(member.runtime.device) for image in photo.tensors])
            for view in members.views:
                plan = view_plan(view, member.contract, photo.sizes_B2, torch.device("cpu"))
                image_1CHW = execute(members.executor, placed, plan)
                map_HW = twin.class_map(image_1CHW, member.classes.index(label))
                heat_HW += _on_photo(map_HW.cpu(), plan, (height, width), heat_HW)
    heat_HW = heat_HW.clamp(min=0)
    return (heat_HW / heat_HW.max().clamp(min=torch.finfo(torch.float32).tiny)).numpy()


def class_map(model: Classifier, image_1CHW: Tensor, class_index: int) -> Tensor:
    """What each place of an image, normalised, (1, 3, H, W), adds to the logit of a class: (h, w) float32, as many
    places as the layer has that tells best, for an area of the whole image, so that maps of several sizes compare.

    All 0 where no layer tells places apart.
    """
    return _Twin(model).class_map(image_1CHW, class_index)


class _Seen(NamedTuple):
    """What a layer gave out, and which axis of it is that of channels; tokens that stand for no place come first."""

    values: Tensor  # (1, ...)
    channels: int
    prefix: int = 0


class _Twin:
    """A copy of `model` with hooks, on the model's own weights, in evaluation mode."""

    def __init__(self, model: Classifier) -> None:
        own = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self._model = copy.deepcopy(model, own).eval()  # what is in the memo is not copied
        self._pooled: list[_Seen] = []
        self._normalised: list[_Seen] = []
        if self._model.pool is not None:
            self._model.pool.register_forward_pre_hook(self._see_pooled)
        else:
            self._watch_features(self._model.backbone)
        for module in self._model.backbone.modules():
            if "norm" in type(module).__name__.lower():
                module.register_forward_hook(self._see_normalised)

    def class_map(self, image_1CHW: Tensor, class_index: int) -> Tensor:
        """See `class_map`."""
        self._pooled, self._normalised = [], []
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(image_1CHW.device.type, enabled=False):
            image_1CHW = image_1CHW.detach().float().requires_grad_()
            logit = self._model(image_1CHW)[0, class_index]
            for layer in self._layers():
                maps = _added(layer, logit, image_1CHW.shape[2:])
                if maps:
                    return _sum(maps)
        return torch.zeros(1, 1)

    def _layers(self) -> Iterator[list[_Seen]]:
        """The maps that may tell where, the deepest first; maps that are pooled together come together."""
        if self._pooled:
            yield self._pooled
        for seen in reversed(self._normalised):
            yield [seen]

    def _see_pooled(self, _: nn.Module, maps: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
        # Of two maps the shallower leads to the deeper, too; what is pooled of it alone is what counts here.
        own = [each.view_as(each) for each in maps[0]]
        self._pooled = [_Seen(each, 1) for each in own]
        return (own,)

    def _watch_features(self, backbone: Any) -> None:
        features = backbone.forward_features

        def watched(*args: Any, **options: Any) -> Any:
            found = features(*args, **options)
            if isinstance(found, Tensor) and found.ndim in (3, 4):
                tokens = found.ndim == 3 or getattr(backbone, "output_fmt", "NCHW") == "NHWC"
                self._pooled = [_Seen(found, -1 if tokens else 1, getattr(backbone, "num_prefix_tokens", 0))]
            return found

        backbone.forward_features = watched

    def _see_normalised(self, module: nn.Module, _: Any, found: Any) -> None:
        if not isinstance(found, Tensor) or found.ndim not in (3, 4) or not found.requires_grad:
            return
        first = any(word in type(module).__name__ for word in ("2d", "Batch", "Group"))
        prefix = getattr(self._model.backbone, "num_prefix_tokens", 0)
        self._normalised.append(_Seen(found, 1 if first else -1, prefix))


def _added(layer: Sequence[_Seen], logit: Tensor, size: Sequence[int]) -> list[Tensor]:
    """What each place of the layer's maps has added to the logit; those that say nothing of it are left out."""
    gradients = torch.autograd.grad(logit, [seen.values for seen in layer], retain_graph=True, allow_unused=True)
    found = [_places(seen, own, size) for seen, own in zip(layer, gradients, strict=True) if own is not None]
    return [each for each in found if each is not None]


def _places(seen: _Seen, gradient: Tensor, size: Sequence[int]) -> Tensor | None:
    """What each place has added to the logit, (h, w), for an area of the whole image; None where these are no places of
    an image of `size`, there is but one, or none of them matters."""
    if len(seen.values) != 1:  # windows
        return None
    each = (seen.values.detach() * gradient).float()
    added, moved = each.sum(seen.channels)[0], each.abs().sum(seen.channels)[0]
    if added.ndim == 1:
        grids = [(grid, prefix) for prefix in {seen.prefix, 0, 1} if (grid := _grid(len(added) - prefix, size))]
        if not grids:
            return None
        grid, prefix = min(grids, key=lambda one: _stretched(one[0], size))
        added, moved = added[prefix:].view(grid), moved[prefix:].view(grid)
    if added.numel() < 2 or _stretched(added.shape, size) > _ASPECT or added.abs().max() <= _LEAST * moved.max():
        return None
    return added * added.numel()


def _grid(count: int, size: Sequence[int]) -> tuple[int, int] | None:
    """So many places in rows and columns, in the shape nearest to the image's."""
    ways = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(ways, key=lambda grid: _stretched(grid, size), default=None)


def _stretched(grid: Sequence[int], size: Sequence[int]) -> float:
    """By how much the shapes differ: the logarithm of the ratio of aspects, at least 0."""
    return abs(math.log(grid[0] * size[1] / (grid[1] * size[0])))


def _sum(maps: Sequence[Tensor]) -> Tensor:
    """Maps of several sizes as one of the largest."""
    largest = max((tuple(each.shape) for each in maps), key=math.prod)
    return torch.stack([_resized(each, largest) for each in maps]).sum(0)


def _resized(map_HW: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(map_HW.shape) == size:
        return map_HW
    return functional.interpolate(map_HW[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _on_photo(map_HW: Tensor, plan: Plan, size: tuple[int, int], like_HW: Tensor) -> Tensor:
    """A map of what a plan shows of a photo of this (height, width), read at like_HW's places of the whole photo; 0
    where the plan does not look."""
    (height, width), (rows, columns) = size, like_HW.shape
    y, x = torch.meshgrid(
        (torch.arange(rows, dtype=torch.float64) + 0.5) * (height / rows),
        (torch.arange(columns, dtype=torch.float64) + 0.5) * (width / columns),
        indexing="ij",
    )
    points_HW3 = torch.stack([x, y, torch.ones_like(x)], dim=2)
    shown_HW3 = points_HW3 @ torch.linalg.inv(plan.matrix_B33[0].double()).T
    at_HW2 = 2 * shown_HW3[..., :2] / torch.tensor([plan.width, plan.height]) - 1  # from corner to corner -1 to 1
    read_HW = functional.grid_sample(
        map_HW[None, None], at_HW2[None].float(), mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
    return torch.where((at_HW2.abs() <= 1).all(2), read_HW, 0.0)
