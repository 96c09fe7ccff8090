"""Addresses that requests name: only public ones are asked, whatever they resolve to or lead to."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from engine.serve import fetch
from engine.serve.fetch import fetched, is_public
from engine.serve.problems import Problem

PUBLIC = "93.184.215.14"


class Site(http.server.BaseHTTPRequestHandler):
    """/photo; /away leads to an inner address; /round to itself; /slow sends a byte now and then."""

    def do_GET(self) -> None:
        if self.path == "/away":
            self._leads("http://169.254.169.254/secrets")
        elif self.path == "/round":
            self._leads("/round")
        elif self.path == "/near":
            self._leads("/photo?a=b")
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"a")
                time.sleep(0.05)
        elif self.path.startswith("/photo"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.headers["Host"].encode() * 100)
        else:
            self.send_error(404)

    def _leads(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A site whose name resolves to a public address, and the addresses that connections were made to."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    asked: list[str] = []
    connect = socket.create_connection

    def connected(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address[0])
        return connect(server.server_address[:2], timeout)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch.socket, "create_connection", connected)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def resolve(host: str, _: int) -> list[str]:
    return [PUBLIC] if host == "photos.example" else [host]


def fetch_it(path: str, most: int = 10_000, seconds: float = 5) -> bytes | Problem:
    return fetched(f"http://photos.example{path}", most, seconds, resolve)


def test_a_photo_is_fetched_from_the_address_that_was_looked_at(site: list[str]) -> None:
    assert fetch_it("/photo") == b"photos.example" * 100 and site == [PUBLIC]
    assert fetch_it("/near") == fetch_it("/photo/모자 1.jpg?크기=1&a=%20") == b"photos.example" * 100


def refused(found: bytes | Problem) -> str:
    assert isinstance(found, Problem) and found.kind == "url"
    return found.detail


def test_where_it_leads_to_is_looked_at_too(site: list[str]) -> None:
    assert "not on the public network" in refused(fetch_it("/away"))
    assert site == [PUBLIC]
    assert "more than 3 times" in refused(fetch_it("/round"))


def test_bytes_and_seconds_are_limited_as_a_whole(site: list[str]) -> None:
    heavy = fetch_it("/photo", most=100)
    assert isinstance(heavy, Problem) and heavy.kind == "too many bytes"
    begun = time.monotonic()
    assert "too long" in refused(fetch_it("/slow", seconds=0.3)) and time.monotonic() - begun < 2
    assert "404" in refused(fetch_it("/none"))
    assert "too long" in refused(fetched("http://photos.example/photo", 100, -1, resolve))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://photos.example/a",
        "//photos.example/a",
        "http://",
        "http://a:b@photos.example/",
        "a",
    ],
)
def test_only_plain_addresses_of_the_web_are_taken(site: list[str], url: str) -> None:
    refused(fetched(url, 100, 1, resolve))
    assert site == []


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("fec0::1", "::7f00:1", "64:ff9b:1::a00:1"),
        *("::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:a00:1::", "64:ff9b::a00:1", "ff02::1", "::"),
    ],
)
def test_inner_addresses_are_known_in_all_their_clothes(site: list[str], address: str) -> None:
    assert not is_public(address)
    host = f"[{address}]" if ":" in address else address
    assert "not on the public network" in refused(fetched(f"http://{host}/", 100, 1, lambda *_: [PUBLIC, address]))
    assert site == []


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"])
def test_public_ones_are_public(address: str) -> None:
    assert is_public(address)
