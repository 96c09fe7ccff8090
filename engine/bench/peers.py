"""Other libraries' way from files to normalised batches, beside the engine's, on the same files.

Every one does as nearly the same as its library can: a random resized crop of 0.6 to 1 of the area, an affine map (up
to 15 degrees, 5 % shift, 10 % scale), a flip half of the time, full colour jitter, random erasing half of the time,
normalisation. Each runs in a process of its own, so that neither threads nor memory are shared, in as many workers or
threads as there are cores, and on the GPU where it can use one. Who is not installed is left out, and said to be.

`benchmarks/bench_loader.py` compares them in more detail: interleaved, with processor time and memory.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from engine.bench.envelope import Row
from engine.bench.phases import Bench
from engine.bench.timers import measure
from engine.system import cores

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.6, 1.0), (3 / 4, 4 / 3)
DEGREES, SHIFT, ZOOM = 15, 0.05, 0.1
STRENGTH, HUE = 0.4, 0.1
_MOST_S = 300.0  # for one peer, all in all
_ENDLESS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Task:
    """Batches of `batch` of these files at `size` (height, width), on `device`, measured for `seconds`."""

    paths: Sequence[str]
    size: tuple[int, int]
    batch: int
    device: str
    seconds: float

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")


Batches = Iterator[torch.Tensor]


def engine(task: Task) -> Batches:
    from engine.augment.policy import Policy
    from engine.loader.batches import Epoch, Loader, Samples
    from engine.loader.source import Files
    from engine.recipe.load import parse_recipe

    color = {"p": 1.0, "brightness": STRENGTH, "contrast": STRENGTH, "saturation": STRENGTH, "hue": HUE}
    augment = {
        "crop": {"kind": "random_resized", "scale": SCALE, "ratio": RATIO},
        "affine": {"p": 1.0, "rotate": DEGREES, "shift": SHIFT, "scale": ZOOM},
        "flip": 0.5,
        "color": color,
        "random_erasing": {"p": 0.5},
    }
    stage = {"size": task.size, "batch": task.batch, "epochs": 1, "lr": 1e-3}
    recipe = parse_recipe({"augment": augment, "stage": [stage]})
    count = len(task.paths)
    samples = Samples(task.paths, Files(task.paths), np.arange(count), np.zeros(count, dtype=np.int64))
    rows = itertools.cycle(range(count))
    batches = [np.array([*itertools.islice(rows, task.batch)]) for _ in range(20_000)]
    loader = Loader(samples, recipe.decode, torch.device(task.device))
    for batch in loader.train(batches, Policy(recipe.augment, MEAN, STD), Epoch(0, 0, *task.size, None)):
        yield batch.images_BCHW


def albumentations(task: Task) -> Batches:
    import albumentations as A  # noqa: N812
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)  # as its authors advise, in workers
    jitter = (1 - STRENGTH, 1 + STRENGTH)
    change = A.Compose(
        [
            A.RandomResizedCrop(size=task.size, scale=SCALE, ratio=RATIO),
            A.Affine((1 - ZOOM, 1 + ZOOM), translate_percent=(-SHIFT, SHIFT), rotate=(-DEGREES, DEGREES), p=1.0),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=(-HUE, HUE), p=1.0),
            A.Erasing(p=0.5),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ]
    )
    return _in_workers(task, lambda path: change(image=cv2.imread(path, cv2.IMREAD_COLOR_RGB))["image"])


def torchvision(task: Task) -> Batches:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    change = _torchvision_change(task.size)
    return _in_workers(task, lambda path: change(decode_jpeg(read_file(path), ImageReadMode.RGB)))


def pillow(task: Task) -> Batches:
    """Pillow decodes and resamples, as torchvision's older transforms have it do; tensors come after the jitter."""
    from PIL import Image
    from torchvision.transforms import v2

    change = _torchvision_change(task.size, v2.PILToTensor())

    def read(path: str) -> torch.Tensor:
        with Image.open(path) as image:
            made: torch.Tensor = change(image.convert("RGB"))
            return made

    return _in_workers(task, read)


def kornia(task: Task) -> Batches:
    """torchvision decodes; Kornia crops image by image, since it takes batches of one size only, and does the rest to
    the batch, on the GPU where there is one."""
    import kornia.augmentation as K  # noqa: N812
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    crop = K.RandomResizedCrop(task.size, SCALE, RATIO)

    def read(path: str) -> torch.Tensor:
        image = decode_jpeg(read_file(path), ImageReadMode.RGB)
        cropped: torch.Tensor = crop(image[None].float() / 255)[0]
        return cropped

    batches = _in_workers(task, read)  # first: it forks
    change = K.AugmentationSequential(
        K.RandomAffine(DEGREES, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), p=1.0),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(STRENGTH, STRENGTH, STRENGTH, HUE, p=1.0),
        K.RandomErasing(p=0.5),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ).to(task.device)
    return (change(batch_BCHW) for batch_BCHW in batches)


