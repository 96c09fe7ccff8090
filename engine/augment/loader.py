"""Batches for a model: decoded images, a plan, one pass.

The pass writes into memory that is used again (see buffered.py), so a batch is valid until the next one is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.augment.buffered import BufferedPass
from engine.augment.contract import Contract
from engine.augment.draw import Policy
from engine.augment.executor import Name
from engine.augment.extras import apply_extras
from engine.augment.views import validation_plan
from engine.decode.stream import Decoded, ImageStream
from engine.kernels import Plan, Ragged
from engine.recipe.augment import MixSection
from engine.recipe.sections import DecodeSection


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a loader needs to know of N samples: file paths, 64-bit keys of their ids, class indices (-1: unknown)."""

    paths: Sequence[str]
    keys_N: np.ndarray  # int64
    labels_N: np.ndarray  # int64


class Batch(NamedTuple):
    """Normalised images on the model's device with the labels of both partners and the share of the first."""

    images_BCHW: Tensor  # channels-last memory
    own_B: Tensor  # int64 class index
    partner_B: Tensor  # int64 class index; the own one where nothing is mixed
    share_B: Tensor  # float32 share of own_B
    rows_B: np.ndarray  # int64 rows into Samples


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Which draw a training epoch is: the address of its randomness, its image size and its mixing."""

    seed: int
    number: int  # counted over the whole run, from 0
    height: int
    width: int
    mix: MixSection | None


class Loader:
    """Makes batches of `samples` on `device`; `quarantine` collects the files it had to leave out and why.

    `dtype` is that of the images (float32, bfloat16 or float16); `executor` is the recipe's `augment.executor`.
    """

    def __init__(
        self,
        samples: Samples,
        decode: DecodeSection,
        device: torch.device,
        executor: Name = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.samples = samples
        self.decode = decode
        self.device = device
        self.quarantine: dict[str, str] = {}
        self._pass = BufferedPass(executor, device, dtype)

    def train(self, batches: Sequence[np.ndarray], policy: Policy, epoch: Epoch) -> Generator[Batch, None, None]:
        """Augmented batches of the rows in `batches`.

        A bad file's place in its batch is taken by another image of that batch, so that shapes stay the same.
        """
        for decoded, wanted in self._decoded(batches):
            yield self.augment(_fill(decoded, len(wanted)), policy, epoch)

    def augment(self, decoded: Decoded, policy: Policy, epoch: Epoch) -> Batch:
        """One decoded batch, drawn and passed: valid until the next."""
        # Drawn on the host: a plan is some kilobytes, and drawing it on a GPU is a hundred launches.
        keys_B = torch.from_numpy(self.samples.keys_N[decoded.rows_B])
        sizes_B2 = decoded.images.sizes_B2
        plan = policy.draw(keys_B, sizes_B2, epoch.height, epoch.width, epoch.seed, epoch.number, epoch.mix)
        extras = policy.extras(keys_B, epoch.seed, epoch.number)
        if extras is not None:
            placed = self._pass.place(decoded.images)
            images, plan = apply_extras(extras, placed, plan.to(self.device), self._pass.executor)
            decoded = Decoded(images, decoded.rows_B)
        return self._batch(decoded, plan)

    def valid(self, batches: Sequence[np.ndarray], contract: Contract) -> Iterator[Batch]:
        """Batches as they are scored and served. Bad files are missing from `rows_B`."""
        for decoded, _ in self._decoded(batches):
            yield self._batch(decoded, validation_plan(contract, decoded.images.sizes_B2, self.device))

    def _decoded(self, batches: Sequence[np.ndarray]) -> Iterator[tuple[Decoded, np.ndarray]]:
        stream = ImageStream(self.samples.paths, batches, self.decode, self.device)
        wanted = iter(batches)
        for decoded in stream:
            rows = next(wanted)
            while not np.isin(decoded.rows_B, rows).all():  # the stream skips a batch whose files are all bad
                rows = next(wanted)
            yield decoded, rows
        self.quarantine |= stream.quarantine

    def _batch(self, decoded: Decoded, plan: Plan) -> Batch:
        images_BCHW = self._pass(decoded.images, plan)
        own_B = torch.from_numpy(self.samples.labels_N[decoded.rows_B]).to(self.device)
        partner_B = own_B if plan.partner_B is None else own_B[plan.partner_B.to(self.device)]
        return Batch(images_BCHW, own_B, partner_B, plan.own_share_B().to(self.device), decoded.rows_B)


def _fill(decoded: Decoded, count: int) -> Decoded:
    """`decoded` with its images repeated in order until there are `count`."""
    have = len(decoded.rows_B)
    if have == count:
        return decoded
    index = np.arange(count) % have
    return Decoded(Ragged([decoded.images.tensors[i] for i in index.tolist()]), decoded.rows_B[index])
