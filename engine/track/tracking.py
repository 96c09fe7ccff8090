"""Keeps trackers up with a run while it trains.

A tracker may wait for a network, or never answer at all. So each has a thread of its own, which reads the log when an
epoch has ended and sends what is new; training only wakes it. What cannot be sent is told once and tried again after
the next epoch, and at the end for a limited time. Whatever is missing then is sent by the next process, because the
log is still there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import queue
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType

from engine.errors import EngineError, Interrupted
from engine.events import EpochEnded, Event, FoldBegan, Notice, Watcher
from engine.files import write_text
from engine.recipe.load import dump_recipe
from engine.recipe.sections import Recipe, TrackSection
from engine.store.run_folder import RunFolder
from engine.track.mlflow import MLflow, needed_modules
from engine.track.tensorboard import TensorBoard
from engine.track.tracker import End, TrackedFold, TrackedRun, Tracker, read_epochs, read_scores
from engine.track.wandb import Wandb, chosen_mode

# Seconds that the end of a run waits for its trackers. Who stops a run wants to go, and may be killed in half a minute.
_PATIENCE_S: dict[End, float] = {"finished": 60.0, "stopped": 15.0, "failed": 15.0}
_QUIET_S = 2.0  # of them without a word
_LONGEST_REASON = 300


def check(track: TrackSection) -> None:
    """Raise EngineError when a tracker of the recipe cannot be used here; to be called before the work begins."""
    needed = {
        "tensorboard": ["tensorboard"] if track.tensorboard else [],
        "wandb": ["wandb"] if _wants_wandb(track) else [],
        "mlflow": needed_modules(track.mlflow) if track.mlflow else [],
    }
    for key, modules in needed.items():
        if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
            off = "false" if key == "tensorboard" else '""'
            raise EngineError(
                f"track.{key} needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}, or "
                f"set track.{key} = {off}"
            )
    if _wants_wandb(track) and chosen_mode(track.wandb_mode) == "online":
        import wandb

        if not wandb.login(prompt=False, verify=False):
            raise EngineError(
                "track.wandb: this machine is not logged in at Weights & Biases. Run `wandb login`, set WANDB_API_KEY, "
                'or set track.wandb_mode = "offline" and `wandb sync` later'
            )


def _wants_wandb(track: TrackSection) -> bool:
    return bool(track.wandb) and chosen_mode(track.wandb_mode) != "disabled"


class Tracking(Watcher):
    """A watcher of a run and a context: within it the recipe's trackers follow the run in `recipe.output`.

    Only for the process that writes there. It stands beside the other watchers, behind the log; what the user should
    read about trackers it tells `screen`. It looks at the folder when the first fold begins: until then what is in it
    may be another run's, about to be removed.
    """

    def __init__(self, recipe: Recipe, screen: Watcher) -> None:
        self._recipe, self._screen = recipe, screen
        self._senders: list[_Sender] | None = None  # None: the run has not begun

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._senders is None and kind is not None:
            return  # it was refused
        end: End = "finished"
        if kind is not None:
            end = "stopped" if issubclass(kind, Interrupted | KeyboardInterrupt) else "failed"
        senders = self._begun()
        for sender in senders:
            sender.end(end)
        self._wait(senders, 0.0 if kind is KeyboardInterrupt else _PATIENCE_S[end])

    def hear(self, event: Event) -> None:
        match event:
            case FoldBegan():
                self._begun()
            case EpochEnded():
                for sender in self._begun():
                    sender.wake()
                    if trouble := sender.untold():
                        self._tell(f"{trouble}. Training goes on, and what is missing is sent later")

    def _tell(self, message: str) -> None:
        self._screen.hear(Notice(message))

    def _begun(self) -> list[_Sender]:
        """The trackers, followed from now on: the folder is this run's."""
        if self._senders is None:
            self._senders = _senders(self._recipe)
        return self._senders

    def _wait(self, senders: list[_Sender], patience_s: float) -> None:
        """Until all is sent, or as long as it seems worth."""
        began = time.monotonic()
        for quiet in (True, False):
            for sender in senders:
                until = began + min(patience_s, _QUIET_S if quiet else patience_s)
                if not sender.wait(until - time.monotonic()) and quiet and patience_s > _QUIET_S:
                    self._tell(f"sending to {sender.title}")
        for sender in senders:
            if trouble := sender.trouble or ("" if sender.wait(0) else f"{sender.title} did not answer in time"):
                self._tell(f"{trouble}. What is missing there is sent when the same command is given again")


