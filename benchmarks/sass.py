"""Machine code of NVIDIA GPUs, run without one: what a compiled kernel issues, and what it computes.

    program = Program.of(compiled.asm["cubin"])
    counts = run_block(program, parameters, memory, block=(0, 3), warps=4)   # warp instructions by address

A kernel's cost depends on the way it takes: how often its loops turn, which branches a plan spares it. The compiled
code knows that, its listing alone does not. So the listing that `nvdisasm` (it comes with Triton) makes of a cubin is
followed here, thread by thread, on the host's own memory: numpy does each instruction for all threads of a block that
stand at it. Every address is checked against the tensors that the kernel was given.

Known are the instructions that ptxas makes of element-wise kernels for sm_80 to sm_90: integers, float32, conversions,
loads and stores, shuffles, reductions within a warp, barriers. Another one (tensor cores, asynchronous copies) raises
`UnknownInstruction` with its text when it is met. How an instruction counts follows NVIDIA's SM: one issue for each
warp that has at least one thread at it. A fused multiply-add is computed in float64 and rounded once more, and
approximations (MUFU) are exact here: the last bit may differ from a GPU's.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_RZ, _URZ, _PT = 255, 63, 7
_STRANGE = 0xEE
_LIMIT = 2_000_000  # instructions of one block: more is a loop without an end
_READY, _AT_BARRIER, _EXITED = -1, -2, -3  # a thread's state; 0 and above: waits at that convergence barrier
Lanes = np.ndarray


class UnknownInstruction(NotImplementedError):
    """The program comes to an instruction that is not known here."""


class IllegalAddress(Exception):
    """The program reads or writes what is none of the tensors that it was given."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # "", "P0", "!UP1"
    name: str  # of the operation without its modifiers: "IMAD"
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    text: str
    line: str  # "triton_pass.py:123" where the cubin knows

    def has(self, modifier: str) -> bool:
        return modifier in self.modifiers


# --- the listing ------------------------------------------------------------------------------------------------------

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.a-z]*)\s*(.*?)\s*;", re.M)
_LINE = re.compile(r'//## File "([^"]+)", line (\d+)(.*)')
_LABEL = re.compile(r"^(\.?[\w.$]+):")


