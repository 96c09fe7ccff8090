"""Clients of a server of photos, in a process of their own: `bench_serve.py` starts it.

Each client keeps one connection and sends its next request when its last is answered. Requests are bytes that were made
before, and answers are read by their Content-Length, so that a client costs little beside the server on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import io
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BOUNDARY = "----photo"
HEAVY = 1_000_000  # bytes that the server is told to take at most


@dataclasses.dataclass(frozen=True)
class Request:
    """Its bytes, and what should come of it: the number of a photo, or a status and a kind of problem."""

    content: bytes
    photo: int | None = None
    status: int = 200
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Reply:
    request: Request
    status: int
    body: bytes
    seconds: float


def form(photo: bytes) -> bytes:
    """A request with the photo as a browser would send it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="request"; filename="a.jpg"\r\n'
    body = f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + photo + f"\r\n--{BOUNDARY}--\r\n".encode()
    return request(body, f"multipart/form-data; boundary={BOUNDARY}")


def request(body: bytes, type_: str) -> bytes:
    head = f"POST /predict?top=1000 HTTP/1.1\r\nHost: bench\r\nContent-Type: {type_}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def bad_ones(good: bytes) -> list[Request]:
    """A request of every kind that gets no answer, but for those that depend on the moment (busy, too late)."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    as_json = "application/json"
    encoded = base64.b64encode(good).decode()
    return [
        Request(form(b""), None, 422, "empty"),
        Request(form(b"no image at all\n" * 20), None, 415, "not an image"),
        Request(form(b"<!doctype html><html><body>404</body></html>"), None, 415, "not an image"),
        Request(form(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)), None, 415, "not an image"),
        Request(form(good[:60]), None, 415, "not an image"),
        Request(form(good[: len(good) // 2]), None, 422, "damaged"),
        Request(form(bomb.getvalue()), None, 422, "too many pixels"),
        Request(form(good + bytes(HEAVY)), None, 413, "too many bytes"),
        Request(request(b'{"photos": [{"base64": "%%%"}]}', as_json), None, 422, "not base64"),
        Request(request(b'{"photos": [{"url": "http://127.0.0.1/"}]}', as_json), None, 403, "url off"),
        Request(request(b'{"photos": []}', as_json), None, 400, "no photo"),
        Request(request(b'{"photos": ', as_json), None, 400, "malformed"),
        Request(
            request(f'{{"photos": [{{"base64": "{encoded}", "a": 7}}]}}'.encode(), as_json), None, 400, "malformed"
        ),
        Request(request(b"--x\r\nno form", "multipart/form-data; boundary=x"), None, 400, "malformed"),
        Request(request(good, "text/plain"), None, 415, "media type"),
    ]


def traffic(photos: Sequence[bytes], count: int, bad: float) -> list[Request]:
    """So many requests, a photo each, of which a share is bad, each kind as often, mixed among the others."""
    kinds = cycle(bad_ones(photos[0]))
    good = cycle(Request(form(photo), number) for number, photo in enumerate(photos))
    is_bad = np.random.default_rng(0).permutation(count) < round(bad * count)
    return [next(kinds if one else good) for one in is_bad.tolist()]


async def ask_all(address: tuple[str, int], requests: Sequence[Request], clients: int) -> tuple[list[Reply], float]:
    """The replies of `clients` that take the requests in turn, and the seconds from the first to the last."""
    waiting, replies = iter(requests), []

    async def client() -> None:
        connection = None
        for one in waiting:
            begun = time.perf_counter()
            if connection is None:
                connection = await asyncio.open_connection(*address)
            reader, writer = connection
            writer.write(one.content)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            replies.append(Reply(one, int(head.split(b" ", 2)[1]), body, time.perf_counter() - begun))
            if b"connection: close" in head:
                writer.close()
                connection = None

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return replies, time.perf_counter() - begun


def verdict(reply: Reply, expected: Sequence[dict[str, float]]) -> str:
    """Whether the answer is the one that should come: right, typed, or what is wrong with it."""
    told = json.loads(reply.body)
    if reply.request.photo is None:
        is_typed = {"error", "kind", "detail", "remedy"} <= told.keys() and reply.status == reply.request.status
        return "typed" if is_typed and told["kind"] == reply.request.kind else f"untyped: {reply.status} {told}"
    if reply.status != 200:
        return f"refused: {reply.status} {told}"
    found = {one["name"]: one["probability"] for one in told["photos"][0]["top"]}
    return "right" if found == expected[reply.request.photo] else "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="photos, and expected.json where answers are checked")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--bad", type=float, default=0.0, help="share of requests that are bad")
    chosen = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(chosen.folder.glob("*.jpg"))]
    requests = traffic(photos, chosen.requests, chosen.bad)
    replies, seconds = asyncio.run(ask_all(("127.0.0.1", chosen.port), requests, chosen.clients))
    verdicts: Counter[str] = Counter()
    if chosen.bad:
        expected = json.loads((chosen.folder / "expected.json").read_text("utf-8"))
        verdicts.update(verdict(reply, expected) for reply in replies)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found: dict[str, Any] = {
        "seconds": seconds,
        "latencies": [reply.seconds for reply in replies],
        "statuses": Counter(reply.status for reply in replies),
        "kinds": Counter(reply.request.kind for reply in replies if reply.request.kind),
        "verdicts": verdicts,
        "cpu_s": used.ru_utime + used.ru_stime,
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
