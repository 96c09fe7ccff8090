"""The interface: which path does what, for any ASGI server.

    app = app_of(open_model(Path("models")), Settings())

Photos that came together are answered together, and each has its own status in the answer; the request's own status
speaks of a photo only where there was one alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from engine.serve import front
from engine.serve.front import Front, refusal
from engine.serve.gauges import PATHS
from engine.serve.heat import Format, drawn, numbers
from engine.serve.model import Answer, Model
from engine.serve.page import page_response
from engine.serve.photo import Photo
from engine.serve.problems import KINDS, Problem, Refused
from engine.serve.schema import BODY, Answers, Heat, problems
from engine.serve.service import Gone, Looked, Service, ranked
from engine.serve.settings import Settings
from engine.serve.uploads import Body, photos_in

_SERVER = ("busy", "stopping", "too late", "broken")
_PHOTO = tuple(kind for kind, (status, _) in KINDS.items() if status < 500 and kind not in ("no such page", "class"))


def app_of(model: Model, settings: Settings = Settings()) -> FastAPI:  # noqa: B008  it is frozen
    """The application. The model is loaded when it starts, in a thread; /ready says when it is. `app.state.service` is
    what is at work behind it."""
    service = Service(model, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.close)

    app = FastAPI(
        title="engine serve",
        description="Photos are classified: " + ", ".join(model.classes[:20]) + (", ..." * (len(model.classes) > 20)),
        version=_version(),
        lifespan=lifespan,
        docs_url=None,  # these two load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Front, service=service)
    app.add_exception_handler(Refused, front.refused)
    app.add_exception_handler(Gone, front.gone)
    app.add_exception_handler(ClientDisconnect, front.gone)
    app.add_exception_handler(HTTPException, front.not_there)
    app.add_exception_handler(RequestValidationError, front.unfit)
    app.add_exception_handler(Exception, front.broken)
    _add_answers(app, service)
    _add_heatmap(app, service)
    _add_state(app, service)
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    settings, classes = service.settings, service.model.classes

    @app.post(
        PATHS[0],
        openapi_extra=BODY,
        responses={200: {"model": Answers}, **problems(*_PHOTO, *_SERVER)},
        summary="What is in these photos?",
    )
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="How many of the likeliest classes to name.")] = settings.top,
    ) -> Response:
        left_s = _left(settings.timeout_s)
        with _body(request, service) as body:
            looked = await _looked(request, body, service, left_s)
            answers = await service.answers(looked, lambda: _gone(request), left_s())
        if len(answers) == 1 and isinstance(answers[0], Problem):
            return refusal(answers[0])
        entries = [_entry(one.name, answer, top) for one, answer in zip(looked, answers, strict=True)]
        return JSONResponse({"photos": entries})

    def _entry(name: str, answer: Answer | Problem, top: int) -> dict[str, Any]:
        if isinstance(answer, Problem):
            return {"name": name, "status": answer.status, **answer.to_dict()}
        likeliest = ranked(answer.p_C, classes, top)
        first = {"prediction": likeliest[0]["name"], "confidence": likeliest[0]["probability"]}
        return {"name": name, "status": 200, **first, "top": likeliest, **answer.beside}


def _add_heatmap(app: FastAPI, service: Service) -> None:
    classes = service.model.classes

    @app.post(
        PATHS[1],
        openapi_extra=BODY,
        responses={
            200: {"model": Heat, "content": {"image/png": {}, "image/jpeg": {}}, "description": "As `format` says."},
            **problems(*_PHOTO, "class", "no heatmap", *_SERVER),
        },
        summary="Where in this photo does the model see the class?",
    )
    async def heatmap(
        request: Request,
        label: Annotated[str | None, Query(description="Left out: the likeliest class.")] = None,
        format: Annotated[Format, Query(description="The photo with the heat on it, or numbers.")] = "png",
    ) -> Response:
        left_s = _left(service.settings.timeout_s)
        if not service.model.heatmaps:
            raise Refused("no heatmap", "What is served here cannot be looked into.")
        if label is not None and label not in classes:
            raise Refused("class", f"The model knows no class {label!r}.")
        with _body(request, service) as body:
            looked = await _looked(request, body, service, left_s)
            if len(looked) > 1:
                raise Refused("too many photos", f"There are {len(looked)} photos, and one heatmap in an answer.")
            photo = looked[0].photo
            found = (
                await service.heat(photo, label, lambda: _gone(request), left_s())
                if isinstance(photo, Photo)
                else photo
            )
        if isinstance(found, Problem):
            service.gauges.fault(found.kind)
            return refusal(found)
        if format == "json":
            return JSONResponse(numbers(found.label, found.heat_HW))
        drawing = await run_in_threadpool(drawn, found.picture, found.heat_HW, format)
        return Response(drawing, media_type=f"image/{format}")


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return page_response()

    @app.get("/health", summary="Is the process alive?")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Is the model loaded and warm?", responses=problems("not ready", "stopping"))
    async def ready() -> dict[str, str]:
        service.refuse_unless_ready()
        return {"status": "ready"}

    @app.get("/metrics", summary="Counts for Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.gauges.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/model", summary="What is served, and within which limits.")
    async def about() -> dict[str, Any]:
        return _about(service)


def _about(service: Service) -> dict[str, Any]:
    settings = service.settings
    limits = {
        "photo_bytes": settings.limits.photo_bytes,
        "body_bytes": settings.limits.body_bytes,
        "photos": settings.limits.photos,
        "pixels": settings.pixels,
        "timeout_s": settings.timeout_s,
        "batch": settings.shape.batch,
        "url": settings.allow_url,
    }
    return {**service.model.about, "heatmap": service.model.heatmaps, "engine": _version(), "limits": limits}


def _version() -> str:
    try:
        return version("engine")
    except PackageNotFoundError:
        return "run from its source"


def _body(request: Request, service: Service) -> Body:
    return Body(request.stream(), service.settings.limits, service.memory)


async def _looked(request: Request, body: Body, service: Service, left_s: Callable[[], float]) -> list[Looked]:
    """The request's photos. Raises Refused, also when it takes too long to send them."""
    try:
        async with asyncio.timeout(left_s()):
            sent = await photos_in(body, request.headers.get("content-type", ""))
    except TimeoutError:
        raise Refused("too slow", f"The request was not sent in {service.settings.timeout_s:g} s.") from None
    return await service.look(sent, body, left_s)


def _left(timeout_s: float) -> Callable[[], float]:
    """A clock that runs from now, for any thread: seconds that are left."""
    end_s = time.monotonic() + timeout_s
    return lambda: max(0.0, end_s - time.monotonic())


async def _gone(request: Request) -> None:
    """Returns when the client has left. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
