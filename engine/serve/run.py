"""The application in a server of its own: uvicorn's, on a socket that is ours, with an end in order.

uvicorn stops listening at a signal and raises it again at its end. Here the first SIGTERM (or Ctrl-C) only has new work
refused, with a status that balancers understand, while what was accepted is answered; then the process ends with 0. A
second one ends it at once.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from engine.errors import EngineError
from engine.kernels.memory import share_arenas
from engine.serve.app import app_of
from engine.serve.model import Model
from engine.serve.service import Service
from engine.serve.settings import Settings

_KEEP_ALIVE_S = 30
_TWICE_S = 1.0  # a wrapper may pass on a signal that its whole group got: sooner than this it is the same one


def serve(model: Model, settings: Settings, host: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until a signal ends it. `told` hears where, once it listens, and when the model is warm. Raises EngineError
    when it cannot listen there, and what the model raises when it cannot be used."""
    share_arenas()
    app = app_of(model, settings)
    listening = _listening(host, port)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    config = uvicorn.Config(
        app,
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.timeout_s)),
    )
    server = _Server(config, app.state.service, lambda: told(address))
    with listening:
        server.run(sockets=[listening])
    if server.service.failure is not None:
        raise server.service.failure


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"cannot listen on {host}, port {port}: {error}; choose others by --host and --port"
        ) from None


class _Server(uvicorn.Server):
    """Drains before it stops; tells once when the model is ready, and stops when it cannot be used."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self._ready = service, ready
        self._told = self._asked = False
        self._asked_s = 0.0

    async def on_tick(self, counter: int) -> bool:
        if self.service.ready and not self._told:
            self._told = True
            self._ready()
        if self._asked:
            self.service.stopping = True
        if self.service.failure is not None or (self._asked and not self.service.working):
            self.should_exit = True
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._asked and now_s > self._asked_s + _TWICE_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not self._asked:
            self._asked, self._asked_s = True, now_s
