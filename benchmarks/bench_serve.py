"""`engine serve` under load, beside the model without a server and beside LitServe with the same model.

    python benchmarks/bench_serve.py RUN --photos FOLDER [--peer PYTHON] [--json FILE]
    python benchmarks/bench_serve.py RUN --photos FOLDER --endurance [--requests N] [--json FILE]

Rates: at 1, 8 and 64 clients, each with one photo on its way at a time, the photos that were answered a second and the
time that a client waited. "bare" is the engine's Predictor in this process, handed full batches of the same files: what
the server could do at best. LitServe calls the same Predictor from its own worker, with the same batch and deadline; it
runs in an environment of its own (--peer, a Python that has litserve). Contenders take turns, and the others are
stopped (SIGSTOP) meanwhile. The clients share the cores. Where other work does, too, a server with more processes gets
more of them; so the processor time of a photo stands beside the rate.

Endurance (of a run that is cheap to ask): --requests requests of which a tenth are bad, of every kind; whether each
good one has the Predictor's answer to the last bit and each bad one its status and kind, and the server's memory in
thirds of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import frame
from clients import HEAVY
from engine.bench.envelope import Row
from engine.predict.predictor import Predictor

HERE = Path(__file__).resolve().parent
CLIENTS = (1, 8, 64)
PHOTOS = 128  # different ones
BATCH, DEADLINE_MS, TIMEOUT_S = 32, 5.0, 600.0
BARE, OURS, PEER = "bare", "engine serve", "LitServe"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_WATCH_S = 0.5


class Server:
    """A program that serves on `port`, in a group of processes of its own."""

    def __init__(self, command: Sequence[str], port: int, ready: str) -> None:
        self.port = port
        self._process = subprocess.Popen(command, start_new_session=True, stdout=sys.stderr, cwd=HERE.parent)
        self._wait(f"http://127.0.0.1:{port}{ready}", command)

    def _wait(self, address: str, command: Sequence[str]) -> None:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
            if self._process.poll() is not None:
                raise SystemExit(f"{command[0]} ... ended with {self._process.returncode}")
            time.sleep(0.2)

    def signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def end(self) -> int:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # workers that outlive it, or all
            self.signal(signal.SIGKILL)
        return self._process.wait()

    @property
    def cpu_s(self) -> float:
        """Processor time of the group so far, of those of it that live."""
        return sum((int(stat[11]) + int(stat[12])) * _TICK_S for stat in self._stats())

    @property
    def memory_mib(self) -> float:
        """Resident, of all the group."""
        return sum(int(stat[21]) for stat in self._stats()) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _stats(self) -> Iterator[list[str]]:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                stat = path.read_text("utf-8").rpartition(") ")[2].split()  # proc(5), from the third field on
                if int(stat[2]) == self._process.pid:
                    yield stat


def ours(run: Path, sets: Sequence[str] = ()) -> Server:
    port = _free_port()
    options = {"--port": port, "--batch": BATCH, "--deadline-ms": DEADLINE_MS, "--timeout-s": TIMEOUT_S}
    command = [sys.executable, "-m", "engine.cli.main", "serve", str(run), "--max-mb", str(HEAVY / 1e6)]
    command += [word for name, value in options.items() for word in (name, str(value))]
    return Server([*command, *(word for one in sets for word in ("--set", one))], port, "/ready")


def peer(python: Path, run: Path) -> Server:
    port = _free_port()
    options = {"--port": port, "--batch": BATCH, "--deadline-ms": DEADLINE_MS, "--timeout-s": TIMEOUT_S}
    command = ["env", f"PYTHONPATH={HERE.parent}", str(python), str(HERE / "peers" / "litserve_way.py"), str(run)]
    command += ["--threads", str(torch.get_num_threads())]
    return Server(
        [*command, *(word for name, value in options.items() for word in (name, str(value)))], port, "/health"
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def loaded(server: Server, folder: Path, clients: int, requests: int, bad: float = 0.0) -> dict[str, Any]:
    """What the clients found, and `server_cpu_s`."""
    before = server.cpu_s
    options = {"--port": server.port, "--clients": clients, "--requests": requests, "--bad": bad}
    command = [sys.executable, str(HERE / "clients.py"), str(folder)]
    command += [word for name, value in options.items() for word in (name, str(value))]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if not bad and {*found["statuses"]} != {"200"}:
        raise SystemExit(f"a server does not answer: {found['statuses']}")
    return {**found, "server_cpu_s": server.cpu_s - before}


def bare(predictor: Predictor, photos: Sequence[bytes], requests: int) -> dict[str, Any]:
    """The same of the model alone."""
    some = [*islice(cycle(photos), requests)]
    begun, cpu = time.perf_counter(), time.process_time()
    for start in range(0, requests, BATCH):
        predictor(some[start : start + BATCH])
    return {"seconds": time.perf_counter() - begun, "server_cpu_s": time.process_time() - cpu, "latencies": []}


def rates(run: Path, folder: Path, python: Path | None, rounds: int, each: Sequence[int]) -> list[Row]:
    """Rows of all contenders at all numbers of clients; `each` is how many photos a client asks about in a round."""
    photos = [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    predictor = Predictor(run)
    predictor(photos[:BATCH])
    servers = {OURS: ours(run)} | ({PEER: peer(python, run)} if python else {})
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    try:
        for server in servers.values():
            loaded(server, folder, 2, 4)
            server.signal(signal.SIGSTOP)
        for _ in range(rounds):
            for clients, own in zip(CLIENTS, each, strict=True):
                if clients == CLIENTS[-1]:
                    found.setdefault((BARE, 0), []).append(bare(predictor, photos, clients * own))
                for name, server in servers.items():
                    server.signal(signal.SIGCONT)
                    found.setdefault((name, clients), []).append(loaded(server, folder, clients, clients * own))
                    server.signal(signal.SIGSTOP)
                    print(name, clients, clients * own / found[name, clients][-1]["seconds"], file=sys.stderr)
    finally:
        for server in servers.values():
            server.end()
    counts = {0: CLIENTS[-1] * each[-1]} | {clients: clients * own for clients, own in zip(CLIENTS, each, strict=True)}
    return [_row(name, clients, windows, counts[clients]) for (name, clients), windows in found.items()]


def _row(name: str, clients: int, windows: Sequence[dict[str, Any]], count: int) -> Row:
    row: Row = {
        "what": "rate",
        "contender": name,
        "clients": clients,
        "windows": [round(count / one["seconds"], 2) for one in windows],
        "cpu_ms_a_photo": round(1000 * sum(one["server_cpu_s"] for one in windows) / count / len(windows), 2),
    }
    latencies = [seconds for one in windows for seconds in one["latencies"]]
    if latencies:
        p50, p99 = np.percentile(latencies, [50, 99]).tolist()
        row |= {"p50_ms": round(1000 * p50, 1), "p99_ms": round(1000 * p99, 1)}
        row["clients_cpu_ms_a_photo"] = round(1000 * sum(one["cpu_s"] for one in windows) / count / len(windows), 2)
    return row


def endurance(run: Path, folder: Path, requests: int) -> Row:
    """What came of so many requests, a tenth of them bad."""
    predictor = Predictor(run)
    answers = predictor({"path": [str(path) for path in sorted(folder.glob("*.jpg"))]})
    expected = [
        {name: float(answers[f"p:{name}"][row]) for name in predictor.classes}
        for row in range(len(answers["prediction"]))
    ]
    (folder / "expected.json").write_text(json.dumps(expected), "utf-8")
    server = ours(run)
    memory: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_S):
            memory.append(server.memory_mib)

    try:
        loaded(server, folder, 16, 1500, 0.1)
        watching = threading.Thread(target=watch)
        watching.start()
        found = loaded(server, folder, 16, requests, 0.1)
        done.set()
        watching.join()
    finally:
        code = server.end()
    third = len(memory) // 3
    parts = [memory[:third], memory[third : 2 * third], memory[2 * third :]]
    return {
        "what": "endurance",
        "requests": requests,
        "clients": 16,
        "verdicts": found["verdicts"],
        "statuses": found["statuses"],
        "bad": found["kinds"],
        "requests_per_s": round(requests / found["seconds"], 1),
        "memory_mib": [round(statistics.median(part), 1) for part in parts],
        "ended_with": code,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of JPEGs")
    parser.add_argument("--peer", type=Path, help="a Python that has litserve")
    parser.add_argument("--endurance", action="store_true", help="many requests, and no rates")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--each", type=int, nargs=3, default=(12, 10, 3), help="photos of a client in a round")
    frame.json_option(parser)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, path in enumerate(islice(sorted(chosen.photos.rglob("*.jpg")), PHOTOS)):
            shutil.copy(path, folder / f"{number:03d}.jpg")
        sizes = [path.stat().st_size for path in folder.iterdir()]
        if chosen.endurance:
            rows = [endurance(chosen.run, folder, chosen.requests)]
        else:
            rows = rates(chosen.run, folder, chosen.peer, chosen.rounds, chosen.each)
    Console(stderr=True).print(table(rows))
    models = Predictor(chosen.run).models
    settings: dict[str, Any] = {
        "models": len(models.members),
        "views": models.recipe.predict.tta,
        "photos": len(sizes),
        "photo_bytes": round(statistics.mean(sizes)),
        "batch": BATCH,
        "deadline_ms": DEADLINE_MS,
    }
    if not chosen.endurance:
        settings |= {"rounds": chosen.rounds, "each": list(chosen.each)}
    frame.finish(frame.result(rows, settings), chosen.json)


def table(rows: Sequence[Row]) -> Any:
    shown = [
        (
            row["contender"],
            str(row["clients"] or ""),
            *(f"{statistics.median(row['windows']):.1f}", f"{row['cpu_ms_a_photo']:.1f}"),
            *(f"{row.get(name, float('nan')):,.0f}" for name in ("p50_ms", "p99_ms")),
        )
        for row in rows
        if row["what"] == "rate"
    ]
    return frame.table("", ("", "clients", "photos/s", "CPU ms/photo", "p50, ms", "p99, ms"), shown)


if __name__ == "__main__":
    main()
