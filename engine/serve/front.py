"""What every request passes, before and after what it asks for: it is counted and timed, errors of all kinds become one
form, and a server that stops takes on nothing new.

Written as an ASGI application around another, because it has to see the end of a request as well as its beginning.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.serve.gauges import PATHS
from engine.serve.problems import Problem, Refused
from engine.serve.service import Service

_READ_ON_S = 5.0  # for how long, at most, the rest of a refused request is read
GONE = 499  # nginx's number for a client that did not wait
logger = logging.getLogger("engine.serve")


class Front:
    """`app`, which is the service's, with this before it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_s, status, path = time.monotonic(), GONE, scope["path"]

        unread = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])

        async def received() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                await self._read_on(received, lambda: unread)
            await send(message)

        works = path in PATHS and scope["method"] == "POST"
        service = self._service
        service.gauges.began()
        service.working += works
        try:
            if works and service.stopping:
                await refusal(Problem("stopping", "The server is about to stop.", 1))(scope, received, sent)
            else:
                await self._app(scope, received, sent)
        except Exception:
            status = 500
            raise
        finally:
            service.working -= works
            seconds = time.monotonic() - begun_s
            service.gauges.ended(path, status, seconds)
            if service.settings.log:
                line = {"time": time.time(), "method": scope["method"], "path": path, "status": status}
                print(json.dumps(line | {"seconds": round(seconds, 6)}), file=sys.stderr, flush=True)

    async def _read_on(self, receive: Receive, unread: Callable[[], bool]) -> None:
        """Read and drop what is left of a body whose request is refused early: a client that is still sending would not
        see the answer, only that the connection is reset. What is too long for that is cut off."""
        came, most = 0, self._service.settings.limits.body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READ_ON_S):
                while unread() and came <= most:
                    came += len((await receive()).get("body", b""))


def refusal(problem: Problem) -> JSONResponse:
    """The problem as an answer."""
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return JSONResponse(problem.to_dict(), problem.status, headers)


async def refused(_: Request, error: Exception) -> JSONResponse:
    """For Refused."""
    assert isinstance(error, Refused)
    return refusal(error.problem)


async def gone(_: Request, __: Exception) -> Response:
    """For Gone and starlette's ClientDisconnect; nobody reads it."""
    return Response(status_code=GONE)


async def not_there(_: Request, error: Any) -> JSONResponse:
    """For starlette's HTTPException."""
    kind = {404: "no such page", 405: "method"}.get(error.status_code, "malformed")
    response = refusal(Problem(kind, f"{error.detail}."))
    response.headers.update(error.headers or {})
    return response


async def unfit(_: Request, error: Any) -> JSONResponse:
    """For FastAPI's RequestValidationError."""
    told = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return refusal(Problem("value", f"{told}."))


async def broken(_: Request, error: Exception) -> JSONResponse:
    """For everything else."""
    logger.error("a request failed", exc_info=error)
    return refusal(Problem("broken", f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"))
