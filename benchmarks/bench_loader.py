"""Files to augmented, normalised batches on the CPU: the engine's loader beside its peers.

    python benchmarks/bench_loader.py [--data DIR | --many-sizes] [--sizes 256,512,640,768] [--repeats 5] [--json FILE]

The photos are the bench's own: of one size (400 x 533), or with --many-sizes from 200 to 3,000 pixels long, spread as
ImageNet's are.

Every peer does the same to the same files, as nearly as its library can: a random resized crop of 0.6 to 1 of the
area, an affine map (up to 15 degrees, 5 % shift, 10 % scale; zero or mean around it), a flip half of the time, full
colour jitter (brightness, contrast and saturation within 0.4, hue within 0.1, order at random), random erasing half of
the time, normalisation. Out come float32 batches of 64. Where they differ:

* engine: one antialiased resampling for crop, affine and flip together, so what an affine map brings in from beyond
  the crop is photo and no fill; channels-last memory. "AVX2": its pass held to these instructions, which is all that
  many machines have; libjpeg-turbo uses no others anywhere, and the peers may use what there is. "fast decoding":
  decode.fast = "on".
* Albumentations with OpenCV: bilinear without antialiasing; crop and affine resample one after the other. In a
  DataLoader of a worker a core, OpenCV's own threads off, as its authors advise.
* torchvision v2: decode_jpeg, tensors, antialiased crop, then affine. In a DataLoader of a worker a core.
* DALI: its own pipeline with as many threads as cores; the decoder is told the crop. Its colour operation applies the
  four parts in one fixed order, contrast about a constant gray.
* Kornia: decoded by torchvision and cropped image by image (it takes batches of one size only) in a DataLoader of a
  worker a core, then all else as one batch.

FFCV is no part of the table: its package builds only beside OpenCV's and libturbojpeg's C++ headers, and it reads a
format of its own instead of files.

Each peer lives in a process of its own, so that neither threads nor memory are shared. The processes take turns, one
window each per round, and each window starts with a fresh iterator and a warm-up. Figures are medians over the rounds.
Processor time is that of a peer's processes together; it suffers less than the rate from what else the machine does.
Memory is the proportional set size of the engine's processes, read after each of 160 batches in a fresh process,
before anything is timed: the most seen, and by how much the second half's most differs from the first's.

Peers need `pip install .[peers]`; one that is missing is left out and said to be.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import frame
from engine.bench import peers
from engine.bench.peers import DEGREES, HUE, MEAN, RATIO, SCALE, SHIFT, STD, STRENGTH, ZOOM
from engine.bench.photos import many_sizes, photos

BATCH = 64
WARM_UP, WARM_UP_S = 8, (2.0, 10.0)  # a window begins after so many batches, not before 2 nor after 10 seconds
MEMORY_BATCHES = 160
RIVAL = "Albumentations + OpenCV"
DALI_DECODES = "engine, DALI decodes"
GOALS = {256: 3.0, 512: 6.0, 640: 6.0, 768: 6.0}  # by size: how many times as fast as the rival the engine is to be

Batches = Iterator[Any]

# --- the peers: endless batches of these files at this size ---------------------------------------------------------


def engine(paths: Sequence[str], size: int, **decoding: str) -> Batches:
    from engine.augment.policy import Policy
    from engine.loader.batches import Epoch, Loader, Samples
    from engine.loader.source import Files
    from engine.recipe.sections import DecodeSection
    from engine.recipe.sections.augment import (
        AffineSection,
        AugmentSection,
        ColorSection,
        CropSection,
        RandomErasingSection,
    )

    section = AugmentSection(
        crop=CropSection(scale=SCALE, ratio=RATIO),
        affine=AffineSection(p=1.0, rotate=DEGREES, shift=SHIFT, scale=ZOOM),
        border="constant",
        flip=0.5,
        color=ColorSection(p=1.0, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH, hue=HUE),
        random_erasing=RandomErasingSection(p=0.5),
    )
    samples = Samples(paths, Files(paths), np.arange(len(paths)), np.zeros(len(paths), dtype=np.int64))
    decode = DecodeSection.model_validate({"device": "cpu", **decoding})
    loader = Loader(samples, decode, torch.device("cpu"))
    batches = [np.array(rows) for rows in _rows(len(paths))]
    return loader.train(batches, Policy(section, MEAN, STD), Epoch(0, 0, size, size, None))


def engine_avx2(paths: Sequence[str], size: int, **decoding: str) -> Batches:
    os.environ["ENGINE_CPU_SIMD"] = "avx2"  # of this peer's process
    return engine(paths, size, **decoding)


def engine_dali(paths: Sequence[str], size: int) -> Batches:
    return engine(paths, size, decoder="dali")


def theirs(name: str, paths: Sequence[str], size: int) -> Batches:
    """What `engine bench --compare` measures, on the CPU."""
    return peers.PEERS[name].batches(peers.Task(paths, (size, size), BATCH, "cpu", 0.0))


@dataclasses.dataclass(frozen=True)
class Peer:
    name: str
    module: str  # that must be installed
    batches: Callable[[Sequence[str], int], Batches]


PEERS = (
    Peer("engine", "engine", engine),
    Peer("engine, fast decoding", "engine", partial(engine, fast="on")),
    Peer("engine, AVX2", "engine", engine_avx2),
    Peer("engine, AVX2, fast decoding", "engine", partial(engine_avx2, fast="on")),
    Peer(DALI_DECODES, "engine", engine_dali),
    Peer(RIVAL, "albumentations", partial(theirs, "Albumentations + OpenCV")),
    Peer("torchvision v2", "torchvision", partial(theirs, "torchvision v2")),
    Peer("DALI pipeline", "nvidia.dali", partial(theirs, "DALI pipeline")),
    Peer("Kornia", "kornia", partial(theirs, "Kornia")),
)


def _rows(count: int) -> list[list[int]]:
    """Batches of rows round and round, more than a window can use."""
    rows = itertools.cycle(range(count))
    return [list(itertools.islice(rows, BATCH)) for _ in range(20_000)]


# --- one peer's process ----------------------------------------------------------------------------------------------


def serve(peer: Peer, paths: Sequence[str], size: int, orders: Connection) -> None:
    """Answer orders until told to stop: ("rate", seconds) or ("memory", batches). What goes wrong is an answer too."""
    for kind, amount in iter(orders.recv, None):
        answer: tuple[float, float] | list[float] | Exception
        try:
            batches = peer.batches(paths, size)
            answer = _rate(batches, amount) if kind == "rate" else _memory(batches, int(amount))
            if isinstance(batches, Generator):
                batches.close()
            del batches
        except Exception as error:
            answer = RuntimeError(f"{peer.name}: {type(error).__name__}: {error}")
        orders.send(answer)


def _rate(batches: Batches, seconds: float) -> tuple[float, float]:
    """Images a second, and milliseconds of processor time an image."""
    start_s, done = time.perf_counter(), 0
    while (waited_s := time.perf_counter() - start_s) < WARM_UP_S[0] or (done < WARM_UP and waited_s < WARM_UP_S[1]):
        next(batches)
        done += 1
    count, start_s, worked_s = 0, time.perf_counter(), _own_seconds()
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        next(batches)
        count += BATCH
    return count / elapsed_s, (_own_seconds() - worked_s) / count * 1000


def _memory(batches: Batches, count: int) -> list[float]:
    """GiB in use after each batch."""
    used = []
    for _ in range(count):
        next(batches)
        used.append(_own_gib())
    return used


def _own() -> Iterator[tuple[Path, list[str]]]:
    """This process and its children: folder in /proc (Linux) and the fields of its `stat` from the third on."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if str(os.getpid()) in (stat.parent.name, fields[1]):
            yield stat.parent, fields


