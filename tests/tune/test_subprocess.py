"""A run in a process of its own: what it tells arrives, and nothing it dies of takes the others along."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from engine.errors import EngineError, Interrupted
from engine.events import Event, FoldBegan, ImagesDone, Notice, Watcher
from engine.tune.subprocess import ERROR, run_apart

WORK = """
import os, signal, time
from engine.errors import DataError, Interrupted
from engine.events import FoldBegan, ImagesDone, Notice

def tell(first, watcher, stop):
    watcher.hear(FoldBegan(0, 8, 0, 0))
    watcher.hear(ImagesDone(4, 0.5))
    watcher.hear(Notice("읽어 보세요"))
    return first + 1

def refuse(watcher, stop):
    raise DataError("photos/a.jpg: is no image")

def break_down(watcher, stop):
    raise ValueError("shapes differ\\nand more")

def be_killed(watcher, stop):
    os.kill(os.getpid(), signal.SIGKILL)

def wait(watcher, stop):
    watcher.hear(Notice("waiting"))
    os.kill(os.getpid(), signal.SIGINT)  # as a terminal sends it to all
    os.kill(os.getpid(), signal.SIGTERM)
    until = time.monotonic() + 60
    while not stop():
        assert time.monotonic() < until
        time.sleep(0.01)
    raise Interrupted("stopped after step 3")
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that a new process finds as well."""
    (tmp_path / "work_of_a_child.py").write_text(WORK, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("work_of_a_child")


class Diary(Watcher):
    def __init__(self) -> None:
        self.told: list[Event] = []

    def hear(self, event: Event) -> None:
        self.told.append(event)


def never() -> bool:
    return False


def test_what_it_tells_and_returns_arrives(work: ModuleType, tmp_path: Path) -> None:
    diary = Diary()
    assert run_apart(work.tell, (41,), tmp_path, diary, never) == 42
    assert diary.told == [FoldBegan(0, 8, 0, 0), ImagesDone(4, 0.5), Notice("읽어 보세요")]


def test_its_errors_are_raised_here(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^photos/a.jpg: is no image$"):
        run_apart(work.refuse, (), tmp_path, Watcher(), never)
    assert not (tmp_path / ERROR).exists()
    with pytest.raises(EngineError, match=rf"^ValueError: shapes differ \(see .*{ERROR}\)$"):
        run_apart(work.break_down, (), tmp_path, Watcher(), never)
    assert "in break_down" in (tmp_path / ERROR).read_text("utf-8")


def test_its_death_is_an_error(work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="killed, most likely because memory ran out"):
        run_apart(work.be_killed, (), tmp_path, Watcher(), never)


def test_it_is_asked_to_stop_and_deaf_to_signals(work: ModuleType, tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(Interrupted, match="stopped after step 3"):
        run_apart(work.wait, (), tmp_path, diary, lambda: bool(diary.told))
