"""What the engine's Triton kernels cost a GPU, found without one: instructions issued a pixel, registers, spills.

    python benchmarks/count_instructions.py --json benchmarks/results/instructions.json
    python benchmarks/count_instructions.py --kernels pass --targets 90 --lines 20     # where they are spent
    python benchmarks/count_instructions.py --all                                      # every variant: limits held?

Each variant in KERNELS is compiled by Triton for real targets (ptxas comes with it), disassembled, and its machine
code is followed on small inputs (`sass.py`), so that loops turn and branches are taken as the plan at hand has it. An
instruction is counted once for each thread of each warp that it is issued for: 32 for a warp, whatever the mask.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from rich.console import Console
from rich.table import Table
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import frame
from sass import Memory, Program, UnknownInstruction, pack_parameters, run_block

TARGETS = (80, 89, 90)
THREADS_A_SM = {80: 2048, 89: 1536, 90: 2048}
BLOCKS_A_SM = {80: 32, 89: 24, 90: 32}
SHARED_A_SM = {80: 164 << 10, 89: 100 << 10, 90: 228 << 10}
REGISTERS_A_SM = 65536
Argument = Tensor | int | float | None


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel's launch as the engine makes it, small enough to be followed: arguments by name, tensors on the host."""

    kernel: JITFunction[Any]
    arguments: Mapping[str, Argument]  # constexpr ones among them
    grid: tuple[int, ...]
    options: Mapping[str, Any]  # num_warps, num_stages and the like


@dataclasses.dataclass(frozen=True)
class Variant:
    """A launch of which `blocks`, places in the grid (x, y, z), are followed; together they make `pixels` of output.
    What it reads of launches `before` it, these write first: they are run whole, and not counted."""

    name: str
    launch: Launch
    blocks: Sequence[tuple[int, ...]]
    pixels: int
    before: Sequence[Launch] = ()
    reached: Sequence[Tensor] = ()  # tensors that the kernel finds by address, besides its arguments
    bytes_a_pixel: float = 0.0  # that cross the device's memory at the least: read once, written once
    most_registers: int = 255
    most_spilled: int = 0  # bytes
    most_instructions: float = math.inf  # a pixel


def launches(run: Callable[[], object]) -> list[Launch]:
    """The Triton kernels that `run` would launch, in turn; none is. Tensors may lie on the host."""
    found: list[Launch] = []

    def note(kernel: JITFunction[Any], *args: Argument, grid: Any, warmup: bool, **kwargs: Any) -> None:
        named = dict(zip(kernel.arg_names, args, strict=False))
        named |= {name: kwargs.pop(name) for name in list(kwargs) if name in kernel.arg_names}
        found.append(Launch(kernel, named, tuple(grid(named) if callable(grid) else grid), kwargs))

    before = triton.knobs.runtime.interpret  # not by mock: it does not put a knob back
    triton.knobs.runtime.interpret = True
    try:
        with mock.patch.object(JITFunction, "run", note):
            run()
    finally:
        triton.knobs.runtime.interpret = before
    return found


def compiled(launch: Launch, capability: int) -> tuple[Program, bytes, int]:
    """A launch's machine code, its parameters, and its shared memory in bytes: specialised as Triton does it."""
    signature, constants, attributes, parameters = {}, {}, {}, []
    for i, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        plain = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (_whole(value) and value == 1 and not plain):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        kind, bits = _typed(value)
        signature[parameter.name] = kind
        parameters.append((kind, bits))
        if not plain and isinstance(bits, int) and bits % 16 == 0:
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, GPUTarget("cuda", capability, 32), dict(launch.options))
    return Program.of(made.asm["cubin"], capability), pack_parameters(parameters), made.metadata.shared


def tensors_of(launch: Launch) -> list[Tensor]:
    return [value for value in launch.arguments.values() if isinstance(value, Tensor)]


def run(launch: Launch, capability: int, reached: Sequence[Tensor] = ()) -> None:
    """All blocks of a launch, one after the other: what it writes is then in its tensors."""
    program, parameters, shared_bytes = compiled(launch, capability)
    memory = Memory([*reached, *tensors_of(launch)])
    width, height, depth = (*launch.grid, 1, 1)[:3]
    for place in np.ndindex(depth, height, width):
        run_block(program, parameters, memory, place[::-1], launch.options.get("num_warps", 4), shared_bytes)