@dataclasses.dataclass(frozen=True)
class Program:
    """The code of the one kernel in a cubin."""

    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]  # to addresses
    constants: bytes  # of bank 2 (sm_90: and of bank 4)
    capability: int  # 80, 90
    registers: int
    stack_bytes: int
    shared_bytes: int  # static

    @staticmethod
    @cache
    def of(cubin: bytes, capability: int) -> Program:
        """Disassembled, of a cubin for compute capability `capability` (90)."""
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            listing = _tool("nvdisasm", "-c", "-g", file.name)
            usage = _tool("cuobjdump", "-res-usage", file.name)
        instructions, labels = _parse(listing)
        found = {name: int(n) for name, n in re.findall(r"\b(REG|STACK|SHARED):(\d+)", usage)}
        constants = _section(cubin, ".nv.constant2.")
        return Program(instructions, labels, constants, capability, found["REG"], found["STACK"], found["SHARED"])

    @cached_property
    def places(self) -> dict[int, int]:
        """An address's place among the instructions."""
        return {one.address: i for i, one in enumerate(self.instructions)}

    @property
    def parameters_at(self) -> int:
        """Where in constant bank 0 the kernel's parameters begin."""
        return 0x210 if self.capability >= 90 else 0x160


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def _parse(listing: str) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    line = ""
    code = False
    for text in listing.splitlines():
        if text.startswith("//-----"):
            code = ".text." in text
        if not code:
            continue
        if found := _LINE.search(text):
            if "inlined at" not in found[3] or not line:
                line = f"{Path(found[1]).name}:{found[2]}"
        elif found := _LABEL.match(text):
            waiting.append(found[1])
        elif found := _INSTRUCTION.match(text):
            address = int(found[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting.clear()
            name, *modifiers = found[3].split(".")
            rest = re.sub(r"\s*\(\*.*", "", found[4])
            operands = tuple(part.strip() for part in rest.split(",")) if rest else ()
            body = f"{found[3]} {rest}".strip()
            instructions.append(Instruction(address, found[2] or "", name, tuple(modifiers), operands, body, line))
    return tuple(instructions), labels


def _section(elf: bytes, prefix: str) -> bytes:
    """The content of the first section whose name begins so; nothing where there is none."""
    (table_at,) = struct.unpack_from("<Q", elf, 0x28)
    entry, count, names = struct.unpack_from("<HHH", elf, 0x3A)

    def header(i: int) -> tuple[int, int, int]:
        name, _, _, _, start, size = struct.unpack_from("<IIQQQQ", elf, table_at + i * entry)
        return name, start, size

    names_at = header(names)[1]
    for i in range(count):
        name, start, size = header(i)
        end = elf.index(b"\0", names_at + name)
        if elf[names_at + name : end].decode().startswith(prefix):
            return elf[start : start + size]
    return b""


# --- memory -----------------------------------------------------------------------------------------------------------


class Memory:
    """The tensors that a kernel may reach, by their addresses on the host."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        whole = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.numel()}
        self._starts = np.array(sorted(whole), dtype=np.uint64)
        bytes_of = [torch.empty(0, dtype=torch.uint8).set_(whole[int(start)]) for start in self._starts]
        self._bytes = [t.numpy() for t in bytes_of]
        self._ends = self._starts + np.array([len(b) for b in self._bytes], dtype=np.uint64)

    def _where(self, addresses: Lanes, size: int, spare: int = 0) -> Lanes:
        place = np.searchsorted(self._starts, addresses + np.uint64(spare), side="right") - 1
        wrong = (place < 0) | (addresses + np.uint64(size) > self._ends[place] + np.uint64(spare))
        if wrong.any():
            raise IllegalAddress(f"{size} bytes at {int(addresses[wrong][0]):#x} are in none of the kernel's tensors")
        if (addresses % np.uint64(size)).any():
            raise IllegalAddress(f"{size} bytes at {int(addresses[0]):#x} and others: not aligned")
        return place

    def read(self, addresses: Lanes, size: int) -> Lanes:
        """(N, size) bytes at N addresses. An aligned word may begin before a tensor, or end behind it, as no allocation
        does on a GPU; what is not the tensor's is then `_STRANGE`."""
        place = self._where(addresses, size, spare=3 if size == 4 else 0)
        made = np.empty((len(addresses), size), dtype=np.uint8)
        for one in np.unique(place):
            here = place == one
            at = (addresses[here].astype(np.int64) - int(self._starts[one]))[:, None] + np.arange(size)
            own = (at >= 0) & (at < len(self._bytes[one]))
            made[here] = np.where(own, self._bytes[one][np.where(own, at, 0)], _STRANGE)
        return made

    def write(self, addresses: Lanes, content: Lanes) -> None:
        place = self._where(addresses, content.shape[1])
        for one in np.unique(place):
            here = place == one
            at = (addresses[here] - self._starts[one]).astype(np.int64)
            self._bytes[one][at[:, None] + np.arange(content.shape[1])] = content[here]


# --- running ----------------------------------------------------------------------------------------------------------


def run_block(
    program: Program,
    parameters: bytes,
    memory: Memory,
    block: Sequence[int] = (0,),
    warps: int = 4,
    shared_bytes: int = 0,
) -> Lanes:
    """Run one block (`block`: its place in the grid, x first) to its end: warp instructions issued, by place in
    `program.instructions`. `parameters` are the kernel's, packed as `pack_parameters` does.

    Raises UnknownInstruction and IllegalAddress, with the instruction.
    """
    return _Block(program, parameters, memory, block, warps, shared_bytes).run()


class _Block:
    def __init__(
        self,
        program: Program,
        parameters: bytes,
        memory: Memory,
        block: Sequence[int],
        warps: int,
        shared_bytes: int,
    ) -> None:
        self.program, self.memory = program, memory
        self.block = [*block, 0, 0][:3]
        self.lanes = 32 * warps
        self.warp = np.arange(self.lanes) // 32
        self.R = np.zeros((256, self.lanes), dtype=np.uint32)
        self.U = np.zeros((64, self.lanes), dtype=np.uint32)
        self.P = np.zeros((8, self.lanes), dtype=bool)
        self.UP = np.zeros((8, self.lanes), dtype=bool)
        self.P[_PT] = self.UP[_PT] = True
        self.pc = np.zeros(self.lanes, dtype=np.int64)
        self.state = np.full(self.lanes, _READY)
        self.joins = np.zeros((16, self.lanes), dtype=bool)  # who takes part in a convergence barrier
        head = bytearray(program.parameters_at)
        struct.pack_into("<I", head, 0x28, program.stack_bytes + 1024)  # where the stack begins, downwards
        self.bank0 = bytes(head) + parameters + bytes(64)
        self.shared = np.zeros(max(shared_bytes, program.shared_bytes) + 4096, dtype=np.uint8)
        self.local = np.zeros((self.lanes, program.stack_bytes + 2048), dtype=np.uint8)
        self.active = np.zeros(self.lanes, dtype=bool)

    def run(self) -> Lanes:
        counts = np.zeros(len(self.program.instructions), dtype=np.int64)
        for _ in range(_LIMIT):
            ready = self.state == _READY
            if not ready.any():
                if (self.state == _EXITED).all():
                    return counts
                raise RuntimeError("the block waits for itself: threads stand at different barriers")
            place = int(self.pc[ready].min())
            there = ready & (self.pc == place)
            one = self.program.instructions[place]
            counts[place] += len(np.unique(self.warp[there]))
            try:
                self._step(one, there)
            except (UnknownInstruction, IllegalAddress) as error:
                raise type(error)(f"{error}, in {one.text!r} ({one.line}, {one.address:#x})") from None
        raise RuntimeError(f"more than {_LIMIT:,} instructions")

    def _step(self, one: Instruction, there: Lanes) -> None:
        self.pc[there] += 1
        self.active = there
        if one.guard:
            self.active = there & self._predicate(one.guard)
        if one.name[0] == "U" or one.name in ("S2UR", "R2UR", "REDUX"):
            if not self.active.any():
                return
            self.active = np.isin(self.warp, self.warp[self.active])  # uniform registers are the warp's
        do = _OPERATIONS.get(one.name) or _OPERATIONS.get(_PLAIN.get(one.name, ""))
        if do is None:
            raise UnknownInstruction("not known here")
        if self.active.any():
            do(self, one)

    # -- operands

    def _predicate(self, text: str) -> Lanes:
        name = text.lstrip("!")
        bank = self.UP if name[0] == "U" else self.P
        number = name.lstrip("UP")
        value = bank[_PT if number == "T" else int(number)]
        return ~value if text[0] == "!" else value

    def set_predicate(self, text: str, value: Lanes) -> None:
        number = text.lstrip("UP")
        if number != "T":
            bank = self.UP if text[0] == "U" else self.P
            bank[int(number)][self.active] = np.broadcast_to(value, self.active.shape)[self.active]

    def bits(self, text: str, high: bool = False) -> Lanes:
        """An operand's 32 bits, without its sign; with `high` of the register behind it."""
        text = text.replace(".reuse", "")
        bare = text.strip("-~|+").split(".")[0]
        bare = text.lstrip("-~|+").rstrip("|") if text.lstrip("-~|+")[:1].isdigit() or "c[" in text else bare.strip("|")
        if found := re.fullmatch(r"(U?)R(\d+|Z)", bare):
            bank, zero = (self.U, _URZ) if found[1] else (self.R, _RZ)
            number = zero if found[2] == "Z" else int(found[2])
            return bank[number + (high and number != zero)]
        if bare == "SRZ":
            return np.zeros(self.lanes, dtype=np.uint32)
        if found := re.fullmatch(r"c\[0x([0-9a-f]+)\]\[(.*)\]", bare):
            return self._constant(int(found[1], 16), found[2], 4 if high else 0)
        return np.full(self.lanes, 0 if high else _immediate(text), dtype=np.uint32)

    def _constant(self, bank: int, place: str, more: int) -> Lanes:
        content = self.bank0 if bank == 0 else self.program.constants
        at = self._address(place) + more
        words = np.zeros(self.lanes, dtype=np.uint32)
        for lane in np.flatnonzero(self.active):
            (words[lane],) = struct.unpack_from("<I", content, int(at[lane]))
            if (at == at[lane]).all():
                words[:] = words[lane]
                break
        return words

    def _address(self, text: str) -> Lanes:
        """R2.64+UR4+0x1 and the like: int64."""
        total = np.zeros(self.lanes, dtype=np.int64)
        for part in re.findall(r"[+-]?[^+-]+", text):
            body = part.lstrip("+-").strip()
            if body.startswith("0x"):
                total += int(body, 16) * (-1 if part[0] == "-" else 1)
            elif ".X" in body or ".x" in body.lower():
                raise UnknownInstruction("scaled addresses are not known here")
            else:
                wide = ".64" in body or (body[0] == "U" and ".64" in text)
                value = self.bits(body).astype(np.int64)
                if wide:
                    value |= self.bits(body, high=True).astype(np.int64) << 32
                total += value
        return total

    def integer(self, text: str) -> Lanes:
        """As uint64 of 32 bits or, where negated, 33: so that a carry comes out right."""
        value = self.bits(text).astype(np.uint64)
        if text[0] == "~":
            return value ^ np.uint64(0xFFFFFFFF)
        if text[0] == "-" and not text[1:].startswith("0x"):
            return np.uint64(1 << 32) - value
        return value

    def signed(self, text: str) -> Lanes:
        return (self.integer(text) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32).astype(np.int64)

    def unsigned(self, text: str) -> Lanes:
        return (self.integer(text) & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def pair(self, text: str) -> Lanes:
        """64 bits from a register and the next, as int64."""
        low, high = self.bits(text).astype(np.uint64), self.bits(text, high=True).astype(np.uint64)
        value = (low | high << np.uint64(32)).view(np.int64)
        return -value if text[0] == "-" else value

    def number(self, text: str) -> Lanes:
        """As float32, its sign and bars applied."""
        value = self.bits(text).view(np.float32)
        if "|" in text:
            value = np.abs(value)
        return -value if text[0] == "-" and not _is_immediate(text) else value

    # -- results

    def put(self, text: str, value: Lanes) -> None:
        found = re.fullmatch(r"(U?)R(\d+|Z)", text.replace(".reuse", ""))
        if found is None:
            raise UnknownInstruction(f"{text} is no register")
        if found[2] != "Z":
            bank = self.U if found[1] else self.R
            if value.dtype != np.uint32:
                value = (
                    value.astype(np.int64).astype(np.uint64).astype(np.uint32)
                    if value.dtype != np.uint64
                    else (value & np.uint64(0xFFFFFFFF)).astype(np.uint32)
                )
            bank[int(found[2])][self.active] = np.broadcast_to(value, self.active.shape)[self.active]

    def put_pair(self, text: str, value: Lanes) -> None:
        value = value.view(np.uint64) if value.dtype == np.int64 else value
        self.put(text, value & np.uint64(0xFFFFFFFF))
        found = re.match(r"(U?R)(\d+)", text)
        if found:
            self.put(f"{found[1]}{int(found[2]) + 1}", value >> np.uint64(32))

    def put_number(self, text: str, value: Lanes, one: Instruction) -> None:
        if one.has("SAT"):
            value = np.where(np.isnan(value), 0, np.clip(value, 0, 1))
        self.put(text, value.astype(np.float32).view(np.uint32))

    # -- going on

    def go(self, place: int) -> None:
        self.pc[self.active] = place

    def release(self) -> None:
        """Let go on who waits for nobody any more."""
        alive = self.state != _EXITED
        if (self.state[alive] == _AT_BARRIER).all():
            self.state[alive] = _READY
        for number in np.unique(self.state[self.state >= 0]):
            for warp in np.unique(self.warp[self.state == number]):
                members = self.joins[number] & (self.warp == warp) & alive
                if (self.state[members] == number).all():
                    self.state[members] = _READY


def _is_immediate(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(0x[0-9a-f]+|\d[\d.e+-]*|INF|QNAN|SNAN)", text))


def _immediate(text: str) -> int:
    sign = -1 if text[0] == "-" else 1
    body = text.lstrip("-+~|").rstrip("|")
    if body.startswith("0x"):
        return sign * int(body, 16) & 0xFFFFFFFF
    if body in ("QNAN", "SNAN"):
        return 0x7FC00000 | (0x80000000 if sign < 0 else 0)
    value = np.float32(sign * (np.inf if body == "INF" else float(body)))
    if sign < 0 and value == 0:
        value = np.float32(-0.0)
    return int(value.view(np.uint32))


# --- the operations ---------------------------------------------------------------------------------------------------

_OPERATIONS: dict[str, Callable[[_Block, Instruction], None]] = {}
# Names that do what others do: of the uniform datapath, and newer ones.
_PLAIN = {
    **{f"U{name}": name for name in ("IADD3", "IMAD", "ISETP", "LEA", "MOV", "SEL", "LOP3", "PLOP3", "SHF", "PRMT")},
    **{f"U{name}": name for name in ("SGXT", "FLO", "POPC", "BREV", "BMSK")},
    "VIMNMX": "IMNMX",
    "UIMNMX": "IMNMX",
    "S2UR": "S2R",
    "FRND": "FRND",
    "LDC": "ULDC",
    "CS2UR": "CS2R",
}


def _operation(*names: str) -> Callable[[Callable[[_Block, Instruction], None]], Callable[[_Block, Instruction], None]]:
    def note(do: Callable[[_Block, Instruction], None]) -> Callable[[_Block, Instruction], None]:
        _OPERATIONS.update(dict.fromkeys(names, do))
        return do

    return note


@_operation("NOP", "DEPBAR", "ERRBAR", "MEMBAR", "CCTL", "FENCE", "BMOV", "ACQBULK", "YIELD")
def _nothing(b: _Block, one: Instruction) -> None:
    if one.name == "BMOV":
        raise UnknownInstruction("not known here")


def _is_predicate(text: str) -> bool:
    return bool(re.fullmatch(r"!?U?P(\d|T)", text))


def _parted(one: Instruction) -> tuple[str, list[str], list[str]]:
    """Destination, predicates written, and the rest, of an operation that may write carries."""
    to, *rest = one.operands
    out = []
    while rest and _is_predicate(rest[0]):
        out.append(rest.pop(0))
    return to, out, rest


# floats


@_operation("FADD")
def _fadd(b: _Block, one: Instruction) -> None:
    to, x, y = one.operands
    b.put_number(to, b.number(x) + b.number(y), one)


@_operation("FMUL")
def _fmul(b: _Block, one: Instruction) -> None:
    to, x, y = one.operands
    b.put_number(to, b.number(x) * b.number(y), one)


@_operation("FFMA")
def _ffma(b: _Block, one: Instruction) -> None:
    to, x, y, z = one.operands
    product = b.number(x).astype(np.float64) * b.number(y).astype(np.float64)
    b.put_number(to, product + b.number(z), one)


@_operation("FMNMX")
def _fmnmx(b: _Block, one: Instruction) -> None:
    to, x, y, least = one.operands
    x_, y_ = b.number(x), b.number(y)
    b.put_number(to, np.where(b._predicate(least), np.fmin(x_, y_), np.fmax(x_, y_)), one)


@_operation("FSEL")
def _fsel(b: _Block, one: Instruction) -> None:
    to, x, y, which = one.operands
    b.put_number(to, np.where(b._predicate(which), b.number(x), b.number(y)), one)


_COMPARE: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}
_JOIN: dict[str, Callable[[Lanes, Lanes], Lanes]] = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


def _compared(b: _Block, one: Instruction, x: str, y: str) -> Lanes:
    names = [m for m in one.modifiers if m not in ("FTZ", "BF")]
    x_, y_ = b.number(x), b.number(y)
    unordered = np.isnan(x_) | np.isnan(y_)
    if names[0] in ("NUM", "NAN"):
        return ~unordered if names[0] == "NUM" else unordered
    found: Lanes = _COMPARE[names[0][:2]](x_, y_)
    return found | unordered if names[0].endswith("U") else found & ~unordered


@_operation("FSETP")
def _fsetp(b: _Block, one: Instruction) -> None:
    to, other, x, y, more = one.operands
    join = _JOIN[next(m for m in one.modifiers if m in _JOIN)]
    found, old = _compared(b, one, x, y), b._predicate(more).copy()
    b.set_predicate(to, join(found, old))
    b.set_predicate(other, join(~found, old))


@_operation("FSET")
def _fset(b: _Block, one: Instruction) -> None:
    to, x, y, more = one.operands
    found = _compared(b, one, x, y) & b._predicate(more)
    b.put(to, found.astype(np.float32).view(np.uint32) if one.has("BF") else np.where(found, 0xFFFFFFFF, 0))


@_operation("MUFU")
def _mufu(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    rules: dict[str, Callable[[Lanes], Lanes]] = {
        "RCP": lambda v: 1 / v,
        "RSQ": lambda v: 1 / np.sqrt(v),
        "SQRT": np.sqrt,
        "EX2": np.exp2,
        "LG2": np.log2,
        "SIN": lambda v: np.sin(v * 1.0),
        "COS": lambda v: np.cos(v * 1.0),
        "TANH": np.tanh,
    }
    if one.modifiers[0] not in rules:
        raise UnknownInstruction("not known here")
    b.put_number(to, rules[one.modifiers[0]](b.number(x).astype(np.float64)), one)


_ROUND: dict[str, Callable[[Lanes], Lanes]] = {"FLOOR": np.floor, "CEIL": np.ceil, "TRUNC": np.trunc}


def _rounded(b: _Block, one: Instruction, value: Lanes) -> Lanes:
    for name, rule in _ROUND.items():
        if one.has(name):
            return rule(value)
    return np.rint(value)


@_operation("FRND")
def _frnd(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    b.put_number(to, _rounded(b, one, b.number(x)), one)


@_operation("F2I", "F2IP")
def _f2i(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    low, high = (0, 2**32 - 1) if one.has("U32") else (-(2**31), 2**31 - 1)
    value = _rounded(b, one, b.number(x).astype(np.float64))
    b.put(to, np.clip(np.nan_to_num(value, nan=0.0, posinf=high, neginf=low), low, high).astype(np.int64))


@_operation("I2F", "I2FP")
def _i2f(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    value = b.unsigned(x.split(".B")[0].split(".H")[0])
    width = 32
    for name in one.modifiers:
        width = {"U8": 8, "S8": 8, "U16": 16, "S16": 16}.get(name, width)
    if found := re.search(r"\.(B|H)(\d)", x):
        value = value >> (int(found[2]) * (8 if found[1] == "B" else 16))
    value = value & (2**width - 1)
    if not any(m.startswith("U") for m in one.modifiers):
        value = np.where(value >= 2 ** (width - 1), value - 2**width, value)
    b.put(to, value.astype(np.float64).astype(np.float32).view(np.uint32))


@_operation("F2FP")
def _f2fp(b: _Block, one: Instruction) -> None:
    to, high, low = one.operands
    kind = torch.bfloat16 if one.has("BF16") else torch.float16

    def half(x: str) -> Lanes:
        value = torch.from_numpy(np.ascontiguousarray(b.number(x)))
        return value.to(kind).view(torch.int16).numpy().view(np.uint16).astype(np.uint32)

    b.put(to, half(high) << np.uint32(16) | half(low))


@_operation("F2F")
def _f2f(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    match one.modifiers[:2]:
        case ("F16", "F32") | ("BF16", "F32"):
            kind = torch.float16 if one.modifiers[0] == "F16" else torch.bfloat16
            value = torch.from_numpy(np.ascontiguousarray(b.number(x))).to(kind).view(torch.int16).numpy()
            b.put(to, value.view(np.uint16).astype(np.uint32))
        case _:
            raise UnknownInstruction("not known here")


@_operation("HFMA2")
def _hfma2(b: _Block, one: Instruction) -> None:
    """Only as ptxas uses it for constants: two halves from 0 * 0 + constant."""
    to, x, y, high, low = (*one.operands, "")[:5]
    if {x.lstrip("-").replace(".reuse", ""), y.replace(".reuse", "")} != {"RZ"} or not low:
        raise UnknownInstruction("not known here")
    halves = [int(np.float16(float(t)).view(np.uint16)) for t in (high, low)]
    b.put(to, np.full(b.lanes, halves[0] << 16 | halves[1], dtype=np.uint32))


# integers


@_operation("IMAD")
def _imad(b: _Block, one: Instruction) -> None:
    to, out, (x, y, z, *carry) = _parted(one)
    if one.has("WIDE") or one.has("HI"):
        read = b.unsigned if one.has("U32") else b.signed
        product = (read(x) * read(y)).astype(np.int64)
        added = b.pair(z)
        total = product.view(np.uint64) + added.view(np.uint64)
        if out:
            b.set_predicate(out[0], total < product.view(np.uint64))
        if one.has("HI"):
            b.put(to, (total.view(np.int64) >> 32) if not one.has("U32") else total >> np.uint64(32))
        else:
            b.put_pair(to, total)
        return
    total = (b.unsigned(x) * b.unsigned(y)).view(np.uint64) + b.integer(z)
    if one.has("X") and carry:
        total = total + b._predicate(carry[0])
    b.put(to, total)


@_operation("IADD3", "VIADD", "IADD")
def _iadd3(b: _Block, one: Instruction) -> None:
    to, out, rest = _parted(one)
    values = [text for text in rest if not _is_predicate(text)]
    total = sum((b.integer(text) for text in values), np.zeros(b.lanes, dtype=np.uint64))
    if one.has("X"):
        for text in rest[len(values) :]:
            total = total + b._predicate(text)
    carried = total >> np.uint64(32)
    for i, text in enumerate(out):
        b.set_predicate(text, carried > i)
    b.put(to, total)


@_operation("LEA")
def _lea(b: _Block, one: Instruction) -> None:
    to, out, rest = _parted(one)
    carry = b._predicate(rest.pop()).copy() if _is_predicate(rest[-1]) else np.zeros(b.lanes, dtype=bool)
    x, y, *high, shift = rest
    by = np.uint64(int(shift, 16))
    if one.has("HI"):
        wide = b.signed(x).view(np.uint64) if one.has("SX32") else b.integer(x) & np.uint64(0xFFFFFFFF)
        if high:
            wide = wide | (b.integer(high[0]) & np.uint64(0xFFFFFFFF)) << np.uint64(32)
        shifted = (wide << by) >> np.uint64(32)
    else:
        shifted = ((b.integer(x) & np.uint64(0xFFFFFFFF)) << by) & np.uint64(0xFFFFFFFF)
    total = shifted + b.integer(y) + (carry if one.has("X") else False)
    if out:
        b.set_predicate(out[0], (total >> np.uint64(32)) > 0)
    b.put(to, total)


def _by_table(table: int, x: Lanes, y: Lanes, z: Lanes) -> Lanes:
    """Bit by bit the answer of an 8-entry truth table."""
    made = np.zeros_like(x)
    for i in range(8):
        if table >> i & 1:
            made |= (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
    return made


@_operation("LOP3")
def _lop3(b: _Block, one: Instruction) -> None:
    operands = list(one.operands)
    out = operands.pop(0) if _is_predicate(operands[0]) else ""
    to, x, y, z, table, *_ = operands

    def word(text: str) -> Lanes:
        return (b.integer(text) & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    value = _by_table(int(table, 16), word(x), word(y), word(z))
    if out:
        b.set_predicate(out, value != 0)
    b.put(to, value)


@_operation("PLOP3")
def _plop3(b: _Block, one: Instruction) -> None:
    to, other, x, y, z, first, second = one.operands
    values = [b._predicate(text).astype(np.uint8) for text in (x, y, z)]
    found = [(_by_table(int(table, 16), *values) & 1).astype(bool) for table in (first, second)]
    b.set_predicate(to, found[0])
    b.set_predicate(other, found[1])


@_operation("SHF")
def _shf(b: _Block, one: Instruction) -> None:
    to, low, by, high = one.operands
    wide = one.has("U64") or one.has("S64")
    shift = b.unsigned(by) & ((63 if wide else 31) if one.has("W") else 0xFFFFFFFF)
    shift = np.minimum(shift, 63 if wide else 32).astype(np.uint64)
    value = b.integer(low) & np.uint64(0xFFFFFFFF) | (b.integer(high) & np.uint64(0xFFFFFFFF)) << np.uint64(32)
    if one.has("L"):
        moved = value << shift
        b.put(to, moved >> np.uint64(32) if one.has("HI") or (not wide and high not in ("RZ", "URZ")) else moved)
    else:
        arithmetic = one.has("S32") or one.has("S64")
        moved = (value.view(np.int64) >> shift.view(np.int64)).view(np.uint64) if arithmetic else value >> shift
        b.put(to, moved >> np.uint64(32) if one.has("HI") else moved)


@_operation("SGXT")
def _sgxt(b: _Block, one: Instruction) -> None:
    to, x, width = one.operands
    bits = np.minimum(b.unsigned(width), 32)
    value = b.unsigned(x) & ((1 << bits) - 1)
    b.put(to, value if one.has("U32") else np.where(value >> (bits - 1) & 1, value - (1 << bits), value))


@_operation("PRMT")
def _prmt(b: _Block, one: Instruction) -> None:
    to, x, selector, y = one.operands
    content = b.integer(x) & np.uint64(0xFFFFFFFF) | (b.integer(y) & np.uint64(0xFFFFFFFF)) << np.uint64(32)
    chosen = b.unsigned(selector).astype(np.uint64)
    made = np.zeros(b.lanes, dtype=np.uint64)
    for i in range(4):
        nibble = chosen >> np.uint64(4 * i) & np.uint64(15)
        byte = content >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        byte = np.where(nibble & np.uint64(8), np.where(byte & np.uint64(128), 255, 0).astype(np.uint64), byte)
        made |= byte << np.uint64(8 * i)
    b.put(to, made)


@_operation("IABS")
def _iabs(b: _Block, one: Instruction) -> None:
    b.put(one.operands[0], np.abs(b.signed(one.operands[1])))


@_operation("IMNMX", "VIADDMNMX")
def _imnmx(b: _Block, one: Instruction) -> None:
    to, *rest = one.operands
    read = b.unsigned if one.has("U32") else b.signed
    if one.name == "VIADDMNMX":
        total = ((b.integer(rest[0]) + b.integer(rest[1])) & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        x = total.astype(np.int64) if one.has("U32") else total.view(np.int32).astype(np.int64)
        rest = rest[1:]
    else:
        x = read(rest[0])
    y = read(rest[1])
    b.put(to, np.where(b._predicate(rest[2]), np.minimum(x, y), np.maximum(x, y)))


@_operation("ISETP")
def _isetp(b: _Block, one: Instruction) -> None:
    to, other, x, y, more, *low = one.operands
    read = b.unsigned if one.has("U32") else b.signed
    name = one.modifiers[0]
    x_, y_ = read(x), read(y)
    found = _COMPARE[name](x_, y_)
    if one.has("EX"):
        below = b._predicate(low[0])
        same = x_ == y_
        strict = {"LE": "LT", "GE": "GT"}.get(name, name)
        if name == "EQ":
            found = same & below
        elif name == "NE":
            found = ~same | below
        else:
            found = _COMPARE[strict](x_, y_) | same & below
    join, old = _JOIN[next(m for m in one.modifiers if m in _JOIN)], b._predicate(more).copy()
    b.set_predicate(to, join(found, old))
    b.set_predicate(other, join(~found, old))


@_operation("SEL")
def _sel(b: _Block, one: Instruction) -> None:
    to, x, y, which = one.operands
    b.put(to, np.where(b._predicate(which), b.unsigned(x), b.unsigned(y)))


@_operation("MOV")
def _mov(b: _Block, one: Instruction) -> None:
    b.put(one.operands[0], b.unsigned(one.operands[1]))


@_operation("CS2R")
def _cs2r(b: _Block, one: Instruction) -> None:
    if one.operands[1] != "SRZ":
        raise UnknownInstruction("not known here")
    put = b.put if one.has("32") else b.put_pair
    put(one.operands[0], np.zeros(b.lanes, dtype=np.uint64))


@_operation("POPC")
def _popc(b: _Block, one: Instruction) -> None:
    b.put(one.operands[0], np.array([int(v).bit_count() for v in b.unsigned(one.operands[1])]))


@_operation("FLO")
def _flo(b: _Block, one: Instruction) -> None:
    found = np.array([int(v).bit_length() - 1 for v in b.unsigned(one.operands[1])])
    b.put(one.operands[0], np.where(found < 0, 0xFFFFFFFF, 31 - found if one.has("SH") else found))


@_operation("P2R")
def _p2r(b: _Block, one: Instruction) -> None:
    to, _, x, mask = one.operands
    chosen = b.unsigned(mask)
    all_ = sum(b.P[i].astype(np.int64) << i for i in range(7))
    b.put(to, b.unsigned(x) & ~chosen | all_ & chosen)


@_operation("R2P")
def _r2p(b: _Block, one: Instruction) -> None:
    _, x, mask = one.operands
    chosen, value = int(mask, 16), b.unsigned(x)
    for i in range(7):
        if chosen >> i & 1:
            b.set_predicate(f"P{i}", (value >> i & 1).astype(bool))


@_operation("S2R")
def _s2r(b: _Block, one: Instruction) -> None:
    rules = {
        "SR_TID.X": np.arange(b.lanes),
        "SR_LANEID": np.arange(b.lanes) % 32,
        "SR_CTAID.X": np.full(b.lanes, b.block[0]),
        "SR_CTAID.Y": np.full(b.lanes, b.block[1]),
        "SR_CTAID.Z": np.full(b.lanes, b.block[2]),
        "SR_CgaCtaId": np.zeros(b.lanes, dtype=np.int64),
        "SR_TID.Y": np.zeros(b.lanes, dtype=np.int64),
        "SR_TID.Z": np.zeros(b.lanes, dtype=np.int64),
    }
    if one.operands[1] not in rules:
        raise UnknownInstruction("not known here")
    b.put(one.operands[0], rules[one.operands[1]].astype(np.int64))


# within a warp


def _by_warp(b: _Block, values: Lanes, rule: Callable[[Lanes], object]) -> Lanes:
    made = values.copy()
    for warp in np.unique(b.warp[b.active]):
        here = b.warp == warp
        made[here] = rule(values[here & b.active])
    return made


@_operation("R2UR")
def _r2ur(b: _Block, one: Instruction) -> None:
    b.put(one.operands[0], _by_warp(b, b.unsigned(one.operands[-1]), lambda v: v[0]))


@_operation("REDUX")
def _redux(b: _Block, one: Instruction) -> None:
    rules: dict[str, Callable[[Lanes], object]] = {
        "MIN": np.min,
        "MAX": np.max,
        "SUM": np.sum,
        "OR": np.bitwise_or.reduce,
        "AND": np.bitwise_and.reduce,
    }
    (name,) = [m for m in one.modifiers if m in rules] or ["OR"]
    read = b.signed if one.has("S32") else b.unsigned
    b.put(one.operands[0], _by_warp(b, read(one.operands[1]), rules[name]))


@_operation("VOTE")
def _vote(b: _Block, one: Instruction) -> None:
    *to, x = one.operands
    found = b._predicate(x)
    bits = _by_warp(b, np.where(found, 1 << (np.arange(b.lanes) % 32), 0), np.bitwise_or.reduce)
    every = _by_warp(b, found.astype(np.int64), np.min)
    some = _by_warp(b, found.astype(np.int64), np.max)
    for text in to:
        if _is_predicate(text):
            b.set_predicate(text, (every if one.has("ALL") else some).astype(bool))
        else:
            b.put(text, bits)


_OPERATIONS["VOTEU"] = _vote


@_operation("SHFL")
def _shfl(b: _Block, one: Instruction) -> None:
    valid, to, x, by, _ = one.operands
    lane = np.arange(b.lanes) % 32
    other = b.signed(by)
    rules = {"BFLY": lane ^ other, "IDX": other, "UP": lane - other, "DOWN": lane + other}
    (source,) = [rules[m] for m in one.modifiers if m in rules]
    inside = (source >= 0) & (source < 32)
    source = np.where(inside, source, lane)
    b.set_predicate(valid, inside)
    b.put(to, b.unsigned(x)[b.warp * 32 + source])


# memory


def _size(one: Instruction) -> int:
    for name, size in {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}.items():
        if one.has(name):
            return size
    return 4


def _store_words(b: _Block, one: Instruction, to: str, content: Lanes) -> None:
    """Bytes (active, size) to as many registers as they take."""
    size = content.shape[1]
    if size < 4:
        value = np.zeros(len(content), dtype=np.int64)
        for i in range(size):
            value |= content[:, i].astype(np.int64) << 8 * i
        if one.has("S8") or one.has("S16"):
            value = np.where(value >> (8 * size - 1), value - (1 << 8 * size), value)
        words = [value]
    else:
        words = [*np.ascontiguousarray(content).view(np.uint32).T.astype(np.int64)]
    found = re.match(r"(U?R)(\d+|Z)", to)
    if found is None or found[2] == "Z":
        return
    for i, word in enumerate(words):
        whole = np.zeros(b.lanes, dtype=np.int64)
        whole[b.active] = word
        b.put(f"{found[1]}{int(found[2]) + i}", whole)


def _words_of(b: _Block, x: str, size: int) -> Lanes:
    """The active threads' bytes (active, size) of a register and those behind it."""
    found = re.match(r"R(\d+|Z)", x)
    if found is None:
        raise UnknownInstruction(f"{x} is no register")
    first = _RZ if found[1] == "Z" else int(found[1])
    count = max(1, size // 4)
    words = np.stack([b.R[first if first == _RZ else first + i][b.active] for i in range(count)], axis=1)
    return np.ascontiguousarray(words).view(np.uint8)[:, :size]


def _inner(text: str) -> str:
    """The address in [R2.64+0x4], or in desc[UR4][R2.64+0x4]."""
    return re.sub(r"^desc\[\w+(\.64)?\]", "", text).strip("[]")


@_operation("ULDC")
def _uldc(b: _Block, one: Instruction) -> None:
    to, x = one.operands
    if one.has("U8") or one.has("U16") or one.has("S8") or one.has("S16"):
        raise UnknownInstruction("not known here")
    if one.has("64"):
        b.put_pair(to, b.pair(x))
    else:
        b.put(to, b.bits(x))


@_operation("LDG", "LD")
def _ldg(b: _Block, one: Instruction) -> None:
    to, at = [text for text in one.operands if not _is_predicate(text)][:2]
    addresses = b._address(_inner(at))[b.active].astype(np.uint64)
    _store_words(b, one, to, b.memory.read(addresses, _size(one)))


@_operation("STG", "ST")
def _stg(b: _Block, one: Instruction) -> None:
    at, x = one.operands
    addresses = b._address(_inner(at))[b.active].astype(np.uint64)
    b.memory.write(addresses, _words_of(b, x, _size(one)))


def _shared_at(b: _Block, text: str, size: int) -> Lanes:
    at = (b._address(_inner(text))[b.active] & 0xFFFFFF) - 0
    if ((at < 0) | (at + size > len(b.shared))).any():
        raise IllegalAddress(f"{size} bytes at {int(at.max()):#x} are not in the block's shared memory")
    return at[:, None] + np.arange(size)


@_operation("LDS")
def _lds(b: _Block, one: Instruction) -> None:
    to, at = one.operands
    _store_words(b, one, to, b.shared[_shared_at(b, at, _size(one))])


@_operation("STS")
def _sts(b: _Block, one: Instruction) -> None:
    at, x = one.operands
    b.shared[_shared_at(b, at, _size(one))] = _words_of(b, x, _size(one))


def _local_at(b: _Block, text: str, size: int) -> tuple[Lanes, Lanes]:
    at = b._address(_inner(text))[b.active]
    return np.flatnonzero(b.active)[:, None], at[:, None] + np.arange(size)


@_operation("LDL")
def _ldl(b: _Block, one: Instruction) -> None:
    to, at = one.operands
    _store_words(b, one, to, b.local[_local_at(b, at, _size(one))])


@_operation("STL")
def _stl(b: _Block, one: Instruction) -> None:
    at, x = one.operands
    b.local[_local_at(b, at, _size(one))] = _words_of(b, x, _size(one))


# going elsewhere


def _label(b: _Block, text: str) -> int:
    return b.program.labels[text.strip("`()")]


@_operation("BRA", "CALL", "JMP")
def _bra(b: _Block, one: Instruction) -> None:
    *conditions, target = one.operands
    if one.has("DIV") or one.has("CONV"):  # taken where threads of a warp are elsewhere, or where none is
        apart = [w for w in np.unique(b.warp[b.active]) if not b.active[(b.warp == w) & (b.state != _EXITED)].all()]
        b.active = b.active & (np.isin(b.warp, apart) == one.has("DIV"))
        conditions = []
    for text in conditions:
        b.active = b.active & b._predicate(text)
    b.go(b.program.places[_label(b, target)])


@_operation("BRX")
def _brx(b: _Block, one: Instruction) -> None:
    register, offset = one.operands[0].split()[:2]
    sign = -1 if offset[0] == "-" else 1
    to = one.address + 0x10 + b.signed(register) + sign * int(offset.lstrip("-"), 16)
    for lane in np.flatnonzero(b.active):
        b.pc[lane] = b.program.places[int(to[lane])]


@_operation("RET")
def _ret(b: _Block, one: Instruction) -> None:
    register, start = one.operands[0].split()[:2]
    to = b.signed(register) + _label(b, start)
    for lane in np.flatnonzero(b.active):
        b.pc[lane] = b.program.places[int(to[lane])]


@_operation("EXIT")
def _exit(b: _Block, one: Instruction) -> None:
    b.state[b.active] = _EXITED
    b.release()


@_operation("BAR")
def _bar(b: _Block, one: Instruction) -> None:
    if not (one.has("SYNC") or one.has("RED")) or one.has("RED"):
        raise UnknownInstruction("not known here")
    b.state[b.active] = _AT_BARRIER
    b.release()


@_operation("WARPSYNC")
def _warpsync(b: _Block, one: Instruction) -> None:
    b.joins[15, np.isin(b.warp, b.warp[b.active])] = True
    b.state[b.active] = 15
    b.release()


@_operation("BSSY")
def _bssy(b: _Block, one: Instruction) -> None:
    number = int(one.operands[0][1:])
    here = np.isin(b.warp, b.warp[b.active])
    b.joins[number, here] = b.active[here]


@_operation("BSYNC", "BREAK")
def _bsync(b: _Block, one: Instruction) -> None:
    number = int(one.operands[-1][1:])
    if one.name == "BREAK":
        b.joins[number, b.active] = False
    else:
        b.state[b.active] = number
    b.release()


# --- parameters -------------------------------------------------------------------------------------------------------


def pack_parameters(values: Sequence[tuple[str, int | float]]) -> bytes:
    """A kernel's parameters as CUDA lays them out: (Triton's type, value) in order, tensors by their addresses."""
    made = b""
    for kind, value in values:
        form = {"i32": "<i", "i64": "<q", "fp32": "<f", "i8": "<b", "i16": "<h", "i1": "<b", "u32": "<I"}.get(
            kind, "<Q"
        )
        size = struct.calcsize(form)
        made += bytes(-len(made) % size) + struct.pack(form, value)
    return made + bytes(-len(made) % 8) + bytes(16)  # Triton's own two: memory for scratch and for profiles
