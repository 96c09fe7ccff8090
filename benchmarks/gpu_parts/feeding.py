"""Files to augmented batches on the GPU with nothing in the model's place, beside what others have for the same.

The photos are read anew in every window. DALI's pipeline decodes and crops on the GPU, which is what the engine's
decoder is made of; torchvision decodes a batch with nvJPEG and crops each image by itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch

from engine.augment.policy import Policy
from engine.bench.envelope import Row
from engine.bench.photos import photos
from engine.loader.batches import Epoch, Loader, Samples
from engine.loader.source import Files
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import AugmentSection, MixSection
from engine.system import cores
from gpu_parts.context import DEVICE, Context
from gpu_parts.passes import FULL, MEAN, STD

EXTRAS = {"most": 1, "blur": 0.1, "noise": 0.1}  # the flagship recipe's


def run(context: Context) -> Iterator[Row]:
    """A row for each way to a batch, at the first and the last size of the recipe."""
    paths = photos(count=context.few(512, 8))
    for size, batch in (context.stages[0], context.stages[-1]):
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "engine, decoded on the GPU": lambda s=size, b=batch: _engine(paths, s, b, "gpu"),  # type: ignore[misc]
            "engine, decoded on the CPU": lambda s=size, b=batch: _engine(paths, s, b, "cpu"),  # type: ignore[misc]
            "DALI pipeline": lambda s=size, b=batch: _dali(paths, s, b),  # type: ignore[misc]
            "torchvision, nvJPEG": lambda s=size, b=batch: _torchvision(paths, s, b),  # type: ignore[misc]
        }
        for name, way in ways.items():
            if context.rehearsed and not name.startswith("engine"):
                continue  # they need the device itself
            row: Row = {"what": name, "size": size, "batch": batch}
            try:
                yield row | {"windows": _windows(way(), context)}
            except Exception as error:
                yield row | {"failed": f"{type(error).__name__}: {error}"[:300]}


def _windows(images: Iterator[int], context: Context) -> list[float]:
    """Images a second, window by window, after a warm-up."""
    for _ in range(context.few(12, 1)):
        next(images)
    found = []
    for _ in range(context.few(5)):
        torch.cuda.synchronize()
        began, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - began < context.few(10, 0) / 20:
            count += next(images)
        torch.cuda.synchronize()
        found.append(round(count / (time.perf_counter() - began), 1))
    return found


def _engine(paths: list[str], size: int, batch: int, device: Any) -> Iterator[int]:
    rows_N = np.arange(len(paths))
    samples = Samples(paths, Files(paths), rows_N * 7919, rows_N % 10)
    policy = Policy(AugmentSection.model_validate(FULL | {"extras": EXTRAS}), MEAN, STD)
    loader = Loader(samples, DecodeSection(device=device), DEVICE, dtype=torch.bfloat16)
    batches = [np.resize(np.roll(rows_N, 7 * number), batch) for number in range(4000)]
    epoch = Epoch(0, 0, size, size, MixSection(mixup=0.2, cutmix=1.0, p=0.5))
    with closing(loader.train(batches, policy, epoch)) as running:
        for one in running:
            yield len(one.rows_B)


def _dali(paths: list[str], size: int, batch: int) -> Iterator[int]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch, num_threads=cores(), device_id=0)
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(files=paths, random_shuffle=True, prefetch_queue_depth=4)
        images = fn.decoders.image_random_crop(encoded, device="mixed", random_area=(0.08, 1.0))
        images = fn.resize(images, size=(size, size))
        images = fn.color_twist(
            images, brightness=fn.random.uniform(range=(0.6, 1.4)), hue=fn.random.uniform(range=(-36.0, 36.0))
        )
        mirror = fn.random.coin_flip()
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT16,
            output_layout="HWC",
            mirror=mirror,
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
        )

    made = pipeline()
    made.build()
    while True:
        made.run()
        yield batch


def _torchvision(paths: list[str], size: int, batch: int) -> Iterator[int]:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file
    from torchvision.transforms import v2

    crop = v2.Compose([v2.RandomResizedCrop(size, scale=(0.08, 1.0)), v2.RandomHorizontalFlip()])
    after = v2.Compose(
        [v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.ToDtype(torch.bfloat16, scale=True), v2.Normalize(MEAN, STD)]
    )
    around = itertools.cycle(paths)
    while True:
        encoded = [read_file(path) for path in itertools.islice(around, batch)]
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=DEVICE)
        after(torch.stack([crop(image) for image in decoded]))
        yield batch
