"""A run in a process of its own, whose peak memory is then that run's alone, and whose death is no one else's.

The child sends the events of its run over a pipe, and the parent's watcher hears them. Signals are for the parent: it
sets a flag, which the child asks for between its steps. A child whose parent has died stops as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import EngineError, Interrupted
from engine.events import Event, Stop, Watcher
from engine.files import write_text

T = TypeVar("T")
Work = Callable[..., T]
"""What is done in the child: a function of a module, called with its arguments, a watcher and a stop."""

ERROR = "error.txt"
_ASK_EVERY = 0.2  # seconds between looks at `stop`


@dataclasses.dataclass(frozen=True)
class _Answer:
    result: Any = None
    interrupted: str = ""
    error: str = ""


def run_apart(work: Work[T], arguments: tuple[Any, ...], folder: Path, watcher: Watcher, stop: Stop) -> T:
    """What `work(*arguments, watcher, stop)` returns, done in a process of its own.

    Raises Interrupted when `stop` said so, EngineError with what went wrong in the process: its own EngineErrors, any
    other (whose traceback is then in `folder`), or its death.
    """
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    receiver, sender = context.Pipe(duplex=False)
    asked = context.Event()
    process = context.Process(target=_child, args=(work, arguments, folder, sender, asked, os.getpid()))
    process.start()
    sender.close()  # the child's end alone is open now, so that its death ends the pipe
    try:
        answer = _listen(receiver, asked, watcher, stop)
        process.join()
    finally:
        if process.is_alive():  # interrupted for the second time
            process.kill()
            process.join()
        receiver.close()
    if answer is None:
        raise EngineError(_death(process))
    if answer.interrupted:
        raise Interrupted(answer.interrupted)
    if answer.error:
        raise EngineError(answer.error)
    result: T = answer.result
    return result


def _listen(receiver: Connection, asked: Flag, watcher: Watcher, stop: Stop) -> _Answer | None:
    """Pass on what the child tells until it answers; None when it died instead."""
    while True:
        if stop():
            asked.set()
        if not receiver.poll(_ASK_EVERY):
            continue
        try:
            told = receiver.recv()
        except EOFError:
            return None
        if isinstance(told, _Answer):
            return told
        watcher.hear(told)


def _death(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code == -signal.SIGKILL:
        return "its process was killed, most likely because memory ran out: lower the batch with --set stage.0.batch=N"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    return f"its process ended with exit code {code} and no answer"


class _Pipe(Watcher):
    """Sends what it hears over a pipe."""

    def __init__(self, sender: Connection) -> None:
        self._sender = sender

    def hear(self, event: Event) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more; `stop` knows, and the state is saved
            self._sender.send(event)


def _child(
    work: Work[Any], arguments: tuple[Any, ...], folder: Path, sender: Connection, asked: Flag, parent: int
) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal sends Ctrl-C to both
        signal.signal(number, signal.SIG_IGN)

    def stop() -> bool:
        return asked.is_set() or os.getppid() != parent

    try:
        answer = _Answer(result=work(*arguments, _Pipe(sender), stop))
    except Interrupted as error:
        answer = _Answer(interrupted=str(error))
    except EngineError as error:
        answer = _Answer(error=str(error))
    except Exception as error:  # whatever it is: the others' turns come, and the traceback is kept
        write_text(folder / ERROR, traceback.format_exc())
        first = (str(error).splitlines() or [""])[0]
        answer = _Answer(error=f"{type(error).__name__}: {first} (see {folder / ERROR})")
    with contextlib.suppress(BrokenPipeError):
        sender.send(answer)
