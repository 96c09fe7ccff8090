"""Two processes never work in one folder, and a dead one keeps nobody out of it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.store import occupied
from engine.store.occupied import DEAD_AFTER_S, Holder, only_one, refuse_if_taken

HERE = Holder.here()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "models" / "running.json"


def leave(file: Path, age_s: float = 0.0, **differing: object) -> Holder:
    """A file as some process left it."""
    holder = dataclasses.replace(HERE, token="other", **differing)  # type: ignore[arg-type]
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(dataclasses.asdict(holder)), "utf-8")
    then = file.stat().st_mtime - age_s
    os.utime(file, (then, then))
    return holder


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_second_is_refused_and_told_who_is_there_since_when(file: Path) -> None:
    with only_one(file, "a run", "Choose another folder"):
        held = json.loads(file.read_text("utf-8"))
        with pytest.raises(EngineError) as caught, only_one(file, "a run", "Choose another folder"):
            pytest.fail("it was let in")
        assert str(caught.value) == (
            f"{file.parent}: a run is going on there, process {os.getpid()} on {socket.gethostname()}, "
            f"since {held['since']}. Wait for it or stop it. Choose another folder"
        )
        with pytest.raises(EngineError, match="a run is going on there"):
            refuse_if_taken(file, "a run", "")
        assert json.loads(file.read_text("utf-8")) == held
    refuse_if_taken(file, "a run", "")


@pytest.mark.parametrize("error", [None, EngineError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_it_is_given_back_however_the_work_ends_and_nothing_is_left(file: Path, error: BaseException | None) -> None:
    try:
        with only_one(file, "a run", ""):
            assert [path.name for path in file.parent.iterdir()] == [file.name]
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert list(file.parent.iterdir()) == []


def test_what_a_killed_process_left_is_taken_over(file: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from engine.store.occupied import only_one\n"
        "with only_one(Path(sys.argv[1]), 'a run', ''): print(flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(EngineError, match=f"process {process.pid} on "):
            refuse_if_taken(file, "a run", "")
    finally:
        process.send_signal(signal.SIGKILL)
    # Dead, though nobody has asked after it yet: a zombie has a number, too.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with only_one(file, "a run", ""):
        assert json.loads(file.read_text("utf-8"))["process"] == os.getpid()
    process.wait()
    process.stdout.close()


def test_a_number_that_another_process_has_got_since_is_no_sign_of_life(file: Path) -> None:
    leave(file, process=os.getpid(), began="1")
    with only_one(file, "a run", ""):
        pass


@pytest.mark.parametrize("differing", [{"machine": "another boot"}, {"machine": ""}, {"host": "b", "machine": "c"}])
def test_a_process_that_cannot_be_seen_lives_as_long_as_it_gives_signs_of_it(
    file: Path, differing: dict[str, str]
) -> None:
    holder = leave(file, age_s=DEAD_AFTER_S - 60, process=dead(), **differing)
    with pytest.raises(EngineError, match=rf"on {holder.host}, .*5 minutes after its last sign of life, or remove"):
        refuse_if_taken(file, "a run", "")
    leave(file, age_s=DEAD_AFTER_S + 60, process=dead(), **differing)
    with only_one(file, "a run", ""):
        pass


def test_whoever_holds_a_folder_gives_signs_of_life(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "BEAT_S", 0.005)
    with only_one(file, "a run", ""):
        os.utime(file, (1000, 1000))
        waited = threading.Event()
        while file.stat().st_mtime < 2000:
            waited.wait(0.005)


def test_a_process_of_somebody_else_is_alive_though_it_cannot_be_looked_at(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(file, process=4242)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(occupied, "_began", lambda process: None)  # /proc mounted with hidepid
    monkeypatch.setattr(os, "kill", refuse)
    with pytest.raises(EngineError, match="process 4242"):
        refuse_if_taken(file, "a run", "")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}'])
def test_a_file_that_says_nothing_keeps_nobody_out(file: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "_TRIES", 4)
    file.parent.mkdir()
    file.write_text(content, "utf-8")
    with only_one(file, "a run", ""):
        pass


def test_a_drive_without_links_will_do(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    refused = pytest.raises(EngineError, match="a run is going on there")
    with only_one(file, "a run", ""), refused, only_one(file, "a run", ""):
        pass
    assert list(file.parent.iterdir()) == []


def test_of_many_that_find_a_dead_one_a_single_one_takes_its_place(file: Path) -> None:
    leave(file, process=dead(), began="1")
    inside, refused, ready = [], [], threading.Barrier(8)
    all_tried = threading.Barrier(8)

    def enter(number: int) -> None:
        ready.wait()
        try:
            with only_one(file, "a run", ""):
                inside.append(number)
                all_tried.wait()
        except EngineError as error:
            refused.append(str(error))
            all_tried.wait()

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 7)
    assert list(file.parent.iterdir()) == []


def test_who_was_taken_over_does_not_give_back_what_is_anothers(file: Path) -> None:
    with only_one(file, "a run", ""):
        leave(file)
    assert json.loads(file.read_text("utf-8"))["token"] == "other"
