"""Batches for a model: decoded images, a plan, one pass.

For a GPU a batch is finished by the thread that decodes, on a stream of its own, ahead of the model; on the CPU, where
the pass would take the model's cores, when it is asked for. It lies in memory that is used again, so it is valid until
the next one is asked for.

What a batch asks for are *draws*: of N samples, draw d is sample d % N for the (d // N + 1)-th time in its epoch (see
order.py). A sample that comes again is thereby augmented anew, and a plain row number is a first draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.extras import Extras
from engine.augment.mix import Labels, Taught
from engine.augment.policy import Policy
from engine.augment.views import PLAIN, View, view_plan
from engine.kernels import Plan
from engine.loader.assemble import Assembler
from engine.loader.decoded_cache import DecodedCache, Shelf
from engine.loader.passes import Buffer, BufferedPass, Name
from engine.loader.source import Source
from engine.loader.stream import Decoded, Draw, Finish, ImageStream
from engine.loader.supply import Supply, supply_for
from engine.quarantine import Fault, Quarantine
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import MixSection


@dataclasses.dataclass(frozen=True)
class Samples:
    """What a loader needs to know of N samples: their ids, where their bytes come from, 64-bit keys of their ids, class
    indices (-1: unknown). taught: where there is a teacher, what it says of all of them."""

    ids: Sequence[str]
    source: Source
    keys_N: np.ndarray  # int64
    labels_N: np.ndarray  # int64
    taught: Taught | None = None

    def rows(self, draws_B: np.ndarray) -> np.ndarray:
        """Which samples the draws are of."""
        return draws_B % len(self.ids)

    def draw_keys(self, draws_B: np.ndarray) -> np.ndarray:
        """The address of each draw's randomness: for a first draw the sample's key."""
        times_B = (draws_B // len(self.ids)).astype(np.uint64)
        keys_B = self.keys_N[self.rows(draws_B)].astype(np.uint64)
        return (keys_B + times_B * _STRIDE).astype(np.int64)  # wraps around


class Batch(NamedTuple):
    """Normalised images on the model's device with the labels that the pass has mixed."""

    images_BCHW: Tensor  # channels-last memory
    labels: Labels
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

    `dtype` is that of the images (float32, bfloat16 or float16); `executor` is the recipe's `augment.executor`; `cache`
    keeps decoded photos of these samples. Decoding begins at once, before the first batch is asked for. `supply`: what
    it shares with other loaders; by default with those around it that decode alike, see `shared_supplies`.
    """

    def __init__(
        self,
        samples: Samples,
        decode: DecodeSection,
        device: torch.device,
        executor: Name = "auto",
        dtype: torch.dtype = torch.float32,
        cache: DecodedCache | None = None,
        supply: Supply | None = None,
    ) -> None:
        self.samples = samples
        self.cache = cache
        self.decode = decode
        self.device = device
        self.quarantine = Quarantine()
        self._executor, self._dtype = executor, dtype
        self._assemble = self._assembler()
        self._supply = supply or supply_for(decode, device)

    def train(self, batches: Sequence[np.ndarray], policy: Policy, epoch: Epoch) -> Generator[Batch, None, None]:
        """Augmented batches of the draws in `batches`.

        A bad file's place in its batch is taken by another image of that batch, so that shapes stay the same; where
        all files of a batch are bad, by those of its neighbour, so that every rank takes the same number of steps.
        """

        def draw(draws_B: np.ndarray, sizes_B2: Tensor) -> Plan:
            return self._draw(draws_B, sizes_B2, policy, epoch)

        def make(decoded: Decoded, assemble: Assembler) -> Batch:
            return self._augmented(decoded, policy, epoch, assemble)

        shelf = self.cache.trained(policy, epoch.height, epoch.width) if self.cache is not None else None
        if self.device.type == "cuda":
            finish = self._finish(make, epoch.height, epoch.width, fill=True)
            return self._finished(self._stream(batches, draw, reduce=True, shelf=shelf), finish)
        filled = _filled(self._decoded(batches, draw, reduce=True, shelf=shelf), batches)
        return (self.augment(decoded, policy, epoch) for decoded in filled)

    def augment(self, decoded: Decoded, policy: Policy, epoch: Epoch) -> Batch:
        """One decoded batch, drawn unless it has a plan, and passed: valid until the next."""
        return self._augmented(decoded, policy, epoch, self._assemble)

    def valid(
        self, batches: Sequence[np.ndarray], contract: Contract, view: View = PLAIN
    ) -> Generator[Batch, None, None]:
        """One view of each image as it is scored and served; of a photo no more is decoded than the view shows. Bad
        files are missing from `rows_B`, and batches of nothing else are left out."""

        def draw(_: np.ndarray, sizes_B2: Tensor) -> Plan:
            return view_plan(view, contract, sizes_B2, torch.device("cpu"))

        def make(decoded: Decoded, assemble: Assembler) -> Batch:
            plan = decoded.plan or decoded.fit(draw(decoded.rows_B, decoded.sizes_B2))
            return self._batch(decoded, plan, None, assemble)

        shelf = None
        if self.cache is not None and view == PLAIN and len(batches):
            shelf = self.cache.scored(contract, self.samples.rows(np.concatenate(batches)))
        if self.device.type == "cuda":
            own = view.contract(contract)
            finish = self._finish(make, own.height, own.width, fill=False)
            return self._finished(self._stream(batches, draw, shelf=shelf), finish)
        seen = (decoded for decoded in self._decoded(batches, draw, shelf=shelf) if len(decoded.rows_B))
        return (make(each, self._assemble) for each in seen)

    def photos(self, batches: Sequence[np.ndarray]) -> Generator[Decoded, None, None]:
        """Whole photos, for several views of each; a batch may be used until the next is asked for. Bad files are
        missing from `rows_B`, and batches of nothing else are left out."""
        return (decoded for decoded in self._decoded(batches) if len(decoded.rows_B))

    def _draw(self, draws_B: np.ndarray, sizes_B2: Tensor, policy: Policy, epoch: Epoch) -> Plan:
        # On the host: a plan is some kilobytes, and drawing it on a GPU is a hundred launches.
        size = (epoch.height, epoch.width)
        return policy.draw(self._keys(draws_B), sizes_B2, *size, epoch.seed, epoch.number, epoch.mix)

    def _keys(self, draws_B: np.ndarray) -> Tensor:
        return torch.from_numpy(self.samples.draw_keys(draws_B))

    def _stream(
        self,
        batches: Sequence[np.ndarray],
        draw: Draw | None = None,
        reduce: bool = False,
        shelf: Shelf | None = None,
    ) -> ImageStream:
        return ImageStream(self.samples.source, batches, self.decode, self.device, draw, reduce, self._supply, shelf)

    def _decoded(
        self,
        batches: Sequence[np.ndarray],
        draw: Draw | None = None,
        reduce: bool = False,
        shelf: Shelf | None = None,
    ) -> Generator[Decoded, None, None]:
        return self._noting(iter(self._stream(batches, draw, reduce, shelf)))

    def _noting(self, running: Generator[Decoded, None, None]) -> Generator[Decoded, None, None]:
        """What is decoded; its bad files are put into the quarantine as they are met."""
        with closing(running):
            for decoded in running:
                self._note(decoded.faults)
                yield decoded

    def _finished(self, stream: ImageStream, finish: Finish) -> Generator[Batch, None, None]:
        running = stream.finished(finish)  # from here on, and not when the first batch is asked for

        def batches() -> Generator[Batch, None, None]:
            with closing(running):
                for batch, faults in running:
                    self._note(faults)
                    if batch is not None:
                        yield batch

        return batches()

    def _note(self, faults: Mapping[int, Fault]) -> None:
        for draw, fault in faults.items():
            row = draw % len(self.samples.ids)
            self.quarantine.add(self.samples.ids[row], fault, self.samples.source.where(row))

    def _finish(self, make: Callable[[Decoded, Assembler], Batch], height: int, width: int, fill: bool) -> Finish:
        """`make` in the thread and on the stream that decodes, with an assembler of its own: two streams may be at it
        at once."""

        def begin(buffer: Buffer) -> Callable[[Decoded], tuple[Batch, list[Tensor]]]:
            assemble = self._assembler(buffer)

            def made(decoded: Decoded) -> tuple[Batch, list[Tensor]]:
                batch = make(decoded, assemble)
                return batch, [batch.images_BCHW, *(one for one in batch.labels if isinstance(one, Tensor))]

            return made

        return Finish(begin, 3 * height * width * self._dtype.itemsize, fill)

    def _assembler(self, buffer: Buffer | None = None) -> Assembler:
        run = BufferedPass(self._executor, self.device, self._dtype, buffer)
        return Assembler(self.samples.labels_N, self.samples.taught, run)

    def _augmented(self, decoded: Decoded, policy: Policy, epoch: Epoch, assemble: Assembler) -> Batch:
        plan = decoded.plan or decoded.fit(self._draw(decoded.rows_B, decoded.sizes_B2, policy, epoch))
        extras = policy.extras(self._keys(decoded.rows_B), epoch.seed, epoch.number)
        return self._batch(decoded, plan, extras, assemble)

    def _batch(self, decoded: Decoded, plan: Plan, extras: Extras | None, assemble: Assembler) -> Batch:
        rows_B = self.samples.rows(decoded.rows_B)
        images_BCHW, labels = assemble(decoded.images, rows_B, plan, extras)
        return Batch(images_BCHW, labels, rows_B)


def _filled(decoded: Iterable[Decoded], batches: Sequence[np.ndarray]) -> Iterator[Decoded]:
    """For each of `batches` as many images as it asks for: what was decoded of it, else of the next one (at the end, of
    the last)."""
    latest: Decoded | None = None
    waiting: list[int] = []  # sizes of batches for which there is nothing yet
    for each, draws_B in zip(decoded, batches, strict=True):
        waiting.append(len(draws_B))
        if len(each.rows_B):
            yield from (each.repeated(count) for count in waiting)
            latest, waiting = each, []
    if latest is not None:
        yield from (latest.repeated(count) for count in waiting)