def dali(task: Task) -> Batches:
    from nvidia.dali import fn, pipeline_def, types

    def uniform(low: float, high: float, **shape: Any) -> Any:
        return fn.random.uniform(range=[low, high], **shape)

    @pipeline_def(
        batch_size=task.batch, num_threads=cores(), device_id=0 if task.on_gpu else None, prefetch_queue_depth=2
    )
    def pipeline() -> Any:
        encoded, _ = fn.readers.file(files=list(task.paths))
        where = "mixed" if task.on_gpu else "cpu"
        images = fn.decoders.image_random_crop(encoded, device=where, random_area=SCALE, random_aspect_ratio=RATIO)
        images = fn.resize(images, size=list(task.size), antialias=True)
        middle = [task.size[1] / 2, task.size[0] / 2]
        matrix = fn.transforms.rotation(angle=uniform(-DEGREES, DEGREES), center=middle)
        matrix = fn.transforms.scale(matrix, scale=fn.stack(*[uniform(1 - ZOOM, 1 + ZOOM)] * 2), center=middle)
        matrix = fn.transforms.translation(matrix, offset=uniform(-SHIFT, SHIFT, shape=[2]) * task.size[0])
        images = fn.warp_affine(images, matrix=matrix, fill_value=0, inverse_map=False)
        images = fn.flip(images, horizontal=fn.random.coin_flip())
        factors = {name: uniform(1 - STRENGTH, 1 + STRENGTH) for name in ("brightness", "contrast", "saturation")}
        images = fn.color_twist(images, hue=uniform(-HUE * 360, HUE * 360), **factors)
        side = fn.cast(fn.random.coin_flip(), dtype=types.FLOAT) * uniform(0.15, 0.57)  # 2 to 33 % of the area
        fill = [255 * mean for mean in MEAN]
        anchor, shape = uniform(0, 0.7, shape=[2]), fn.stack(side, side)
        images = fn.erase(images, anchor=anchor, shape=shape, axes=[0, 1], normalized=True, fill_value=fill)
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))
        return fn.crop_mirror_normalize(images, mean=mean, std=std, output_layout="HWC", dtype=types.FLOAT)

    running = pipeline()
    running.build()
    while True:
        (batch,) = running.run()
        yield torch.utils.dlpack.from_dlpack(batch.as_tensor()).permute(0, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Peer:
    """Endless batches of a task, by a library that is installed where all of `modules` are."""

    batches: Callable[[Task], Batches]
    modules: tuple[str, ...]


PEERS = {
    "engine": Peer(engine, ()),
    "Albumentations + OpenCV": Peer(albumentations, ("albumentations", "cv2")),
    "torchvision v2": Peer(torchvision, ("torchvision",)),
    "Pillow + torchvision": Peer(pillow, ("PIL", "torchvision")),
    "DALI pipeline": Peer(dali, ("nvidia.dali",)),
    "Kornia": Peer(kornia, ("kornia", "torchvision")),
}


def peer_rows(bench: Bench, watch: Callable[[str], None] = lambda name: None) -> Iterator[Row]:
    """A row for each peer at the bench's stage; `note` says why one has no rate."""
    task = Task(bench.samples.ids, bench.stage.size, bench.stage.batch, str(bench.device), bench.seconds)
    for name, peer in PEERS.items():
        watch(f"beside others: {name}")
        windows: list[float] = []
        note = _missing(peer)
        if not note:
            windows, note = _apart(name, task)
        yield {
            "stage": bench.number,
            "size": list(bench.stage.size),
            "batch": bench.stage.batch,
            "phase": "peer",
            "peer": name,
            "images_per_second": round(statistics.median(windows), 2) if windows else None,
            "windows": windows,
            "note": note,
        }


def _missing(peer: Peer) -> str:
    missing = [name for name in peer.modules if not _installed(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _apart(name: str, task: Task) -> tuple[list[float], str]:
    """The windows of a peer that is measured in a process of its own, or what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engine.bench.peers"],
            input=json.dumps({"peer": name, **dataclasses.asdict(task)}),
            capture_output=True,
            text=True,
            timeout=_MOST_S + 3 * task.seconds,
        )
    except subprocess.TimeoutExpired:
        return [], "not ready in time"
    if done.returncode:
        return [], f"failed: {([*filter(None, done.stderr.splitlines())] or ['it says nothing'])[-1]}"
    windows: list[float] = json.loads(done.stdout.splitlines()[-1])
    return windows, ""


class _Reading(Dataset[torch.Tensor]):
    def __init__(self, paths: Sequence[str], read: Callable[[str], torch.Tensor]) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.read(self.paths[index % len(self.paths)])


def _in_workers(task: Task, read: Callable[[str], torch.Tensor]) -> Batches:
    # Forked before anything touches the GPU, so that what is read with may be a function of this file's.
    running = iter(
        DataLoader(
            _Reading(task.paths, read),
            batch_size=task.batch,
            num_workers=cores(),
            multiprocessing_context="fork",
            pin_memory=task.on_gpu,
        )
    )
    return (batch_BCHW.to(task.device, non_blocking=True) for batch_BCHW in running)


def _torchvision_change(size: tuple[int, int], *to_tensor: Any) -> Any:
    from torchvision.transforms import InterpolationMode, v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, SCALE, RATIO, antialias=True),
            v2.RandomAffine(DEGREES, (SHIFT, SHIFT), (1 - ZOOM, 1 + ZOOM), interpolation=InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH, HUE),
            *to_tensor,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(p=0.5),
        ]
    )


def _main() -> None:
    given = json.loads(sys.stdin.read())
    batches = PEERS[given.pop("peer")].batches
    task = Task(**given | {"size": tuple(given["size"])})
    began, running = time.perf_counter(), batches(task)
    for _ in range(4):  # what was made ahead would flatter the first window
        if time.perf_counter() - began < task.seconds:
            next(running)
    rate = measure(lambda: len(next(running)), torch.device(task.device), task.seconds)
    print(json.dumps(rate.windows))


if __name__ == "__main__":
    _main()
