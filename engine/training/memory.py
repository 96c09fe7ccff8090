"""An estimate of the memory that a run takes, without taking it; and what to change where there is too little.

The model is built of fake tensors, which have shapes and no memory, and run forward once: what autograd would keep for
the backward pass is counted tensor by tensor, instead of being guessed from a table of architectures. In the same way
the optimiser is asked what it keeps, and the photos' parts that a batch decodes are those of plans drawn for the sizes
in the manifest.

On a GPU batches are finished ahead of the model: of what is decoded little is alive at a time, and what waits are
normalised images, in buffers that go round (engine/loader). DALI's own memory is what it was measured to take on a CPU,
and on a GPU what its documentation says that it takes for each of its threads.

Not counted: Python with its libraries, which are there before (0.5 to 1 GiB), a CUDA context, the process that compiles
a stage ahead of its time (a network's weights and a context), and torch.compile, which keeps fewer activations. Held to
measured peaks on the CPU by `benchmarks/bench_memory.py`; what it says of a GPU has been held to none.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions
from engine.augment.views import PLAIN, View, view_plan, views_of
from engine.decode.choose import decode_device, uses_turbo
from engine.exhausted import Where
from engine.kernels.jpeg import Region
from engine.loader.supply import prefetch_bytes
from engine.model.build import backbone_config, build_shapes, set_checkpointing
from engine.model.runtime import Runtime
from engine.order import Sampler
from engine.pictures import suffixes
from engine.ranks import Ranks, own_cores
from engine.recipe.sections import DecodeSection, ModelSection, Recipe, StageSection, TrainSection
from engine.training.kept import Kept, Sized, kept_photos, whole_regions
from engine.training.optim import kept_share

# Workspace of convolutions and the allocator's fragmentation, on top of what is counted.
OVERHEAD = 1.15
# Main memory that libraries take when they are first used: kernels that are made for shapes, arenas of threads.
FIRST_USE = 64 * 2**20

_SLAB_SPARE = 1.25  # memory for a batch's parts is taken a little larger, for the next one (loader/supply.py)
_ON_SIDE = 3  # batches of decoded pixels that are alive beside a GPU's model: made, sent, read by the pass
# DALI's own: on the host, once it is loaded; and for each thread of its decoder for a GPU, on the device and, twice, in
# pinned memory (device_memory_padding and host_memory_padding of DALI 2.4's decoders.image).
_DALI = 96 * 2**20
_DALI_THREAD = (16 * 2**20, 2 * 8 * 2**20)
_LOOKED_AT = 4  # batches for which plans are drawn
_EXTRAS = 6  # images at the output's size, in float32, that blurring and noise hold at once for each image


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes of one optimiser step: of the weights, of as many gradients, of what the optimiser keeps, of the averages;
    of the activations that autograd keeps, and of the largest map among them.

    `again`: what of activations is not kept but computed again, one block's at a time (`stage.checkpoint_activations`).
    """

    weights: int
    optimizer: int
    averages: int
    activations: int
    largest: int
    gradients_stay: bool  # from one backward pass to the next: they are put together, or exchanged between processes
    again: int = 0

    @property
    def fixed(self) -> int:
        """What is there between two steps."""
        return self.weights + self.optimizer + self.averages

    @property
    def peak(self) -> int:
        """Activations go as gradients come; a map's own gradient is there twice while it is handed on."""
        working = self.activations + self.again + 2 * self.largest
        gradients = self.weights
        return self.fixed + (working + gradients if self.gradients_stay else max(working, gradients))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a part of a run, on one process's host and device; on a CPU all of it is the host's.

    `certain`: what of the host's and the device's cannot be less, however the allocator does.
    """

    host: int
    device: int
    certain_host: int
    certain_device: int


@dataclasses.dataclass(frozen=True)
class Photos:
    """The samples of a run as far as memory goes: (height, width) of each, upright, the bytes of its file, the 64-bit
    key of its id, and whether libjpeg-turbo would take a part of it."""

    sizes_N2: np.ndarray
    bytes_N: np.ndarray
    keys_N: np.ndarray
    jpeg_N: np.ndarray

    @classmethod
    def of(cls, sizes_N2: np.ndarray, bytes_N: np.ndarray, keys_N: np.ndarray, paths: Sequence[str]) -> Photos:
        jpeg_N = np.array([Path(path).suffix.lower() in suffixes("jpeg") for path in paths])
        return cls(np.maximum(sizes_N2, 1), np.maximum(bytes_N, 0), keys_N, jpeg_N)


def step_memory(
    model: ModelSection, train: TrainSection, classes: int, stage: StageSection, bf16: bool, world: int = 1
) -> StepMemory:
    """What an optimiser step of `stage` takes on each of `world` processes, uncompiled. Of "bf16_weights" maps are
    counted as under autocast, which keeps more of them."""
    network = build_shapes(model, classes, stage.size).train()
    blocks = _Blocks(network.backbone)
    if stage.batch == 1:  # batch norms refuse to learn from one image: where it is trained so, they rest
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        network.to_empty(device="cpu")  # fake too, in this mode; autocast knows no meta device
        images_BCHW = torch.zeros(stage.batch, 3, *stage.size)
        activations = _kept(network, images_BCHW, blocks)
        largest, again = max(activations, default=0), 0
        if stage.checkpoint_activations:
            set_checkpointing(network, True)
            activations, again = _kept(network, images_BCHW, _Blocks(network.backbone)), blocks.most
    weights = sum(p.numel() * 4 for p in network.parameters())
    copies = weights // 2 if train.precision == "bf16_weights" else 0  # of the weights, and as much of gradients
    buffers = sum(b.numel() * b.element_size() for b in network.buffers())
    averages = (train.ema > 0) + (train.swa_epochs > 0)
    return StepMemory(
        weights=weights + copies,
        optimizer=int(weights * kept_share(train)),
        averages=buffers + averages * (weights + buffers),
        activations=sum(activations),
        largest=largest,
        gradients_stay=stage.accumulate > 1 or world > 1,
        again=again,
    )


class _Blocks:
    """Bytes that autograd keeps of each block of a backbone: of modules that stand in a list and hold no list."""

    def __init__(self, backbone: nn.Module) -> None:
        self.total = self.most = 0
        for name, module in backbone.named_modules():
            if name.rpartition(".")[2].isdecimal() and not _holds_list(module):
                module.register_forward_pre_hook(self._begin)
                module.register_forward_hook(self._end)

    def _begin(self, *_: object) -> None:
        self._before = self.total

    def _end(self, *_: object) -> None:
        self.most = max(self.most, self.total - self._before)


def _holds_list(module: nn.Module) -> bool:
    return any(name.rpartition(".")[2].isdecimal() for name, _ in module.named_modules())


def _kept(network: nn.Module, images_BCHW: Tensor, blocks: _Blocks) -> list[int]:
    """Bytes of each storage that autograd keeps when these images are shown, but for weights."""
    known = {p.untyped_storage()._cdata for p in network.parameters()}
    found: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            known.add(storage._cdata)
            found.append(storage.nbytes())
            blocks.total += found[-1]
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = network(images_BCHW)
    del answer
    return found


def training_memory(
    recipe: Recipe, stage: StageSection, classes: int, train: Photos, held: Photos, ranks: Ranks
) -> Memory:
    """The peak of a stage that is trained on some photos and scored on others."""
    runtime = Runtime.of(recipe.train, ranks.device)
    step = step_memory(recipe.model, recipe.train, classes, stage, runtime.bf16, ranks.world)
    scored = step.fixed + 3 * step.largest * _shown(runtime, stage.size, stage.batch) // stage.batch
    pixels = stage.batch * stage.size[0] * stage.size[1] * 3
    extras = _EXTRAS * 4 * pixels if _has_extras(recipe) else 0
    decoding = _Decoding.of(recipe.decode, ranks.device)
    output = pixels * runtime.dtype.itemsize
    parts, counts = _trained_parts(recipe, stage, train, decoding), (len(train.sizes_N2), stage.batch)
    training, ahead = (decoding.alive(parts, *counts, output, waiting) for waiting in (False, True))
    parts, counts = _scored_parts(recipe, stage.size, stage.batch, held, decoding), (len(held.sizes_N2), stage.batch)
    scoring = decoding.alive(parts, *counts, output)
    files = int(3 * stage.batch * (train.bytes_N.mean() if len(train.bytes_N) else 0))
    working = max(step.peak + extras, scored)
    # While images are scored, the next epoch's first batches are made.
    photos = training.most(ahead + scoring if len(held.sizes_N2) else training)
    together = max(step.peak + extras + training.decoded, scored + ahead.decoded + scoring.decoded)
    memory = _placed(ranks, decoding, together, working, photos, files, certain=step.fixed + step.activations)
    return _with_kept(memory, kept_decoded(recipe, stage, train, held, ranks), recipe.decode, ranks.device)


def kept_decoded(recipe: Recipe, stage: StageSection, train: Photos, held: Photos, ranks: Ranks) -> Kept | None:
    """What of these photos may stay decoded on each process; None where the recipe keeps none."""
    trained, scored = (Sized(photos.sizes_N2, photos.jpeg_N) for photos in (train, held))
    return kept_photos(recipe, stage, trained, scored, ranks.device, local_processes(ranks))


def _with_kept(memory: Memory, kept: Kept | None, section: DecodeSection, device: torch.device) -> Memory:
    """Files that are mapped count for nothing: they give way."""
    if kept is None or not kept.in_memory:
        return memory
    if section.cache == "device" and device.type == "cuda":
        return dataclasses.replace(memory, device=memory.device + kept.taken)
    return dataclasses.replace(memory, host=memory.host + kept.taken)


def answering_memory(recipe: Recipe, classes: int, held: Photos, ranks: Ranks) -> Memory:
    """The peak while trained models answer about some photos, in batches of `predict.batch`."""
    stage = recipe.stage[-1]
    batch = min(recipe.predict.batch, max(1, len(held.sizes_N2)))
    one = stage.model_copy(update={"batch": 1})
    runtime = Runtime.of(recipe.train, ranks.device)
    step = step_memory(recipe.model, recipe.train, classes, one, runtime.bf16)
    models = max(1, recipe.train.keep_last + recipe.train.keep_best)
    views = views_of(recipe.predict)
    largest = max(view.cost(*stage.size) for view in views)  # one after the other, in the same memory
    pixels = int(4 * batch * stage.size[0] * stage.size[1] * 3 * largest)
    shown = max(view.cost(*stage.size) * _shown(runtime, view.size(*stage.size), batch) for view in views)
    working = models * step.weights + pixels + int(3 * step.largest * shown)
    decoding = _Decoding.of(recipe.decode, ranks.device)
    parts = _scored_parts(recipe, stage.size, batch, held, decoding, views)
    output = batch * stage.size[0] * stage.size[1] * 3 * runtime.dtype.itemsize if len(views) == 1 else 0
    photos = decoding.alive(parts, len(held.sizes_N2), batch, output)
    files = int(3 * batch * (held.bytes_N.mean() if len(held.bytes_N) else 0))
    certain = models * step.weights + pixels
    return _placed(ranks, decoding, working + photos.decoded, working, photos, files, certain)


def _shown(runtime: Runtime, size: tuple[int, int], batch: int) -> int:
    """Images of a batch that a model answers about at one time: parts of a fixed shape, one to each thread of a CPU."""
    at_once = runtime.images_at_once(*size)
    parts = torch.get_num_threads() if runtime.device.type == "cpu" else 1
    return at_once * min(parts, -(-batch // at_once))


def _placed(
    ranks: Ranks, decoding: _Decoding, together: int, working: int, photos: _Alive, files: int, certain: int
) -> Memory:
    """Host and device apart: on a CPU `together` is the peak of model and photos; on a GPU each has its own, and pixels
    that the CPU decodes are there and here."""
    on_host, on_device = decoding.own
    if ranks.device.type == "cpu":
        return Memory(int(together * OVERHEAD) + files + FIRST_USE + on_host, 0, certain, 0)
    on_device += working + photos.decoded + photos.finished
    on_host += files + (0 if decoding.device.type == "cuda" else photos.decoded)
    return Memory(int(on_host * OVERHEAD) + FIRST_USE, int(on_device * OVERHEAD), 0, certain)


# --- photos ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Alive:
    """Bytes of batches that are alive at once: of decoded pixels, and of normalised images that wait for a GPU's model,
    besides the batch that it has."""

    decoded: int
    finished: int = 0

    def __add__(self, other: _Alive) -> _Alive:
        return _Alive(self.decoded + other.decoded, self.finished + other.finished)

    def most(self, other: _Alive) -> _Alive:
        """The larger of the two in all."""
        return max(self, other, key=lambda one: one.decoded + one.finished)


@dataclasses.dataclass(frozen=True)
class _Decoding:
    """Where and how photos are decoded for a model on `model`, how many batches are made ahead of it, and the bytes in
    which."""

    device: torch.device
    model: torch.device
    parts: bool  # only the part of a JPEG that is looked at
    prefetch: int
    limit: int
    threads: int

    @classmethod
    def of(cls, section: DecodeSection, device: torch.device) -> _Decoding:
        where = decode_device(section, device)
        limit, threads = prefetch_bytes(section, device), section.threads or own_cores()
        return cls(where, device, uses_turbo(section, where), section.prefetch, limit, threads)

    @property
    def own(self) -> tuple[int, int]:
        """Bytes that the decoder itself takes, on the host and on the device."""
        if self.parts:  # libjpeg-turbo
            return 0, 0
        if self.device.type == "cpu":
            return _DALI, 0
        return _DALI + self.threads * _DALI_THREAD[1], self.threads * _DALI_THREAD[0]

    def alive(self, batches: Sequence[int], images: int, batch: int, output: int, waiting: bool = False) -> _Alive:
        """Of so many `images` in batches like `batches` (bytes of pixels of some of them), each of which becomes
        `output` bytes of normalised images; 0: the model's side makes them, of whole photos. waiting: nobody has asked
        for one yet."""
        if not batches:
            return _Alive(0)
        # As large as the largest of those looked at, where their memory is used again.
        each = int(max(batches) if self.parts else np.mean(batches))
        there, queued = -(-images // batch), self.prefetch + 1  # with the one that is being made
        if self.model.type == "cpu":
            # The model's batch and the one that is being made are there whatever the limit.
            rounds = min(queued + (not waiting), there)
            return _Alive(int(min(rounds * each, max(self.limit, 2 * each))))
        # What is handed out as pixels is read by kernels that are queued, as many batches behind as there are ahead.
        rounds = _ON_SIDE if output else queued + self.prefetch + 2
        # While the next batch is handed out, the one before it is not yet given back: one more goes round.
        decoded, finished = min(rounds, there) * each, min(queued + 1, there) * output
        allowed = max(self.limit, 2 * (each + output))
        return _Alive(min(decoded, allowed), min(finished, max(0, allowed - decoded)))


def _trained_parts(recipe: Recipe, stage: StageSection, photos: Photos, decoding: _Decoding) -> list[int]:
    """Bytes of decoded pixels in each of a few training batches."""
    policy = _policy(recipe)
    labels_N = np.zeros(len(photos.sizes_N2), dtype=np.int64)
    rows_N = np.arange(len(labels_N))
    sampler = Sampler(rows_N, labels_N, recipe.train.sampling.model_copy(update={"power": 0.0}), recipe.seed)
    found = []
    for rows_B in sampler.epoch(0, stage.batch)[:_LOOKED_AT]:
        rows_B = rows_B % len(rows_N)
        sizes_B2 = torch.from_numpy(photos.sizes_N2[rows_B]).int()
        plan = policy.draw(torch.from_numpy(photos.keys_N[rows_B]), sizes_B2, *stage.size, recipe.seed, 0)
        regions = needed_regions(plan, sizes_B2, reduce=True)
        if recipe.decode.cache != "off":
            regions = whole_regions(recipe, stage, photos.sizes_N2[rows_B])
        found.append(_bytes(regions, sizes_B2, photos.jpeg_N[rows_B] & decoding.parts))
    return found


def _scored_parts(
    recipe: Recipe,
    size: tuple[int, int],
    batch: int,
    photos: Photos,
    decoding: _Decoding,
    views: Sequence[View] = (PLAIN,),
) -> list[int]:
    """The same of a few batches that are scored: of the largest photos, since all of them are scored. For several views
    photos are decoded whole."""
    config = backbone_config(recipe.model.backbone)
    contract = Contract.of(recipe.augment, size, config.mean, config.std, config.interpolation)
    areas = [int(photos.sizes_N2[at : at + batch].prod(1).sum()) for at in range(0, len(photos.sizes_N2), batch)]
    found = []
    for at in np.argsort(areas, kind="stable")[::-1][:_LOOKED_AT].tolist():
        rows = slice(at * batch, (at + 1) * batch)
        sizes_B2 = torch.from_numpy(photos.sizes_N2[rows]).int()
        plan = view_plan(views[0], contract, sizes_B2, torch.device("cpu"))
        parted_B = photos.jpeg_N[rows] & decoding.parts & (len(views) == 1)
        found.append(_bytes(needed_regions(plan, sizes_B2, reduce=False), sizes_B2, parted_B))
    return found


def _bytes(regions: Sequence[Region], sizes_B2: Tensor, parted_B: np.ndarray) -> int:
    """Decoded bytes of a batch: of these regions, of photos that come whole all."""
    wholes = (3 * sizes_B2.long().prod(1)).tolist()
    parts = [3 * -(-(r.x1 - r.x0) // r.reduction) * -(-(r.y1 - r.y0) // r.reduction) for r in regions]
    each = zip(parts, wholes, parted_B.tolist(), strict=True)
    return int(sum(_SLAB_SPARE * part if parted else all_ for part, all_, parted in each))


def _has_extras(recipe: Recipe) -> bool:
    return _policy(recipe).extras(torch.zeros(1, dtype=torch.int64), recipe.seed, 0) is not None


def _policy(recipe: Recipe) -> Policy:
    config = backbone_config(recipe.model.backbone)
    return Policy(recipe.augment, config.mean, config.std, config.interpolation)


# --- where there is too little --------------------------------------------------------------------------------------


def size_of(stage: StageSection) -> str:
    """Its size in words: height x width."""
    return f"{stage.size[0]} x {stage.size[1]}"


def smaller_stage(number: int, stage: StageSection, where: Where) -> str:
    """What to change when there is too little memory for a stage: keys and values."""
    if stage.batch > 1:
        batch, parts = stage.batch // 2, stage.accumulate * 2
        even = "the same images a step" if stage.batch % 2 == 0 else f"{batch * parts} images a step"
        way = f"Set stage.{number}.batch = {batch} and stage.{number}.accumulate = {parts} ({even})"
    else:
        way = f"Set a smaller stage.{number}.size, or a smaller model.backbone"
    decoding = ", and decode.prefetch = 1 (fewer decoded photos are held)" if where == "main memory" else ""
    return f"{way}{decoding}"


def local_processes(ranks: Ranks) -> int:
    """Processes that share this machine's main memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
