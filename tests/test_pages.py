"""The pages a task in docs/: every command in them is run, in the order of the page, on small data.

A command runs as it is written, in this process. What stands in `SMALL` is added to it: a network of a few thousand
weights instead of the one that is right for real photos, ports that are free, and no window.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner

from engine.advice import network
from engine.cli.lazy import Door
from engine.cli.main import main
from engine.tune import student

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("train", "judge", "clean_labels", "deploy", "submission")
TINY = ["model.backbone=test_convnext", "model.pretrained=false", "track.tensorboard=false"]
ONE_EPOCH = ["stage=[{size=32, batch=16, epochs=1, lr=4e-3}]", "data.folds.run=[0]", "ensemble.calibrate=off"]
SMALL: dict[tuple[str, ...], list[str]] = {
    ("train",): [word for key in TINY + ONE_EPOCH for word in ("--set", key)],
    ("distill",): [word for key in ONE_EPOCH for word in ("--set", key)],
    ("preview",): ["--images", "2", "--epochs", "1", *(word for key in TINY for word in ("--set", key))],
    ("report",): ["--no-heatmaps"],
    ("export",): ["--fold", "0", "--views", "plain"],
    ("tta",): ["--views", "plain,flip"],
    ("serve",): ["--port", "0"],
    ("data", "court"): ["--no-open"],
}
LEFT = {  # what each page leaves, beside what is there
    "train": ["recipe.toml", "check.html", "preview.html", "models/0/checkpoint.json", "answers/predictions.parquet"],
    "judge": ["models/report.html", "plain/predictions.parquet"],
    "clean_labels": ["check.html", "suspects.csv", "models/court.csv", "relabel.csv"],
    "deploy": ["model.onnx", "student/oof.parquet", "space/app.py", "space/model.onnx"],
    "submission": ["recipe.toml", "answers/submission.csv", "joined.csv"],
}
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_WAIT_S = 120.0


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text("utf-8")


def commands(page: str) -> list[list[str]]:
    """Those of the page's blocks, in words."""
    lines = [line for block in _BLOCK.findall(text_of(page)) for line in block.splitlines() if line.strip()]
    return [shlex.split(line) for line in lines]


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, signs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the page stands: photos, and (but for who trains first) a finished run."""
    for name in ("train", "test"):
        shutil.copytree(signs / name, tmp_path / "photos" / name)
    shutil.copy(signs / "test_labels.csv", tmp_path)
    shutil.copy(next(iter(sorted((signs / "test").iterdir()))), tmp_path / "photo.jpg")
    with (signs / "test_labels.csv").open(encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    (tmp_path / "sample_submission.csv").write_text("id,label\n" + "".join(f"{id_},bar\n" for id_ in ids), "utf-8")
    even = "".join(f"{id_},0.25,0.25,0.25,0.25\n" for id_ in ids)
    (tmp_path / "theirs.csv").write_text(f"id,고리,네모,cross,bar\n{even}", "utf-8")
    if request.node.callspec.params["page"] != "train":
        shutil.copytree(request.getfixturevalue("finished_run"), tmp_path / "models")
        recipe = '[data]\ntrain = "photos/train"\n[model]\nbackbone = "test_convnext"\npretrained = false\n'
        stage = "[[stage]]\nsize = 32\nbatch = 16\nepochs = 1\nlr = 1e-3\n"
        for name in ("recipe.toml", "small.toml"):
            (tmp_path / name).write_text(recipe + stage, "utf-8")
    if request.node.callspec.params["page"] == "submission":
        (tmp_path / "recipe.toml").unlink()
    monkeypatch.setattr(network, "_step_bytes", lambda *_: 2**20)  # `engine init` takes its time to measure them
    monkeypatch.setattr(student, "_LEAST_S", 0.01)  # and so does `engine distill` to measure rates
    monkeypatch.setattr("engine.cli.distill._TIMED", 4)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str], told: list[str]) -> None:
    """A command line of `engine`, in this process; `told` hears what it prints, while it runs."""
    arguments = words[1:]
    for begin, more in SMALL.items():
        if tuple(arguments[: len(begin)]) == begin:
            arguments += more
    result = CliRunner().invoke(main, arguments)
    told.append(result.output)
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_does_what_it_says(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(page)
    assert lines
    while lines:
        words = lines.pop(0)
        assert words[0] == "engine", f"{shlex.join(words)}: only `engine` is run here, and curl after engine serve"
        if words[1] == "serve":
            asked = []
            while lines and lines[0][0] == "curl":
                asked.append(lines.pop(0))
            served(words, lambda address, asked=asked: [curled(each, address) for each in asked], monkeypatch)
        elif words[1:3] == ["data", "court"] and not {"--list", "--table", "--page", "--merge"} & {*words}:
            served(words, judged, monkeypatch)
        else:
            run(words, [])
    for name in LEFT[page]:
        assert (folder / name).is_file(), name


def served(words: list[str], ask: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what serves until it is told to stop: ask when it says where it is, then say that it is enough."""
    there, failed = threading.Event(), []
    address: list[str] = []
    echo = click.echo

    def heard(message: object = None, **options: object) -> None:
        if found := re.search(r"http://\S+", str(message)):
            address.append(found.group())
            there.set()
        echo(message, **options)  # type: ignore[arg-type]

    def reader() -> None:
        if not there.wait(_WAIT_S):
            failed.append("it never said where it is")
            return
        try:
            ask(address[0])
        except Exception as error:
            failed.append(repr(error))
        os.kill(os.getpid(), signal.SIGINT)  # which it has taken over by now

    monkeypatch.setattr(click, "echo", heard)
    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    run(words, [])
    thread.join()
    monkeypatch.setattr(click, "echo", echo)
    assert not failed