def _whole(value: Argument) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.uint8: "*u8"}
_KINDS |= {torch.int32: "*i32", torch.int64: "*i64", torch.int16: "*i16"}


def _typed(value: Argument) -> tuple[str, int | float]:
    if isinstance(value, Tensor):
        return _KINDS[value.dtype], value.data_ptr()
    if isinstance(value, float):
        return "fp32", value
    assert isinstance(value, int)
    return ("i32" if -(2**31) <= value < 2**31 else "i64"), value


# --- figures ----------------------------------------------------------------------------------------------------------


def pipe_of(name: str) -> str:
    """The part of an SM that does an instruction; special ones are MUFU and conversions."""
    for pipe, names in _PIPES.items():
        if name in names:
            return pipe
    return "uniform" if name.startswith("U") else "alu"


_PIPES = {
    "fma": ("FADD", "FMUL", "FFMA", "IMAD", "HFMA2", "HADD2", "HMUL2"),
    "special": ("MUFU", "F2I", "I2F", "FRND", "F2F", "POPC", "FLO", "S2R", "S2UR"),
    "memory": ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LD", "ST", "LDC", "ULDC", "SHFL", "ATOMG", "RED"),
    "control": ("BRA", "BRX", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "BAR", "WARPSYNC", "NOP", "BREAK", "YIELD"),
    "uniform": ("R2UR", "REDUX", "VOTEU"),
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What its maker says of it."""

    capability: int
    sms: int
    boost_ghz: float
    memory_gb_s: float
    fma_lanes: int  # of an SM


GPUS = {
    "A100": Gpu(80, 108, 1.41, 2039, 64),
    "L4": Gpu(89, 58, 2.04, 300, 128),
    "H100": Gpu(90, 132, 1.98, 3350, 128),
}
COPIED = 0.9  # of the memory's rate, what a copy reaches
# Threads a clock of an SM's parts: all that is issued, and what each does. Conversions are counted among MUFU's 16, the
# lowest rate that is reported for them.
LANES = {"issue": 128, "alu": 64, "special": 16, "memory": 32}


def bound(row: Mapping[str, Any], gpu: Gpu) -> tuple[str, float]:
    """What a kernel waits for most on a GPU if nothing else holds it up, and, of the rate at which the GPU copies
    memory, the share that it then reaches."""
    needs = {"issue": row["instructions"], **{name: row["pipes"].get(name, 0) for name in ("alu", "special", "memory")}}
    clocks = {name: needs[name] / LANES[name] for name in LANES} | {"fma": row["pipes"].get("fma", 0) / gpu.fma_lanes}
    copied_s = row["bytes"] / (gpu.memory_gb_s * 1e9 * COPIED)
    seconds = {name: clock / (gpu.sms * gpu.boost_ghz * 1e9) for name, clock in clocks.items()} | {"copy": copied_s}
    part = max(seconds, key=lambda name: seconds[name])
    return part, copied_s / seconds[part]


def gpu_of(row: Mapping[str, Any]) -> tuple[str, Gpu]:
    return next((name, gpu) for name, gpu in GPUS.items() if f"sm_{gpu.capability}" == row["target"])


def occupancy(program: Program, warps: int, shared_bytes: int) -> float:
    """The share of an SM's threads that can be there at once."""
    target = program.capability
    each = -(-program.registers * 32 // 256) * 256 * warps  # registers are given by 256 to a warp
    blocks = min(BLOCKS_A_SM[target], REGISTERS_A_SM // max(each, 1), THREADS_A_SM[target] // (32 * warps))
    blocks = min(blocks, SHARED_A_SM[target] // (max(shared_bytes, program.shared_bytes) + 1024))
    return blocks * 32 * warps / THREADS_A_SM[target]


def counted(variant: Variant, capability: int, lines: int = 0) -> dict[str, Any]:
    """A row: what the variant costs on a target."""
    launch, warps = variant.launch, variant.launch.options.get("num_warps", 4)
    program, parameters, shared_bytes = compiled(launch, capability)
    row: dict[str, Any] = {
        "variant": variant.name,
        "target": f"sm_{capability}",
        "registers": program.registers,
        "spilled_bytes": program.stack_bytes,
        "occupancy": round(occupancy(program, warps, shared_bytes), 3),
        "code": len([one for one in program.instructions if one.name != "NOP"]),
    }
    if not variant.blocks:
        return row
    counts = np.zeros(len(program.instructions), dtype=np.int64)
    memory = Memory([*variant.reached, *tensors_of(launch)])
    try:
        for earlier in variant.before:
            run(earlier, capability, variant.reached)
        for block in variant.blocks:
            counts += run_block(program, parameters, memory, block, warps, shared_bytes)
    except UnknownInstruction as error:
        return {**row, "not_followed": str(error)}
    per = 32 / variant.pixels
    pipes: Counter[str] = Counter()
    at: Counter[str] = Counter()
    for one, count in zip(program.instructions, counts.tolist(), strict=True):
        pipes[pipe_of(one.name)] += count
        at[one.line] += count
    row["instructions"] = round(float(counts.sum()) * per, 1)
    row["pipes"] = {name: round(count * per, 1) for name, count in sorted(pipes.items())}
    if variant.bytes_a_pixel:
        row["bytes"] = round(variant.bytes_a_pixel, 1)
    if lines:
        row["lines"] = {line: round(count * per, 1) for line, count in at.most_common(lines)}
    return row


def beyond(variant: Variant, row: Mapping[str, Any]) -> list[str]:
    """Which of its limits a variant's row does not keep."""
    limits = {
        "registers": variant.most_registers,
        "spilled_bytes": variant.most_spilled,
        "instructions": variant.most_instructions,
    }
    return [f"{name}: {row[name]}, at most {most}" for name, most in limits.items() if row.get(name, 0) > most]


# --- the kernels ------------------------------------------------------------------------------------------------------


def passes(every: bool) -> Iterable[Variant]:
    from pass_variants import all_variants, counted_variants

    return all_variants() if every else counted_variants()


def extras(every: bool) -> Iterable[Variant]:
    from extras_variants import variants

    return variants()


def network(every: bool) -> Iterable[Variant]:
    import network_kernels

    return (Variant(**fields) for fields in network_kernels.network(every, launches))


# Name -> what makes its variants: those to be followed, or, asked for `every`, all that can be compiled. A kernel's
# owner adds a line.
KERNELS: dict[str, Callable[[bool], Iterable[Variant]]] = {"pass": passes, "extras": extras, "network": network}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", default=",".join(KERNELS), help="which, separated by commas")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--targets", default=",".join(map(str, TARGETS)), help="compute capabilities")
    parser.add_argument("--lines", type=int, default=0, help="show so many lines of source by what they cost")
    parser.add_argument("--all", action="store_true", help="every variant: compiled, not followed, held to its limits")
    frame.json_option(parser)
    options = parser.parse_args()
    rows, faults = [], []
    for name in options.kernels.split(","):
        for variant in KERNELS[name](options.all):
            for target in options.targets.split(",") if options.only in variant.name else ():
                row = counted(variant, int(target), options.lines)
                rows.append({"kernel": name} | row)
                faults += [f"{name}, {variant.name}, sm_{target}: {fault}" for fault in beyond(variant, row)]
                print(
                    f"{name}, {variant.name}, sm_{target}: {row.get('instructions', '')}", file=sys.stderr, flush=True
                )
    Console(width=130).print(shown(rows))
    settings = {"gpus": {name: dataclasses.asdict(gpu) for name, gpu in GPUS.items()}, "copied": COPIED, "lanes": LANES}
    frame.finish(frame.result(rows, settings | {"triton": triton.__version__}), options.json)
    if faults:
        sys.exit("\n".join(["limits that do not hold:", *faults]))


def shown(rows: Iterable[Mapping[str, Any]]) -> Table:
    headings = ["kernel", "variant", "target", "registers", "spilled", "occupancy", "instructions a pixel", "bound by"]
    lines = []
    for row in rows:
        cells = [str(row[name]) for name in ("kernel", "variant", "target", "registers", "spilled_bytes")]
        limit = ""
        if "bytes" in row:
            name, gpu = gpu_of(row)
            part, share = bound(row, gpu)
            limit = f"{part}, {share:.0%} of copying ({name})"
        figure = str(row.get("instructions", row.get("not_followed", "")))
        lines.append([*cells, f"{row['occupancy']:.0%}", figure, limit])
    return frame.table("", [*headings], lines, words=3)


if __name__ == "__main__":
    main()
