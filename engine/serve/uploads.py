"""The photos in a request's body: parts of a form, base64 in JSON, or the body itself.

The body is counted while it comes, so that what is too large is never held: a photo beyond its limit is dropped from
there on and told of, and its neighbours are kept; a body beyond its own is read to no more than twice that, so that its
sender gets to hear why. What all requests hold together is bounded as well (`Memory`).

Forms are cut by python-multipart's parser, and not by starlette's `request.form()`, which knows no limit of a file and
writes each to disk.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.concurrency import run_in_threadpool

from engine.serve.problems import Problem, Refused

_LEAST = 20_000_000  # bytes of a body, whatever the limit of a photo
_COMMAS = 100  # in JSON, for each photo that a request may hold: between its values, and in its names
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a bad form is the sender's to hear of
_FORM, _JSON = "multipart/form-data", "application/json"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a photo in bytes, of a request in bytes and photos."""

    photo_bytes: int = 20_000_000
    body_bytes: int = 133_000_000
    photos: int = 64

    @classmethod
    def of(cls, photo_bytes: int, photos: int, memory_bytes: int) -> Limits:
        """With bodies of up to five of the largest photos, base64 or not, or of many small ones; none that could never
        be held."""
        return cls(photo_bytes, min(max(_LEAST, 5 * photo_bytes) * 4 // 3, memory_bytes), photos)


@dataclasses.dataclass(frozen=True)
class Sent:
    """One thing that was sent: its file's name, its bytes, or an address where they are, or what is wrong with it."""

    name: str
    content: bytes | Problem = b""
    url: str = ""


class Memory:
    """Bytes of bodies that all requests hold together, up to `most`; each request takes its own by `hold`."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def hold(self, count: int) -> None:
        """Raises Refused when there is no room."""
        if self.held + count > self.most:
            raise Refused("busy", f"The photos of all requests fill the {self.most:,} bytes that they may.", 1)
        self.held += count


class Body:
    """A request's body as it comes, counted. Use as a context: what is held counts until its end."""

    def __init__(self, chunks: AsyncIterator[bytes], limits: Limits, memory: Memory) -> None:
        self._chunks, self.limits, self._memory = chunks, limits, memory
        self._held = 0

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.held -= self._held
        self._held = 0

    def hold(self, count: int) -> None:
        self._memory.hold(count)
        self._held += count

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Refused for a body that is too large, at its end or at twice its limit."""
        most, came = self.limits.body_bytes, 0
        async for chunk in self._chunks:
            came += len(chunk)
            if came <= most:
                yield chunk
            elif came > 2 * most:
                break
        if came > most:
            raise Refused("too many bytes", f"The request holds more than {most:,} bytes, all that is taken in one.")


async def photos_in(body: Body, content_type: str) -> list[Sent]:
    """What a request of this Content-Type holds, at least one. Raises Refused."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == _FORM:
        sent = await _of_form(body, content_type)
    elif kind == _JSON:
        sent = await run_in_threadpool(_of_json, await _whole(body), body.limits)  # a large one takes a second
    elif kind.startswith("image/") or kind == "application/octet-stream":
        sent = [Sent("", await _photo(body))]
    else:
        raise Refused("media type", f"The request is said to be {kind!r}." if kind else "The request has no type.")
    if not sent:
        raise Refused("no photo", "There is no photo in the request.")
    return sent


async def _whole(body: Body) -> bytes:
    pieces = []
    async for chunk in body.chunks():
        body.hold(len(chunk))
        pieces.append(chunk)
    return b"".join(pieces)


async def _photo(body: Body) -> bytes | Problem:
    """The body as one photo."""
    part = _Part(body)
    async for chunk in body.chunks():
        part.take(chunk)
    return part.end()


class _Part:
    """A photo that grows."""

    def __init__(self, body: Body) -> None:
        self._body, self._most = body, body.limits.photo_bytes
        self._pieces: list[bytes] = []
        self._came = 0

    def take(self, piece: bytes) -> None:
        self._came += len(piece)
        if self._came <= self._most:
            self._body.hold(len(piece))
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def end(self) -> bytes | Problem:
        return b"".join(self._pieces) if self._came <= self._most else _too_many(self._came, self._most)


def _too_many(came: int, most: int) -> Problem:
    return Problem("too many bytes", f"The file has {came:,} bytes; {most:,} are taken.")


async def _of_form(body: Body, content_type: str) -> list[Sent]:
    """The files of a form, whatever its fields are called; its other fields are passed over."""
    from python_multipart.exceptions import FormParserError

    try:
        form = _Form(body, content_type)
        async for chunk in body.chunks():
            form.feed(chunk)
        form.finish()
    except FormParserError as error:
        raise Refused("malformed", f"The form cannot be read: {error}.") from None
    return form.sent


class _Form:
    """A form that comes in pieces."""

    def __init__(self, body: Body, content_type: str) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise Refused("malformed", "The form's Content-Type names no boundary.")
        self._body = body
        self.sent: list[Sent] = []
        self._field, self._value = b"", b""
        self._name: str | None = None  # of the part's file; None for another field
        self._part = _Part(body)
        self._whole = False
        self._options = parse_options_header
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header,
                "on_part_data": self._on_data,
                "on_part_end": self._end,
                "on_end": self._on_end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def finish(self) -> None:
        """Raises Refused for a form that was cut off."""
        if not self._whole:
            raise Refused("malformed", "The form ends before its last boundary.")

    def _begin(self) -> None:
        self._name, self._part = None, _Part(self._body)

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            options = self._options(self._value)[1]
            extended = re.search(rb";\s*filename\*=[^']*'[^']*'([^;\s]*)", self._value, re.IGNORECASE)
            if b"filename" in options:
                self._name = options[b"filename"].decode("utf-8", errors="replace")
            elif extended:  # RFC 7578 forbids it; some clients name files so that are not in ASCII
                self._name = unquote_to_bytes(extended.group(1)).decode("utf-8", errors="replace")
        self._field, self._value = b"", b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._name is not None:
            self._part.take(data[start:end])

    def _end(self) -> None:
        if self._name is None:
            return
        self.sent.append(Sent(self._name, self._part.end()))
        _refuse_many(len(self.sent), self._body.limits)

    def _on_end(self) -> None:
        self._whole = True


def _of_json(text: bytes, limits: Limits) -> list[Sent]:
    """{"photos": [{"base64": "...", "name": "a.jpg"}, {"url": "https://..."}]}"""
    if text.count(b",") > _COMMAS * limits.photos:  # a million empty lists take a hundred times their text's memory
        raise Refused("malformed", f"The JSON holds far more values than those of {limits.photos} photos.")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused("malformed", f"The body is no JSON: {error}.") from None
    photos = content.get("photos") if isinstance(content, dict) else None
    if not isinstance(photos, list):
        raise Refused("malformed", 'The JSON should be {"photos": [{"base64": "..."}, ...]}.')
    _refuse_many(len(photos), limits)
    return [_of_entry(entry, number, limits) for number, entry in enumerate(photos)]


def _of_entry(entry: Any, number: int, limits: Limits) -> Sent:
    known = {"name", "base64", "url"}
    if (
        not isinstance(entry, dict)
        or not all(isinstance(value, str) for value in entry.values())
        or not entry.keys() <= known
        or len(entry.keys() & {"base64", "url"}) != 1
    ):
        raise Refused(
            "malformed", f"photos[{number}] should hold either base64 or url, and may hold a name, each as text."
        )
    name = _as_text(entry.get("name", ""))
    if "url" in entry:
        url = _as_text(entry["url"])
        return Sent(name or url, url=url)
    try:
        content = base64.b64decode(entry["base64"], validate=True)
    except (binascii.Error, ValueError) as error:
        return Sent(name, Problem("not base64", f"The text is not base64: {error}."))
    most = limits.photo_bytes
    return Sent(name, content if len(content) <= most else _too_many(len(content), most))


def _as_text(value: str) -> str:
    """Without halves of surrogate pairs, which JSON may hold and no answer can repeat."""
    return value.encode("utf-8", errors="replace").decode("utf-8")


def _refuse_many(count: int, limits: Limits) -> None:
    if count > limits.photos:
        raise Refused("too many photos", f"The request holds more than {limits.photos} photos.")