def _senders(recipe: Recipe) -> list[_Sender]:
    track, folder = recipe.track, RunFolder(Path(recipe.output))
    numbers = recipe.data.folds.run or tuple(range(recipe.data.folds.count))
    folds = [TrackedFold(folder, number) for number in numbers]
    for one in recipe.specialist:
        folds += [TrackedFold(folder.specialist(one.name), number, one.name) for number in numbers]
    state = _State(folder.tracking)
    values = recipe.model_dump(mode="json", exclude={"track"})
    run = TrackedRun(folder, state.id, recipe.name, values, tuple(folds), dump_recipe(recipe))
    senders = []
    if track.tensorboard:
        senders.append(_Sender("TensorBoard", lambda: TensorBoard(run), run, None))
    if _wants_wandb(track):
        mode = chosen_mode(track.wandb_mode)
        sent = _Sent(state, "wandb", (track.wandb, mode))
        senders.append(_Sender("Weights & Biases", lambda: Wandb(run, track.wandb, mode), run, sent))
    if track.mlflow:
        sent = _Sent(state, "mlflow", (track.mlflow, track.mlflow_experiment))
        senders.append(_Sender("MLflow", lambda: MLflow(run, track.mlflow, track.mlflow_experiment), run, sent))
    return senders


class _State:
    """The file with the run's id, made when it is not there, and with what each tracker had got at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        try:
            self._content = json.loads(path.read_text("utf-8"))
            self.id = str(self._content["id"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.id = uuid.uuid4().hex[:12]
            self._content = {"id": self.id, "sent": {}}
            self._write()

    def sent(self, name: str) -> str:
        return str(self._content["sent"].get(name, ""))

    def set_sent(self, name: str, digest: str) -> None:
        with self._lock:  # each tracker has its thread
            self._content["sent"][name] = digest
            self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps(self._content, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class _Sent:
    """Remembers that a finished run was sent whole, so that nobody asks a server about it again."""

    state: _State
    name: str
    place: tuple[str, ...]

    def is_all(self, news: _News) -> bool:
        return self.state.sent(self.name) == self._digest(news)

    def remember(self, news: _News) -> None:
        self.state.set_sent(self.name, self._digest(news))

    def _digest(self, news: _News) -> str:
        records = {fold.name: [dataclasses.asdict(e.record) for e in epochs] for fold, epochs in news.epochs.items()}
        text = json.dumps([self.place, records, news.scores], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class _News:
    """What a run's folder says now."""

    def __init__(self, run: TrackedRun, end: End | None) -> None:
        self.epochs = read_epochs(run.folds)
        self.scores: Mapping[str, float] = read_scores(run.folder) if end == "finished" else {}


class _Sender:
    """One tracker and its thread, which ends with the process wherever it is."""

    def __init__(self, title: str, open_: Callable[[], Tracker], run: TrackedRun, sent: _Sent | None) -> None:
        self.title = title
        self.trouble = ""  # what went wrong in the last attempt
        self._open, self._run, self._sent = open_, run, sent
        self._tracker: Tracker | None = None
        self._told = False
        self._calls: queue.SimpleQueue[End | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._serve, name=f"track {title}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new."""
        self._calls.put(None)

    def end(self, end: End) -> None:
        """There is nothing more to come."""
        self._calls.put(end)

    def wait(self, seconds: float) -> bool:
        """Whether all was done, after waiting for it that long at most."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def untold(self) -> str:
        """What went wrong, the first time it is asked for."""
        trouble, self._told = "" if self._told else self.trouble, self._told or bool(self.trouble)
        return trouble

    def _serve(self) -> None:
        end: End | None = None
        while end is None:
            end = self._next_call()
            was_open = self._tracker is not None
            if not self._try(end) and was_open and end is not None:
                self._try(end)  # what was open may be what failed

    def _next_call(self) -> End | None:
        """Wait for a call; of several the last one says all."""
        call = self._calls.get()
        while not self._calls.empty():
            call = self._calls.get()
        return call

    def _try(self, end: End | None) -> bool:
        try:
            self._send(_News(self._run, end), end)
            self.trouble = ""
        except Exception as error:  # a tracker may fail in any way, and training must not
            reason = "; ".join(str(error).split("\n")).strip(" .") or type(error).__name__
            self.trouble = f"{self.title}: {reason[:_LONGEST_REASON]}"
            if self._tracker is not None:
                with contextlib.suppress(Exception):
                    self._tracker.drop()
            self._tracker = None
        return not self.trouble

    def _send(self, news: _News, end: End | None) -> None:
        if self._sent is not None and self._tracker is None and end == "finished" and self._sent.is_all(news):
            return
        if self._tracker is None:
            self._tracker = self._open()
        for fold, epochs in news.epochs.items():
            self._tracker.follow(fold, epochs)
        if news.scores:
            self._tracker.score(news.scores)
        if end is not None:
            self._tracker.close(end)
        if self._sent is not None and end == "finished":
            self._sent.remember(news)
