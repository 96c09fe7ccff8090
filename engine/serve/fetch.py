"""A photo at an address of the web, which is off unless the server is started with it: whoever may name an address may
have the server ask for it, from inside the network that the server stands in.

So only http and https, and only hosts all of whose addresses are public ones. The connection is made to the very
address that was looked at, since a name may resolve otherwise the next time; redirects are followed by hand, each
looked at in the same way; bytes are counted, and time is limited as a whole and not by the packet.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from engine.serve.problems import Problem

_REDIRECTS = 3
_CHUNK = 1 << 16
_AS_IT_IS = "%/:?#[]@!$&'()*+,;=~"  # in a path; what is not ASCII, a Korean name, is quoted
_GLOBAL = ipaddress.ip_network("2000::/3")  # RFC 4291: all that is given out
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits
Resolve = Callable[[str, int], list[str]]
"""(host, port) -> the addresses of the host. Raises OSError."""


class _Refused(Exception):
    """In words."""


def resolved(host: str, port: int) -> list[str]:
    """What the system's resolver says."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def fetched(url: str, most_bytes: int, timeout_s: float, resolve: Resolve = resolved) -> bytes | Problem:
    """The bytes at an address, or why they cannot be had."""
    deadline_s = time.monotonic() + timeout_s
    try:
        for _ in range(_REDIRECTS + 1):
            found = _asked(_checked(url), most_bytes, deadline_s, resolve)
            if not isinstance(found, str):
                return found
            url = urljoin(url, found)
        raise _Refused(f"leads on more than {_REDIRECTS} times")
    except _Refused as error:
        return Problem("url", f"The address {error}.")
    except (OSError, http.client.HTTPException, ValueError) as error:  # TimeoutError and ssl.SSLError are OSErrors
        return Problem("url", f"The address cannot be fetched: {str(error) or type(error).__name__}.")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public network, also when it is wrapped in another."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip not in _GLOBAL:  # is_global also lets through site-local ones, and IPv4 in older clothes
            return False
    return ip.is_global and not ip.is_multicast


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _Refused("is neither http:// nor https://")
    if parts.username is not None or parts.password is not None:
        raise _Refused("holds a name or a password")
    return parts


def _asked(parts: SplitResult, most_bytes: int, deadline_s: float, resolve: Resolve) -> bytes | str | Problem:
    """The bytes, or where they are now."""
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    _left_s(deadline_s)
    addresses = resolve(host, port)
    if not addresses or not all(map(is_public, addresses)):
        raise _Refused("is not on the public network")
    connection = _Pinned(host, port, addresses[0], parts.scheme == "https", deadline_s)
    watch = threading.Timer(_left_s(deadline_s), connection.cut)
    watch.start()
    try:
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), _AS_IT_IS)
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "engine"})
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and (place := answer.getheader("Location")):
            return place
        if answer.status != 200:
            raise _Refused(f"answers {answer.status} {answer.reason}")
        pieces, came = [], 0
        while piece := answer.read1(_CHUNK):
            came += len(piece)
            if came > most_bytes:
                return Problem("too many bytes", f"What the address holds has more than {most_bytes:,} bytes.")
            pieces.append(piece)
        _left_s(deadline_s)  # what was cut off looks whole
        return b"".join(pieces)
    finally:
        watch.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that is given, and not looked up again; over TLS the certificate is the host's."""

    def __init__(self, host: str, port: int, address: str, tls: bool, deadline_s: float) -> None:
        super().__init__(host, port)
        self._address, self._tls, self._deadline_s = address, tls, deadline_s
        self._line: socket.socket | None = None

    def connect(self) -> None:
        self._line = self.sock = socket.create_connection((self._address, self.port), _left_s(self._deadline_s))
        if self._tls:
            context = ssl.create_default_context()
            self._line = self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def cut(self) -> None:
        """End it now, whatever it waits for: a timeout of the socket begins anew with every byte."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("it takes too long")
    return left_s