def curled(words: list[str], address: str) -> None:
    """What curl would ask, of where the server is now."""
    (form,), (url,) = ([w for w in words[1:] if "=@" in w], [w for w in words[1:] if w.startswith("http")])
    name, _, path = form.partition("=@")
    url = url.replace("http://127.0.0.1:8000", address)
    response = httpx.post(url, files={name: (path, Path(path).read_bytes())}, timeout=60)
    assert response.status_code == 200, response.text


def judged(address: str) -> None:
    """A person comes to the court's page and says what one photo is."""
    for _ in range(100):
        try:
            cases = httpx.get(f"{address}court").json()["cases"]
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    case = cases[0]
    other = next(name for name in ("고리", "네모") if name != case["label"])
    wish = {"id": case["id"], "decision": "relabel", "new": other}
    response = httpx.post(f"{address}decide", json=wish)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_that_a_page_names_exists(page: str) -> None:
    text = text_of(page)
    known = {name: options(command) for name, command in named(main)}
    for name in re.findall(r"`engine ([a-z-]+(?: (?:check|court|index|synth|augment))?)", text):
        assert name in known, f"{page}.md: there is no engine {name}"
    for words in commands(page):
        if words[0] == "engine":
            name = " ".join(words[1:3]) if words[1] == "data" else words[1]
            assert {word for word in words if word.startswith("--")} <= known[name], shlex.join(words)
    everywhere = set().union(*known.values())
    assert set(re.findall(r"`(--[a-z-]+)", text)) <= everywhere


def test_pages_lead_to_each_other_and_to_what_is_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", text_of(page)):
            assert (ROOT / "docs" / target).is_file(), f"{page}.md: {target}"


def named(group: click.Group) -> list[tuple[str, click.Command]]:
    """All commands, by the words after `engine`."""
    found: list[tuple[str, click.Command]] = []
    for name, command in group.commands.items():
        opened = command.open() if isinstance(command, Door) else command
        found.append((name, opened))
        if isinstance(opened, click.Group):
            found += [(f"{name} {inner}", each) for inner, each in named(opened)]
    return found


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
