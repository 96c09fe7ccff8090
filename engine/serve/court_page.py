"""The label court's page: on a small server for this machine alone, or as one file to send to somebody.

Both are the same page. The server hands it the suspects, takes each decision and writes it down before it answers; in
the file the photos stand in the page itself, and decisions stay in the browser until they are downloaded.

The server shows photos and takes orders, so it listens on 127.0.0.1 alone, its address holds a secret, and it answers
only to its own name: a page of another site that the same browser has open knows the secret as little as a host name
that was pointed at this machine helps it (DNS rebinding). Photos are asked for by their place in the run's own list,
never by path.
"""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from engine.court.court import Beside, Court
from engine.court.decisions import Decision
from engine.data.ingest import Progress
from engine.errors import EngineError
from engine.files import write_text
from engine.pictures import thumbnail
from engine.quarantine import Fault
from engine.report.page import data_url

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI
    from PIL.Image import Image

HOST = "127.0.0.1"
_LARGE, _SMALL = 1600, 240  # pixels of the longer side
_LARGE_IN_FILE, _SMALL_IN_FILE = 640, 112
_QUALITY, _QUALITY_IN_FILE = 90, 75
_MOST_BODY = 64 << 10  # bytes of what the page sends


class Wish(BaseModel):
    """A decision that a page sends. who: "" for whoever started the server."""

    id: str
    decision: Literal["keep", "relabel", "drop", "unsure", "undo"]
    new: str = ""
    who: str = ""


class _Sheet:
    """What a page is told of a court: its cases, with a number for each photo that it may show."""

    def __init__(self, court: Court, places: Sequence[int]) -> None:
        self.court = court
        self.cases = [court.case(place) for place in places]
        self.ids: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, id_: str) -> int:
        """The number of a photo."""
        if id_ not in self._number:
            self._number[id_] = len(self.ids)
            self.ids.append(id_)
        return self._number[id_]

    @cached_property
    def content(self) -> dict[str, Any]:
        """As JSON values; photos by number."""

        def beside(photos: Sequence[Beside]) -> list[dict[str, Any]]:
            return [{"id": one.id, "label": one.label, "photo": self.number(one.id)} for one in photos]

        cases = []
        for one in self.cases:
            own = one.to_dict() | {"photo": self.number(one.id)}
            cases.append(own | {"nearest": beside(one.nearest), "twins": beside(one.twins)})
        title = self.court.photos.recipe.name or self.court.run.path.name
        return {"title": title, "classes": list(self.court.classes), "cases": cases}

    def picture(self, number: int, side: int) -> Image | Fault:
        """A photo, upright, its longer side at most `side`. Raises IndexError for a number that no photo has."""
        if not 0 <= number < len(self.ids):
            raise IndexError(number)
        decode = self.court.photos.recipe.decode
        path = self.court.path(self.ids[number])
        return thumbnail(path, (side, side), decode.background, decode.max_megapixels)


def _told(decided: dict[str, Decision]) -> dict[str, Any]:
    return {id_: {"decision": one.kind, "new": one.new, "who": one.who} for id_, one in decided.items()}


def _page(content: dict[str, Any] | None) -> str:
    """The page's HTML; with its content in it, or to ask a server for it."""
    template = resources.files("engine.serve").joinpath("court.html").read_text("utf-8")
    text = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    return template.replace("/*CONTENT*/ null", text, 1)


# --- one file ---------------------------------------------------------------------------------------------------------


def write_court(court: Court, places: Sequence[int], path: Path, progress: Progress | None = None) -> None:
    """Write the page of these suspects with all that it shows in it."""
    sheet = _Sheet(court, places)
    content = sheet.content
    large = {case["photo"] for case in content["cases"]}
    photos: dict[int, str] = {}
    for number in range(len(sheet.ids)):
        side = _LARGE_IN_FILE if number in large else _SMALL_IN_FILE
        found = sheet.picture(number, side)
        photos[number] = "" if isinstance(found, Fault) else data_url(found, _QUALITY_IN_FILE)
        if progress:
            progress(number + 1, len(sheet.ids))
    write_text(path, _page(content | {"photos": photos, "decided": _told(court.decided())}))


