"""The pass at its real sizes, beside the copy that bounds it and what others offer on a GPU.

512 photos in rotating sets, since a few would lie in the cache; the device's own clock, since the launches take longer
than the kernels. Contenders take turns.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.kernels import Plan, Ragged, one_pass
from engine.recipe.sections.augment import AugmentSection
from gpu_parts.context import DEVICE, Context, seconds_each

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FULL: dict[str, Any] = {
    "crop": {"scale": (0.08, 1.0)},
    "flip": 0.5,
    "affine": {"p": 1.0, "shift": 0.05, "scale": 0.1, "rotate": 15},
    "color": {"p": 1.0},
    "random_erasing": {"p": 0.5},
}
GEOMETRY = {name: FULL[name] for name in ("crop", "flip", "affine")}
BATCH, SETS = 64, 8


def run(context: Context) -> Iterator[Row]:
    """A row for the copy, then one for each size and contender."""
    bandwidth = copy_bandwidth(context)
    yield {"contender": "copy", "size": None, "gb_per_second": round(bandwidth / 1e9, 1)}
    batch, sets = context.few(BATCH, 4), context.few(SETS, 2)
    photos = context.photos(batch * sets)
    split = [photos[at : at + batch] for at in range(0, len(photos), batch)]
    for size, _ in context.stages:
        for name, call, moved in _contenders(context, split, size):
            try:
                times = seconds_each(call, 2 * sets, context.few(5), context.rehearsed)
            except Exception as error:  # a peer that fails is a row, and costs the others nothing
                yield {"contender": name, "size": size, "failed": f"{type(error).__name__}: {error}"[:300]}
                continue
            median = statistics.median(times)
            yield {
                "contender": name,
                "size": size,
                "windows": [round(batch / each, 1) for each in times],
                "share_of_copy_bandwidth": round(batch * moved / median / bandwidth, 4) if moved else None,
            }


def copy_bandwidth(context: Context) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(context.few(1 << 30, 1 << 10), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    times = seconds_each(lambda _: target.copy_(source), 10, context.few(5), context.rehearsed)
    return 2 * source.numel() / statistics.median(times)


def _contenders(
    context: Context, sets: list[list[Tensor]], size: int
) -> Iterator[tuple[str, Callable[[int], object], float]]:
    """Name, call, and the bytes that an image has to move at least (0: not said)."""
    for words, section in (("full", FULL), ("geometry only", GEOMETRY)):
        for dtype in (torch.float32, torch.bfloat16):
            plans = [_plan(section, images, size, number) for number, images in enumerate(sets)]
            moved = sum(_bytes(plan, images, dtype.itemsize) for plan, images in zip(plans, sets, strict=True))
            call = _pass_on(sets, [plan.to(DEVICE) for plan in plans], dtype)
            yield f"one pass, {words}, {str(dtype)[6:]}", call, moved / sum(map(len, sets))
    batches = [torch.stack([_same_way(image) for image in images]).permute(0, 3, 1, 2) for images in sets]
    if importlib.util.find_spec("kornia"):
        chain = kornia_chain(size).to(DEVICE)
        yield "Kornia", lambda number: chain(batches[number % len(batches)].float() / 255), 0
        if not context.rehearsed and size == context.stages[0][0]:  # it takes a minute, so at one size
            compiled = torch.compile(kornia_chain(size).to(DEVICE))
            yield "Kornia, torch.compile", lambda number: compiled(batches[number % len(batches)].float() / 255), 0
    tv = torchvision_chain(size)
    yield "torchvision v2, one draw for the batch", lambda number: tv(batches[number % len(batches)]), 0


def _plan(section: dict[str, Any], images: list[Tensor], size: int, epoch: int) -> Plan:
    sizes_B2 = torch.tensor([image.shape[:2] for image in images], dtype=torch.int32)
    policy = Policy(AugmentSection.model_validate(section), MEAN, STD)
    return policy.draw(torch.arange(len(images)), sizes_B2, size, size, seed=0, epoch=epoch)


def _pass_on(sets: list[list[Tensor]], plans: list[Plan], dtype: torch.dtype) -> Callable[[int], Tensor]:
    ragged, first = [Ragged(images) for images in sets], plans[0]
    shape = (first.batch, 3, first.height, first.width)
    out = torch.empty(shape, dtype=dtype, device=DEVICE, memory_format=torch.channels_last)

    def call(number: int) -> Tensor:
        return one_pass(ragged[number % len(ragged)], plans[number % len(ragged)], out)

    return call


def _bytes(plan: Plan, images: list[Tensor], element: int) -> float:
    """Of a batch: the output written once, and the source under it read once (no more than there is of it)."""
    area_B = plan.matrix_B33[:, :2, :2].double().det().abs() * plan.height * plan.width
    whole_B = torch.tensor([image.shape[0] * image.shape[1] for image in images], dtype=torch.float64)
    return float(torch.minimum(area_B, whole_B).sum()) * 3 + plan.batch * plan.height * plan.width * 3 * element


def _same_way(image: Tensor) -> Tensor:
    """Upright: what others take are batches of one size."""
    return image.transpose(0, 1).contiguous() if image.shape[1] > image.shape[0] else image


def kornia_chain(size: int) -> torch.nn.Module:
    import kornia.augmentation as k

    return k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        k.RandomAffine(15.0, (0.05, 0.05), (0.9, 1.1)),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0),
        k.RandomErasing(p=0.5),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )


def torchvision_chain(size: int) -> Callable[[Tensor], Tensor]:
    """Its transforms draw once a call: all images of a batch are changed alike, which is less work."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0)),
            v2.RandomAffine(15, (0.05, 0.05), (0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
            v2.RandomErasing(p=0.5),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