def _own_seconds() -> float:
    ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in _own())
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_gib() -> float:
    """Proportional set size: pages that processes share are counted once."""
    kib = 0
    for folder, _ in _own():
        lines = (folder / "smaps_rollup").read_text().splitlines()
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 2**20


# --- the comparison --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class PeerAtSize:
    """What was found of one peer at one size."""

    peer: str
    size: int
    windows: list[float] = dataclasses.field(default_factory=list)  # images a second
    work_ms: list[float] = dataclasses.field(default_factory=list)  # processor time an image, by window
    memory_gib: list[float] = dataclasses.field(default_factory=list)  # after each batch

    @property
    def rate(self) -> float:
        return statistics.median(self.windows)

    @property
    def peak_gib(self) -> float:
        return max(self.memory_gib)

    @property
    def growth_gib(self) -> float:
        middle = len(self.memory_gib) // 2
        return max(self.memory_gib[middle:]) - max(self.memory_gib[:middle])


def compare(peers: Sequence[Peer], paths: Sequence[str], size: int, repeats: int, seconds: float) -> list[PeerAtSize]:
    spawn = multiprocessing.get_context("spawn")
    lines: list[Connection] = []
    processes = []
    for peer in peers:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(peer, paths, size, theirs))
        process.start()
        theirs.close()
        lines.append(ours)
        processes.append(process)
    rows = [PeerAtSize(peer.name, size) for peer in peers]
    for row, line in zip(rows, lines, strict=True):
        if row.peer in (PEERS[0].name, DALI_DECODES):  # the slowest peers would take minutes
            row.memory_gib = _ask(line, "memory", MEMORY_BATCHES)
    for _ in range(repeats):
        for row, line in zip(rows, lines, strict=True):
            rate, work_ms = _ask(line, "rate", seconds)
            row.windows.append(rate)
            row.work_ms.append(work_ms)
    for line, process in zip(lines, processes, strict=True):
        with closing(line):
            line.send(None)
        process.join()
    return rows


