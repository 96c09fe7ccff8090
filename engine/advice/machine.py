"""The machine a recipe is suggested for, as far as the suggestion depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.system import GIB, cores, total_host_bytes

_UNKNOWN = 8 * GIB  # where no system says how much there is


@dataclass(frozen=True)
class Machine:
    """`gpu`: its name, "" for none. `memory`: bytes in all, of the GPU, or of main memory where there is none."""

    gpu: str
    memory: int
    cores: int
    bf16: bool

    def __str__(self) -> str:
        if self.gpu:
            return f"{self.gpu} with {self.memory / GIB:.0f} GiB"
        return (
            f"{self.cores} CPU core{'s' if self.cores > 1 else ''} without a GPU, {self.memory / GIB:.0f} GiB of memory"
        )


def this_machine() -> Machine:
    """What there is here. Of several GPUs the first: each process of torchrun has one."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(properties.name, properties.total_memory, cores(), bf16)
    return Machine("", total_host_bytes() or _UNKNOWN, cores(), False)
