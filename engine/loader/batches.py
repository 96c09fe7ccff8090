"""Batches for a model: decoded images, a plan, one pass.

The pass writes into memory that is used again (see buffered.py), so a batch is valid until the next one is asked for.

What a batch asks for are *draws*: of N samples, draw d is sample d % N for the (d // N + 1)-th time in its epoch (see
order.py). A sample that comes again is thereby augmented anew, and a plain row number is a first draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import needed_parts
from engine.augment.views import validation_plan
from engine.kernels import Plan
from engine.kernels.jpeg import Part
from engine.loader.buffered import BufferedPass
from engine.loader.neighbourhood import apply_extras
from engine.loader.passes import Name
from engine.loader.stream import Decoded, ImageStream, WantRows
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import MixSection


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a loader needs to know of N samples: file paths, 64-bit keys of their ids, class indices (-1: unknown)."""

    paths: Sequence[str]
    keys_N: np.ndarray  # int64
    labels_N: np.ndarray  # int64

    def rows(self, draws_B: np.ndarray) -> np.ndarray:
        """Which samples the draws are of."""
        return draws_B % len(self.paths)

    def draw_keys(self, draws_B: np.ndarray) -> np.ndarray:
        """The address of each draw's randomness: for a first draw the sample's key."""
        times_B = (draws_B // len(self.paths)).astype(np.uint64)
        keys_B = self.keys_N[self.rows(draws_B)].astype(np.uint64)
        return (keys_B + times_B * _STRIDE).astype(np.int64)  # wraps around


class _Drawn(Sequence[str]):
    """The path of every draw."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, draw: Any) -> Any:
        return self._paths[draw % len(self._paths)]


class Batch(NamedTuple):
    """Normalised images on the model's device with the labels of both partners and the share of the first."""

    images_BCHW: Tensor  # channels-last memory
    own_B: Tensor  # int64 class index
    partner_B: Tensor  # int64 class index; the own one where nothing is mixed
    share_B: Tensor  # float32 share of own_B
    rows_B: np.ndarray  # int64 rows into Samples


_STRIDE = np.uint64(0x9E3779B97F4A7C15)  # 2 ** 64 over the golden ratio: multiples of it are far apart


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
        """Augmented batches of the draws in `batches`; decoding begins at once, before the first is asked for.

        A bad file's place in its batch is taken by another image of that batch, so that shapes stay the same; where
        all files of a batch are bad, by those of its neighbour, so that every rank takes the same number of steps.
        """

        def want(draws_B: np.ndarray, sizes_B2: np.ndarray) -> tuple[Plan, list[Part]]:
            plan = self._draw(draws_B, torch.from_numpy(sizes_B2), policy, epoch)
            return plan, needed_parts(plan, torch.from_numpy(sizes_B2), reduce=True)

        decoded = self._decoded(batches, want)
        return (self.augment(_fill(images, count), policy, epoch) for images, count in _complete(decoded, batches))

    def augment(self, decoded: Decoded, policy: Policy, epoch: Epoch) -> Batch:
        """One decoded batch, drawn and passed: valid until the next."""
        plan = decoded.plan or decoded.fit(self._draw(decoded.rows_B, decoded.sizes_B2, policy, epoch))
        extras = policy.extras(self._keys(decoded.rows_B), epoch.seed, epoch.number)
        if extras is not None:
            placed = self._pass.place(decoded.images)
            images, plan = apply_extras(extras, placed, plan.to(self.device), self._pass.executor)
            decoded = Decoded(images, decoded.rows_B)
        return self._batch(decoded, plan)

    def valid(self, batches: Sequence[np.ndarray], contract: Contract) -> Iterator[Batch]:
        """Batches as they are scored and served. Bad files are missing from `rows_B`."""
        host = torch.device("cpu")

        def want(draws_B: np.ndarray, sizes_B2: np.ndarray) -> tuple[Plan, list[Part]]:
            plan = validation_plan(contract, torch.from_numpy(sizes_B2), host)
            return plan, needed_parts(plan, torch.from_numpy(sizes_B2), reduce=False)

        for decoded in self._decoded(batches, want):
            yield self._batch(decoded, decoded.plan or decoded.fit(validation_plan(contract, decoded.sizes_B2, host)))

    def _draw(self, draws_B: np.ndarray, sizes_B2: Tensor, policy: Policy, epoch: Epoch) -> Plan:
        # On the host: a plan is some kilobytes, and drawing it on a GPU is a hundred launches.
        size = (epoch.height, epoch.width)
        return policy.draw(self._keys(draws_B), sizes_B2, *size, epoch.seed, epoch.number, epoch.mix)

    def _keys(self, draws_B: np.ndarray) -> Tensor:
        return torch.from_numpy(self.samples.draw_keys(draws_B))

    def _decoded(self, batches: Sequence[np.ndarray], want: WantRows) -> Iterator[Decoded]:
        stream = ImageStream(_Drawn(self.samples.paths), batches, self.decode, self.device, want)
        return self._noting(stream, iter(stream))

    def _noting(self, stream: ImageStream, running: Iterator[Decoded]) -> Iterator[Decoded]:
        """What the stream decodes; its bad files are remembered when it ends."""
        try:
            yield from running
        finally:
            self.quarantine |= stream.quarantine

    def _batch(self, decoded: Decoded, plan: Plan) -> Batch:
        images_BCHW = self._pass(decoded.images, plan)
        rows_B = self.samples.rows(decoded.rows_B)
        own_B = torch.from_numpy(self.samples.labels_N[rows_B]).to(self.device)
        partner_B = own_B if plan.partner_B is None else own_B[plan.partner_B.to(self.device)]
        return Batch(images_BCHW, own_B, partner_B, plan.own_share_B().to(self.device), rows_B)


def _complete(decoded: Iterator[Decoded], batches: Sequence[np.ndarray]) -> Iterator[tuple[Decoded, int]]:
    """For each of `batches` its size and what was decoded of it, else of the next one (at the end, of the last)."""
    latest: Decoded | None = None
    wanted = iter(batches)
    for latest in decoded:
        for draws in wanted:
            yield latest, len(draws)
            if np.isin(latest.rows_B, draws).all():
                break
    if latest is not None:
        yield from ((latest, len(draws)) for draws in wanted)


def _fill(decoded: Decoded, count: int) -> Decoded:
    """`decoded` with its images repeated in order until there are `count`."""
    have = len(decoded.rows_B)
    if have == count:
        return decoded
    return decoded.take(np.arange(count) % have)