def _ask(line: Connection, kind: str, amount: float) -> Any:
    line.send((kind, amount))
    answer = line.recv()
    if isinstance(answer, Exception):
        raise answer
    return answer


def show(rows: Sequence[PeerAtSize], console: Console) -> None:
    """The rows of one size, beside the rival's, or the engine's where there is none."""
    beside = next((row for row in rows if row.peer == RIVAL), rows[0])
    cells = [
        (
            row.peer,
            f"{row.rate:,.0f}",
            f"{min(row.windows):,.0f} - {max(row.windows):,.0f}",
            f"{row.rate / beside.rate:.2f} x",
            f"{statistics.median(row.work_ms):.2f}",
            *((f"{row.peak_gib:.2f}", f"{row.growth_gib * 1024:+.0f}") if row.memory_gib else ("", "")),
        )
        for row in rows
    ]
    size = rows[0].size
    headings = ("", "images/s", "slowest - fastest", beside.peer[:14], "CPU ms/image", "peak GiB", "growth MiB")
    goal = f"; to be {GOALS[size]:g} times {RIVAL}" if size in GOALS else ""
    console.print(frame.table(f"{size} x {size} pixels{goal}", headings, cells))


def main() -> None:
    parser = argparse.ArgumentParser(description="The engine's loader beside its peers, on the CPU.")
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--data", type=Path, help="folder of JPEGs; default: photos drawn for the purpose")
    whose.add_argument("--many-sizes", action="store_true", help="draw them from 200 to 3,000 pixels long")
    parser.add_argument("--sizes", default="256,512,640,768", help="output sizes in pixels")
    parser.add_argument("--peers", default="", help="only peers whose name contains one of these, by comma")
    parser.add_argument("--repeats", type=int, default=5, help="windows of each peer")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    frame.json_option(parser)
    arguments = parser.parse_args()

    console = Console(width=110)
    paths = many_sizes() if arguments.many_sizes else _photos(arguments.data)
    wanted = [name.strip().lower() for name in arguments.peers.split(",")]
    chosen = [p for p in PEERS if p.name == "engine" or any(name in p.name.lower() for name in wanted)]
    peers = [p for p in chosen if importlib.util.find_spec(p.module)]
    missing = [p.name for p in chosen if p not in peers]
    if missing:
        console.print(f"not installed: {', '.join(missing)}")
    rows: list[PeerAtSize] = []
    for size in map(int, arguments.sizes.split(",")):
        rows += compare(peers, paths, size, arguments.repeats, arguments.seconds)
        show([row for row in rows if row.size == size], console)
    settings = {
        "photos": {"count": len(paths), "from": _drawn(arguments) if arguments.data is None else arguments.data.name},
        "batch": BATCH,
        "missing": missing,
        "goals": {str(size): goal for size, goal in GOALS.items()},
    }
    frame.finish(frame.result([dataclasses.asdict(row) for row in rows], settings), arguments.json)


def _drawn(arguments: argparse.Namespace) -> str:
    return "drawn, of many sizes" if arguments.many_sizes else "drawn, of one size"


def _photos(folder: Path | None) -> list[str]:
    if folder is None:
        return photos()
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"{folder}: no .jpg or .jpeg files in it")
    random.Random(0).shuffle(found)
    return found[:1024]


if __name__ == "__main__":
    main()
