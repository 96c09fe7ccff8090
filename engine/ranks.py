"""Which process this is. torchrun starts the same command once per device and says so in the environment."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from engine.errors import EngineError
from engine.kernels import cpu_pass
from engine.system import cores, settle_environment

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process's rank among `world`, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def gather(self, piece: T) -> list[T]:
        """Every rank's `piece`, in rank order, on every rank."""
        if self.world == 1:
            return [piece]
        pieces = [piece] * self.world
        dist.all_gather_object(pieces, piece)
        return pieces

    def mean_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Set each tensor to its mean over the ranks. All ranks must ask."""
        if self.world == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= self.world

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on at least one rank. All ranks must ask."""
        if self.world == 1:
            return flag
        total = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(total)
        return total.item() > 0


def own_cores() -> int:
    """How many cores there are for this process: those it may use, shared out among the processes that torchrun has
    started on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """This process's place, from torchrun's environment: NCCL on GPUs, gloo on CPUs; alone without torchrun."""
    settle_environment()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if own_cores() < cores() and cpu_pass.available():
        cpu_pass.set_threads(own_cores())  # every process of this machine would take them all
    if world == 1:
        yield Ranks(0, 1, device)
        return
    # While one rank indexes millions of files the others wait, longer than the library's ten minutes.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[Ranks]:
    """This process on its device, for what ranks would each measure for themselves. Raises EngineError when torchrun
    started several."""
    with join_ranks() as ranks:
        if ranks.world > 1:
            raise EngineError(f"this command runs in one process, but torchrun started {ranks.world}: call it without")
        yield ranks
