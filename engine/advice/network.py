"""A backbone and stages for so many photos of such sizes, on this machine.

Rules of thumb, not measurements: a network that the machine trains in reasonable time, sizes that rise to what the
photos hold and the backbone was made for, the largest usual batch whose step fits. `engine compare` and `engine
lr-find` measure.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import timm
from huggingface_hub import constants
from numpy.typing import NDArray

from engine.advice.machine import Machine
from engine.model.build import is_cached
from engine.recipe.sections import ModelSection, StageSection, TrainSection
from engine.system import GIB
from engine.training.memory import OVERHEAD, step_memory

_STRIDE = 32  # pixels: sizes are whole multiples of it
_LEAST_SIDE = 64
_BATCHES = (128, 96, 64, 48, 32, 24, 16, 8, 4, 2)
_FULL = 0.75  # share of the memory that a step may take
_STEPS, _LEAST_BATCH = 8, 8  # in an epoch, as long as a batch is not smaller than this
_FEW_PHOTOS = 2_000
_EPOCHS = ((2_000, 30), (20_000, 18), (200_000, 12), (np.inf, 8))  # for fewer images than these
_ON_A_CORE = 15_000  # images of a fold that are trained on in about a quarter of an hour
_LARGE_GPU, _SMALL_GPU = 20 * GIB, 10 * GIB
_LONG = 1.5  # longer over shorter side, from which a square of the middle leaves out too much


@dataclass(frozen=True)
class _Choice:
    """A backbone, the largest size it is trained at, the most images of a batch, and its rate at a batch of 64."""

    backbone: str
    side: int
    batch: int
    lr: float


FRESH_EPOCHS = 5  # times the epochs where a network does not begin with pretrained weights
FRESH_LR = 1e-3

Weights = Literal["cached", "fetched", "none"]

_ON_CPU = _Choice("convnext_atto.d2_in1k", 160, 32, 5e-4)
_ON_SMALL_GPU = _Choice("convnext_nano.in12k_ft_in1k", 288, 64, 3e-4)
_ON_GPU = _Choice("convnext_tiny.in12k_ft_in1k_384", 384, 128, 2e-4)
_ON_LARGE_GPU = _Choice("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384", 384, 128, 1e-4)


@dataclass(frozen=True)
class Stage:
    """One stage: a side in pixels, images a batch, epochs, and the peak learning rate."""

    side: int
    batch: int
    epochs: int
    lr: float


@dataclass(frozen=True)
class Network:
    """What to train. `crop_share` and `licence` are timm's record of the weights, the latter "" where it has none;
    `weights`: whether they are here, will be fetched, or cannot be; `step_bytes`: of the last stage, estimated."""

    backbone: str
    crop_share: float
    licence: str
    weights: Weights
    letterbox: bool
    stages: tuple[Stage, ...]
    step_bytes: int

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages)


def network_for(machine: Machine, trained_on: int, classes: int, sizes_N2: NDArray[np.int64]) -> Network:
    """For `trained_on` images an epoch, of upright heights and widths sizes_N2, on this machine."""
    choice = _choice(machine, trained_on)
    config = timm.get_pretrained_cfg(choice.backbone)
    sides = _sides(choice, int(np.median(sizes_N2.min(1))), stages=3 if machine.gpu else 2)
    batch, in_step = _batch(choice, machine, trained_on, classes, sides[-1])
    weights = _at_hand(config)
    peak, longer = (choice.lr, 1) if weights != "none" else (FRESH_LR, FRESH_EPOCHS)
    lr = float(f"{peak * (batch / 64) ** 0.5:.1g}")  # Adam's steps: with the root of the batch
    epochs = _spread(_epochs(machine, trained_on) * longer, len(sides))
    rates = [lr] * (len(sides) - 1) + [float(f"{lr / 2:.1g}")]
    stages = tuple(Stage(side, batch, n, rate) for side, n, rate in zip(sides, epochs, rates, strict=True))
    low_N, high_N = sizes_N2.min(1), sizes_N2.max(1)
    return Network(
        backbone=choice.backbone,
        crop_share=float(config.crop_pct or 1.0),
        licence=str(config.license or ""),
        weights=weights,
        letterbox=bool(np.median(high_N / np.maximum(low_N, 1)) > _LONG),
        stages=stages,
        step_bytes=in_step,
    )


def _choice(machine: Machine, trained_on: int) -> _Choice:
    if not machine.gpu:
        return _ON_CPU
    if machine.memory < _SMALL_GPU:
        return _ON_SMALL_GPU
    return _ON_LARGE_GPU if machine.memory >= _LARGE_GPU and trained_on >= _FEW_PHOTOS else _ON_GPU


def _sides(choice: _Choice, shorter: int, stages: int) -> list[int]:
    """Rising to the photos' usual shorter side, or to what the backbone is used at."""
    most = max(_LEAST_SIDE, min(choice.side, -(-shorter // _STRIDE) * _STRIDE))
    shares = np.linspace(2 / 3, 1, stages) if stages > 2 else (0.8, 1.0)
    return sorted({max(_LEAST_SIDE, round(most * share / _STRIDE) * _STRIDE) for share in shares})


def _batch(choice: _Choice, machine: Machine, trained_on: int, classes: int, side: int) -> tuple[int, int]:
    """The most images that fit a step, and the bytes of it: these rise by as much with every image."""
    two, four = (_step_bytes(choice.backbone, classes, side, batch, machine.bf16) for batch in (2, 4))
    an_image = max(1, (four - two) // 2)
    most = min(choice.batch, trained_on, 2 + int(_FULL * machine.memory - two) // an_image)
    fitting = [batch for batch in _BATCHES if batch <= most]
    batch = next((batch for batch in fitting if batch * _STEPS <= trained_on or batch <= _LEAST_BATCH), _BATCHES[-1])
    return batch, two + (batch - 2) * an_image


@functools.lru_cache(maxsize=32)
def _step_bytes(backbone: str, classes: int, side: int, batch: int, bf16: bool) -> int:
    stage = StageSection(size=(side, side), batch=batch, epochs=1, lr=1.0)
    memory = step_memory(ModelSection(backbone=backbone), TrainSection(), classes, stage, bf16)
    return int(OVERHEAD * memory.peak)


def _epochs(machine: Machine, trained_on: int) -> int:
    """Over all stages: the fewer images, the more; without a GPU as many as take minutes and not days."""
    most = next(epochs for images, epochs in _EPOCHS if trained_on < images)
    return most if machine.gpu else int(np.clip(_ON_A_CORE * machine.cores / trained_on, 4, most))


def _spread(epochs: int, stages: int) -> list[int]:
    """The last stage gets what the others leave, which are equal."""
    each = max(1, round(epochs * 0.8 / stages))
    return [each] * (stages - 1) + [max(1, epochs - each * (stages - 1))]


def _at_hand(config: timm.models.PretrainedCfg) -> Weights:
    """Where the weights are, as far as this machine knows without asking the network."""
    if is_cached(config):
        return "cached"
    return "none" if config.hf_hub_id and constants.is_offline_mode() else "fetched"
