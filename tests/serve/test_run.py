"""A server in a process of its own: it ends in order, and drops what nobody waits for."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import httpx
import pytest
from click.testing import CliRunner

from engine.cli.serve import serve as command
from engine.errors import EngineError
from engine.serve.batcher import Shape
from engine.serve.run import _listening

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import time
import numpy as np
from engine.serve.batcher import Shape
from engine.serve.model import Answer
from engine.serve.run import serve
from engine.serve.settings import Settings

class Sleepy:
    classes, about, heatmaps = ("a", "b"), {}, False
    def __call__(self, photos):
        if photos[0].pixels == 1:  # not the model's own trial
            print("asked", flush=True)
            time.sleep(2)
        return [Answer(np.array([0.25, 0.75], dtype=np.float32), {}) for _ in photos]

serve(Sleepy(), Settings(shape=Shape(batch=1)), "127.0.0.1", 0, lambda address: print(address, flush=True))
"""
DOT = b"P6 1 1 255 abc"  # a picture of one pixel
IMAGE = {"content-type": "image/x-portable-pixmap"}


class Server(NamedTuple):
    process: subprocess.Popen[str]
    client: httpx.Client


@pytest.fixture
def server() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            with httpx.Client(base_url=process.stdout.readline().strip(), timeout=30) as client:
                yield Server(process, client)
        finally:
            process.kill()


def counted(client: httpx.Client, line: str) -> float:
    text = client.get("/metrics").text
    return next((float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(line)), 0.0)


def test_sigterm_finishes_what_is_accepted_refuses_what_is_new_and_ends_with_0(server: Server) -> None:
    process, client = server
    # Somebody leaves while his photo waits: nobody answers it.
    first = threading.Thread(target=lambda: client.post("/predict", content=DOT, headers=IMAGE))
    first.start()
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as left:
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: {len(DOT)}\r\n\r\n"
        left.sendall(head.encode() + DOT)
        _wait_until(lambda: counted(client, "engine_queue_photos") == 1)
    _wait_until(lambda: counted(client, 'engine_requests_total{path="/predict",status="499"}') == 1)
    _wait_until(lambda: counted(client, "engine_queue_photos") == 0)
    first.join()
    assert counted(client, "engine_batch_photos_count") == 1

    found: list[int] = []
    accepted = [
        threading.Thread(target=lambda: found.append(client.post("/predict", content=DOT, headers=IMAGE).status_code))
        for _ in range(2)
    ]
    for thread in accepted:
        thread.start()
    assert process.stdout.readline() == "asked\n"
    _wait_until(lambda: counted(client, "engine_queue_photos") == 1)
    for _ in range(2):  # as a wrapper passes it on that got it as well
        process.send_signal(signal.SIGTERM)
    _wait_until(lambda: client.get("/ready").status_code == 503)
    refused = client.post("/predict", content=DOT, headers=IMAGE)
    assert (refused.status_code, refused.json()["kind"]) == (503, "stopping") and "retry-after" in refused.headers
    assert client.get("/health").status_code == 200
    for thread in accepted:
        thread.join()
    assert found == [200, 200] and process.wait(10) == 0
    assert process.stderr is not None and process.stderr.read() == ""


def test_what_the_command_is_told_is_what_the_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []

    class Nobody:
        about: ClassVar = {"notices": ["heard"]}

    monkeypatch.setattr("engine.serve.model.open_model", lambda path, sets: served.extend([path, sets]) or Nobody())
    monkeypatch.setattr("engine.serve.run.serve", lambda model, *asked: served.extend(asked))
    options = "--host 0.0.0.0 --port 80 --batch 4 --deadline-ms 20 --queue 8 --max-mb 1 --max-megapixels 2"
    more = "--memory-mb 50 --timeout-s 3 --top 2 --allow-url --log --set predict.tta=1"
    result = CliRunner().invoke(command, [str(tmp_path), *options.split(), *more.split()])
    assert result.exit_code == 0 and "heard" in result.output
    path, sets, settings, host, port, _ = served
    assert (path, sets, host, port) == (tmp_path, ("predict.tta=1",), "0.0.0.0", 80)
    assert settings.shape == Shape(4, 0.02, 8, 4e6) and settings.limits.photo_bytes == 1_000_000
    assert settings.limits.photos == 8 and settings.memory_bytes == 50_000_000 and settings.pixels == 2e6
    assert (settings.timeout_s, settings.top, settings.allow_url, settings.log) == (3, 2, True, True)


@pytest.mark.parametrize("options", ["--memory-mb 10 --max-mb 20", "--deadline-ms 2000 --timeout-s 1"])
def test_limits_under_which_nothing_could_be_answered_are_refused(tmp_path: Path, options: str) -> None:
    result = CliRunner().invoke(command, [str(tmp_path), *options.split()])
    assert result.exit_code == 2 and options.split()[0] in result.output


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EngineError, match="--port"):
        _listening("127.0.0.1", taken.getsockname()[1])


def _wait_until(true: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)
