"""Weights & Biases: offline as its files say, online against a server on this machine that answers as theirs does."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from engine.events import EpochEnded, EpochRecord, FoldBegan
from engine.store.run_folder import RunFolder
from engine.track.tracker import read_epochs, read_scores
from engine.track.tracking import Tracking, check
from engine.track.wandb import Wandb, chosen_mode

wandb = pytest.importorskip("wandb")

Make = Callable[..., EpochRecord]
MakeModels = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """wandb keeps a process and its settings from one test to the next."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    wandb.teardown()
    yield
    wandb.teardown()


def records(path: Path) -> Iterator[Any]:
    """What lies in a .wandb file: protobuf messages in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    at, whole = 7, b""  # after the file's header; blocks of 32 KiB hold parts of 7 + n bytes
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(whole)
            whole = b""
            yield message


def rows(path: Path) -> list[dict[str, Any]]:
    """The history in a .wandb file."""
    items = [message.history.item for message in records(path) if message.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in items]


def send(run: Any, mode: str) -> None:
    tracker = Wandb(run.run(), "team/cats" if mode == "online" else "cats", mode)
    for fold, epochs in read_epochs(run.run().folds).items():
        tracker.follow(fold, epochs)
    if scores := read_scores(RunFolder(run.folder)):
        tracker.score(scores)
    tracker.close("finished")


def test_offline_a_process_that_goes_on_leaves_the_whole_run_in_one_folder(
    models: MakeModels, make_record: Make
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1), at=5000.0)
    send(run, "offline")
    run.log(make_record(0, 2), make_record(1, 0))
    run.scores(log_loss=0.9)
    send(run, "offline")
    files = sorted((run.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert sorted(file.name for file in files) == ["run-run1-0.wandb", "run-run1-1.wandb"]
    (first,) = [file for file in files if file.name == "run-run1-0.wandb"]
    for _ in range(100):  # W&B's own process writes the file, and on a busy machine a while later
        if len(history := rows(first)) == 3:
            break
        time.sleep(0.2)
    assert [(row["_step"], row["epoch"], row["valid/log_loss"]) for row in history] == [
        (0, 0, 1.5),
        (1, 1, 1.4),
        (2, 2, 1.3),
    ]
    (about,) = [m.run for m in records(first) if m.WhichOneof("record_type") == "run"]
    assert (about.project, about.run_group, about.display_name) == ("cats", "고양이 A-run1", "고양이 A/0")
    config = {update.key: json.loads(update.value_json) for update in about.config.update}
    assert config["fold"] == 0 and config["stage"][1]["lr"] == 1e-4
    updates = [u for m in records(first) if m.WhichOneof("record_type") == "summary" for u in m.summary.update]
    summary = {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}
    assert summary["out_of_fold/log_loss"] == 0.9 and summary["valid/log_loss"] == {"min": 1.3}


class Server(ThreadingHTTPServer):
    """As much of W&B's server as a run speaks to: it keeps the history of each run by id."""

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        super().__init__(("127.0.0.1", 0), Answer)
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that has left is no news."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("graphql"):
            asked = json.loads(body)
            name = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            assert name is not None
            self._reply({"data": self._data(name[1], asked.get("variables") or {})})
        elif found := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl")
            if lines:
                self.server.history[found[1]][lines["offset"] :] = map(json.loads, lines["content"])
            self._reply({})
        else:
            self._reply({})

    def _data(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "x", "name": "cats", "entity": {"id": "e", "name": "team"}}
        history = self.server.history
        match name:
            case "RunResumeStatus" if variables["name"] in history:
                lines = history[variables["name"]]
                tail = json.dumps([json.dumps(line) for line in lines[-1:]])
                known = {
                    "id": "b",
                    "name": variables["name"],
                    "summaryMetrics": "{}",
                    "displayName": "",
                    "config": "{}",
                }
                known |= {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0, "tags": []}
                known |= {"historyTail": tail, "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
                return {"model": project | {"bucket": known}}
            case "RunResumeStatus":
                return {"model": project | {"bucket": None}}
            case "UpsertBucket":
                new = variables["name"] not in history
                lines = history.setdefault(variables["name"], [])
                bucket = {"id": "b", "name": variables["name"], "config": "{}", "historyLineCount": len(lines)}
                return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": new}}
            case "CreateRunFiles":
                files = [{"name": file, "uploadUrl": f"{self.server.url}/up/{file}"} for file in variables["files"]]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case _:
                return {}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield server
        server.shutdown()


def test_online_the_server_says_how_far_a_run_is_and_gets_the_rest(
    models: MakeModels, make_record: Make, server: Server
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1))
    send(run, "online")
    assert [row["_step"] for row in server.history["run1-0"]] == [0, 1]
    run.log(make_record(0, 1, train_loss=99.0))  # trained again after a crash
    run.log(make_record(0, 2), make_record(1, 0))
    send(run, "online")
    assert {id_: [row["epoch"] for row in rows] for id_, rows in server.history.items()} == {
        "run1-0": [0, 1, 2],
        "run1-1": [0],
    }
    assert [row["train/loss"] for row in server.history["run1-0"]] == [2.0, 1.9, 1.8]


def test_a_server_that_cannot_be_reached_is_told_of_once_and_caught_up_with(
    models: MakeModels, make_record: Make, diary: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.track.wandb.PATIENCE_S", 1.0)
    run = models(track={"wandb": "cats", "tensorboard": False})
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with Tracking(run.recipe, diary) as tracking:
        tracking.hear(FoldBegan(0, 100, 0, 0))
        run.log(make_record(0, 0))
        began = time.monotonic()
        tracking.hear(EpochEnded(make_record(0, 0)))
        assert time.monotonic() - began < 0.5
        until = time.monotonic() + 20
        while not diary.notices and time.monotonic() < until:
            tracking.hear(EpochEnded(make_record(0, 0)))
            time.sleep(0.1)
        assert "Weights & Biases: " in diary.notices[0] and "Training goes on" in diary.notices[0]
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        run.log(make_record(0, 1))
        tracking.hear(EpochEnded(make_record(0, 1)))
    (rows,) = server.history.values()
    assert [row["epoch"] for row in rows] == [0, 1]
    assert len([notice for notice in diary.notices if "Weights & Biases: " in notice]) == 1


def test_online_needs_a_login_before_training_begins(models: MakeModels, monkeypatch: pytest.MonkeyPatch) -> None:
    section = models(track={"wandb": "cats"}).recipe.track
    with pytest.raises(Exception, match="wandb login"):
        check(section)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check(section)
    assert chosen_mode("online") == "offline"
