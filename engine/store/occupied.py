"""One process at a time works in a folder, and the next one is told who does.

A lock of the system (flock) would be given back with the process, but says nothing to whoever meets it, and network
drives have it or not. So the folder holds a file that is made only where there is none, which every file system can do,
with the name of whoever works there. It is given back at the end, also after an error, Ctrl-C and SIGTERM (which
training turns into an ordinary end). Whoever dies without a word leaves it behind, and the next one takes it over:

* on the same machine, when there is no such process, or another one that began later has its number;
* from another machine, or another container on this one, whose processes cannot be seen, when it gave no sign of life
  for `DEAD_AFTER_S`: who works in a folder touches the file every `BEAT_S`. Ages are told by the clock of the file's
  own drive, which both see.

What remains: a process that was held (a laptop asleep) longer than that may find another one in its folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.files import storage_errors

BEAT_S = 30.0
DEAD_AFTER_S = 300.0
_PAUSE_S = 0.05
_TRIES = 40  # at a file that others make and take away at the same moment


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who works in a folder. `machine`: what can see the process by its number: a boot of a machine, and the
    container on it; `began`: when the process did, in the machine's own count."""

    host: str
    machine: str
    process: int
    began: str
    since: str  # ISO 8601
    token: str  # of this holding

    @classmethod
    def here(cls) -> Holder:
        process = os.getpid()
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), _machine(), process, _began(process) or "", since, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"

    def is_gone(self, age_s: float) -> bool:
        """Whether the process is dead, or taken for dead `age_s` seconds after its last sign of life."""
        lives = _lives(self.process, self.began) if self.machine and self.machine == _machine() else None
        return age_s > DEAD_AFTER_S if lives is None else not lives


@contextmanager
def only_one(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold the folder of the file `path` for `what` ("a run") in this process, which the file then says.

    Raises EngineError, with `remedy`, while another process does.
    """
    holder = Holder.here()
    _take(path, holder, what, remedy)
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, holder, ended), name="hold folder", daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        with contextlib.suppress(OSError):
            if _read(path) == holder:
                path.unlink(missing_ok=True)


def refuse_if_taken(path: Path, what: str, remedy: str) -> None:
    """Raise EngineError as `only_one` would; for who would otherwise find out after an hour of preparing."""
    holder = _read(path)
    if holder is not None and not holder.is_gone(_age_s(path)):
        raise EngineError(_refusal(path, holder, what, remedy))


def _take(path: Path, holder: Holder, what: str, remedy: str) -> None:
    for attempt in range(_TRIES):
        if _make(path, holder):
            return
        found = _read(path)
        if found is not None and not found.is_gone(_age_s(path)):
            raise EngineError(_refusal(path, found, what, remedy))
        if found is None and attempt < _TRIES // 2:
            time.sleep(_PAUSE_S)  # it may be being written
        else:
            _remove(path, found)
    raise EngineError(f"{path} cannot be taken: others try at the same moment; try again")


def _make(path: Path, holder: Holder) -> bool:
    """Make the file, whole, if there is none. A link is made or refused in one step, on network drives as well."""
    draft = path.with_name(f"{path.name}.{holder.token}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(dataclasses.asdict(holder), indent=1) + "\n", "utf-8")
            try:
                os.link(draft, path)
            except FileExistsError:
                return False
            except OSError:  # a drive without links
                return _make_without_links(path, draft.read_bytes())
            return True
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def _make_without_links(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _remove(path: Path, dead: Holder | None) -> None:
    """Remove the file of a dead holder, or (None) one that was cut short. Of several processes that found it so, one
    at a time may, and looks again: by now another's file may stand there."""
    right = path.with_name(f"{path.name}.over-{dead.token if dead is not None else 'damaged'}")
    try:
        right.open("xb").close()
    except FileExistsError:
        if _age_s(right) > DEAD_AFTER_S:  # left behind by who died at this very point
            right.unlink(missing_ok=True)
        time.sleep(_PAUSE_S)
        return
    try:
        if path.exists() and _read(path) == dead:
            path.unlink(missing_ok=True)
    finally:
        right.unlink(missing_ok=True)


def _read(path: Path) -> Holder | None:
    """Who holds the folder; None for nobody, and for a file that was cut short."""
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return Holder(**content)
    except (OSError, ValueError, TypeError):
        return None


def _age_s(path: Path) -> float:
    """Seconds since the holder's last sign of life, as the drive itself counts them."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _beat(path: Path, holder: Holder, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a drive that is away for a moment
            if _read(path) == holder:
                os.utime(path)


def _refusal(path: Path, holder: Holder, what: str, remedy: str) -> str:
    told = f"{path.parent}: {what} is going on there, {holder}. Wait for it or stop it. {remedy}"
    if holder.machine == _machine():
        return told
    minutes = f"{DEAD_AFTER_S / 60:.0f} minutes"
    return f"{told}. If that process is dead, its claim ends {minutes} after its last sign of life, or remove {path}"


def _machine() -> str:
    """What numbers of processes are unique in; "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return ""


def _lives(process: int, began: str) -> bool | None:
    """Whether the process that began then is alive; None where that is hidden."""
    if (found := _began(process)) is not None:
        return found == began
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return None  # somebody else's, on a machine that hides these
    return None


def _began(process: int) -> str | None:
    """When a process began, in ticks since the machine did; "" for a dead one that nobody has asked about yet, None
    where that cannot be seen."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    state, *others = status.rpartition(")")[2].split()  # the name before it may hold anything
    return "" if state in "ZX" else others[18]