# --- a server ---------------------------------------------------------------------------------------------------------


def court_app(
    court: Court, places: Sequence[int], who: str, token: str, end: Callable[[], None], host: str = ""
) -> FastAPI:
    """The application. All of it lies under `token`; `host`: the only name and port that it answers to, where given.
    `end` is called when a person has the page end the session."""
    from fastapi import FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    sheet = _Sheet(court, places)
    content = sheet.content
    app = FastAPI(title="Label court", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Any]) -> Response:
        origin = request.headers.get("origin", "")
        if host and request.headers.get("host", "") != host:
            return JSONResponse({"detail": f"this is {host}"}, 421)
        if host and origin not in ("", f"http://{host}"):
            return JSONResponse({"detail": "asked from another page"}, 403)
        if int(request.headers.get("content-length", "0") or 0) > _MOST_BODY:
            return JSONResponse({"detail": "too large"}, 413)
        if "transfer-encoding" in request.headers:  # no page sends it, and it says no length
            return JSONResponse({"detail": "say how long it is"}, 411)
        response: Response = await answer(request)
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "connect-src 'self'; frame-ancestors 'none'"
        )
        return response

    @app.get(f"/{token}/")
    def page() -> HTMLResponse:
        return HTMLResponse(_page(None))

    @app.get(f"/{token}/court")
    def cases() -> JSONResponse:
        return JSONResponse(content | {"who": who, "decided": _told(court.decided())})

    @app.get(f"/{token}/decided")
    def decided() -> JSONResponse:
        return JSONResponse(_told(court.decided()))

    @app.post(f"/{token}/decide")
    def decide(wish: Wish) -> JSONResponse:
        try:
            court.decide(wish.id, wish.decision, wish.new, wish.who or who)
        except KeyError:
            raise HTTPException(404, "no photo of this run") from None
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        except EngineError as error:  # the disk does not take it
            raise HTTPException(507, str(error)) from None
        return JSONResponse(_told(court.decided()))

    @app.get(f"/{token}/photo/{{number}}")
    def photo(number: int, small: bool = False) -> Response:
        try:
            found = sheet.picture(number, _SMALL if small else _LARGE)
        except IndexError:
            raise HTTPException(404, "no photo of this page") from None
        if isinstance(found, Fault):
            raise HTTPException(404, found.detail)
        file = io.BytesIO()
        found.save(file, "JPEG", quality=_QUALITY)
        return Response(file.getvalue(), media_type="image/jpeg")

    @app.post(f"/{token}/end")
    def ended() -> JSONResponse:
        end()
        return JSONResponse({"ended": True})

    return app


def serve(
    court: Court,
    places: Sequence[int],
    who: str,
    port: int = 0,
    open_browser: bool = True,
    tell: Callable[[str], object] = print,
) -> None:
    """Serve the page on this machine until Ctrl-C or the page's own end. Raises EngineError for a taken port."""
    import uvicorn

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise EngineError(f"--port {port}: {error.strerror}; choose another one, or leave it out") from None
        host = f"{HOST}:{listening.getsockname()[1]}"
        token = secrets.token_urlsafe(16)
        server: uvicorn.Server

        def end() -> None:
            server.should_exit = True

        app = court_app(court, places, who, token, end, host)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        address = f"http://{host}/{token}/"
        tell(f"Judge at {address} (Ctrl-C ends it; every decision is saved at once)")
        if open_browser:
            _open(address)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends in order, and then says it again
            server.run(sockets=[listening])


def _open(address: str) -> None:
    import webbrowser

    threading.Timer(0.5, webbrowser.open, (address,)).start()  # by then it is answered
