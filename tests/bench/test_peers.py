"""Other libraries are measured where they are, and named where they are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.bench import peers
from engine.bench.ceilings import Ceilings
from engine.bench.phases import Bench
from engine.bench.photos import photos
from engine.bench.recipe import bench_recipe, default_recipe

CPU = torch.device("cpu")


def test_a_peer_is_measured_beside_the_engine_or_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(peers.PEERS, "unheard-of", peers.Peer(peers.pillow, ("no_such_library.at_all",)))
    for name in peers.PEERS.keys() - {"Pillow + torchvision", "unheard-of"}:
        monkeypatch.delitem(peers.PEERS, name)
    recipe = bench_recipe(default_recipe(CPU, ('model.backbone="test_convnext"',)), (32, 48), 2)
    bench = Bench(recipe, photos(tmp_path, 3), CPU, 0.1, limits=Ceilings(1.0, 1.0))
    heard: list[str] = []
    pillow, other = peers.peer_rows(bench, heard.append)
    assert (pillow["peer"], pillow["size"], pillow["batch"], pillow["note"]) == (
        "Pillow + torchvision",
        [32, 48],
        2,
        "",
    )
    assert pillow["images_per_second"] > 0 and len(pillow["windows"]) == 5
    assert (other["images_per_second"], other["note"]) == (None, "not installed: no_such_library.at_all")
    assert len(heard) == 2


def test_a_peer_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = subprocess.run
    command = [sys.executable, "-c", "import sys; sys.stdin.read(); print(2); sys.exit('no such codec')"]
    monkeypatch.setattr(peers.subprocess, "run", lambda _, **options: failing(command, **options))
    windows, note = peers._apart("Kornia", peers.Task(["a.jpg"], (32, 32), 2, "cpu", 0.1))
    assert (windows, note) == ([], "failed: no such codec")


def test_the_engine_brings_what_the_others_bring(tmp_path: Path) -> None:
    paths = photos(tmp_path, 3)
    batches = [next(make(peers.Task(paths, (32, 48), 2, "cpu", 0.1))) for make in (peers.engine, peers.torchvision)]
    assert [batch.shape for batch in batches] == [(2, 3, 32, 48)] * 2
    assert all(batch.dtype == torch.float32 and 0.3 < batch.std() < 3 for batch in batches)
