"""The clients of benchmarks/bench_serve.py: what they ask gets what they expect, and what is wrong is seen."""

from __future__ import annotations

import asyncio
import io
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from engine.serve.app import app_of
from engine.serve.batcher import Shape
from engine.serve.model import Answer
from engine.serve.photo import Photo
from engine.serve.settings import Settings
from engine.serve.uploads import Limits

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import clients


class Decoding:
    """The answer is a photo's first red value; it has to be decoded for that."""

    classes = ("a", "b")
    heatmaps = False

    def __init__(self) -> None:
        self.about: dict[str, Any] = {}

    def __call__(self, photos: Sequence[Photo]) -> Sequence[Any]:
        from engine.pictures import read_pixels

        pixels = [read_pixels(photo.content) for photo in photos]
        return [Answer(first(one), {}) if isinstance(one, np.ndarray) else one for one in pixels]

    def heatmap(self, photo: Photo, label: str) -> Any:
        raise AssertionError


def first(pixels_HW3: np.ndarray) -> np.ndarray:
    share = np.float32(pixels_HW3[0, 0, 0]) / np.float32(255)
    return np.array([share, 1 - share], dtype=np.float32)


@pytest.fixture
def photos() -> list[bytes]:
    made = []
    for red in (200, 90, 10):
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (red, 0, 0)).save(file, "JPEG")
        made.append(file.getvalue())
    return made


def test_the_many_requests_get_what_they_should_and_a_wrong_answer_is_seen(photos: list[bytes]) -> None:
    app = app_of(Decoding(), Settings(shape=Shape(batch=4), limits=Limits.of(clients.HEAVY, 8, 10**9)))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        requests = clients.traffic(photos, 90, 1 / 3)
        replies, _ = asyncio.run(clients.ask_all(listening.getsockname(), requests, 8))
    finally:
        server.should_exit = True
        thread.join()
    reds = [np.asarray(Image.open(io.BytesIO(photo))) for photo in photos]
    expected = [dict(zip("ab", map(float, first(red)), strict=True)) for red in reds]
    verdicts = [clients.verdict(reply, expected) for reply in replies]
    assert verdicts.count("right") == 60 and verdicts.count("typed") == 30
    wrong = [expected[1], expected[1], expected[1]]
    assert [clients.verdict(reply, wrong) for reply in replies].count("wrong") == 40
