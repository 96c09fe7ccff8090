"""What was saved comes back; killed anywhere, the old or the new is there whole; nothing damaged passes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch

from engine.errors import CheckpointError
from engine.store.checkpoint import Checkpoint, load, save
from engine.store.run_folder import RunFolder


def checkpoint(value: float = 1.0) -> Checkpoint:
    kernel = torch.full((4, 3, 5, 5), value).to(memory_format=torch.channels_last)
    return Checkpoint(
        weights={"backbone.w": kernel, "half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)},
        recipe={"name": "시험", "stage": [{"size": [64, 64]}]},
        contract={"mean": [0.5, 0.5, 0.5]},
        classes=("아반떼_N", "RAV4"),
        class_counts=(80, 100),
        data_fingerprint="abc",
        metrics={"log_loss": value, "accuracy": 0.5},
    )


def value(folder: Path) -> float:
    """The value that weights and metrics of a loaded checkpoint agree on."""
    loaded = load(folder)
    assert loaded.weights["backbone.w"][0, 0, 0, 0].item() == loaded.metrics["log_loss"]
    return loaded.metrics["log_loss"]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = checkpoint()
    save(tmp_path / "0", saved)
    loaded = load(tmp_path / "0")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "weights":
            assert getattr(loaded, field.name) == getattr(saved, field.name)
    assert loaded.weights.keys() == saved.weights.keys()
    for name, tensor in saved.weights.items():
        assert loaded.weights[name].dtype == tensor.dtype
        assert torch.equal(loaded.weights[name], tensor)
    assert loaded.versions["torch"] == torch.__version__.split("+")[0]
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == ["checkpoint.json", "weights.safetensors"]


def test_class_names_are_readable_in_the_file(tmp_path: Path) -> None:
    save(tmp_path, checkpoint())
    assert "아반떼_N" in (tmp_path / "checkpoint.json").read_text("utf-8")


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    save(tmp_path, dataclasses.replace(checkpoint(), weights={"a": shared, "b": shared, "c": shared.view(2, 3)}))
    assert torch.equal(load(tmp_path).weights["c"], shared.view(2, 3))


def test_a_metric_without_a_value_is_still_json(tmp_path: Path) -> None:
    save(tmp_path, dataclasses.replace(checkpoint(), metrics={"log_loss": math.nan}))
    assert "NaN" not in (tmp_path / "checkpoint.json").read_text("utf-8")
    assert math.isnan(load(tmp_path).metrics["log_loss"])


class Killed(BaseException):
    """Stands for the process ending here: no handler of ours runs after it on a real kill."""


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_killed_at_any_step_the_old_or_the_new_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, call: str
) -> None:
    save(tmp_path, checkpoint(1.0))
    real, calls = getattr(os, call), 0

    def count(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, count)
        patch.setattr(Path, "unlink", lambda *a, **k: None)  # a killed process does not tidy up
        try:
            save(tmp_path, checkpoint(2.0))
            finished = True
        except Killed:
            finished = False
    assert value(tmp_path) == 2.0 if finished else value(tmp_path) in (1.0, 2.0)
    assert [member.path for member in RunFolder(tmp_path).members()] == [tmp_path]
    save(tmp_path, checkpoint(3.0))
    assert value(tmp_path) == 3.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.json", "weights.safetensors"]


def test_killed_between_the_two_renames_the_new_checkpoint_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, checkpoint(1.0))
    real = os.replace

    def until_the_last(source: Path, target: Path) -> None:
        if Path(target).name == "checkpoint.json":
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until_the_last)
        with pytest.raises(Killed):
            save(tmp_path, checkpoint(2.0))
    assert value(tmp_path) == 2.0


@pytest.mark.parametrize("moment", ["weights.safetensors", "checkpoint.json"])
def test_a_first_save_that_is_killed_is_no_checkpoint_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    real = os.replace

    def until(source: Path, target: Path) -> None:
        if Path(target).name == moment:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until)
        with pytest.raises(Killed):
            save(tmp_path / "0", checkpoint(2.0))
    if moment == "checkpoint.json":
        assert value(RunFolder(tmp_path).members()[0].path) == 2.0
    else:
        with pytest.raises(CheckpointError, match="no fold"):
            RunFolder(tmp_path).members()


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    save(tmp_path, checkpoint())
    path = tmp_path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is not the file"):
        load(tmp_path)


def test_weights_cut_short_are_noticed(tmp_path: Path) -> None:
    save(tmp_path, checkpoint())
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cut short"):
        load(tmp_path)


def test_the_weights_of_another_fold_are_noticed(tmp_path: Path) -> None:
    save(tmp_path / "0", checkpoint(1.0))
    save(tmp_path / "1", checkpoint(2.0))
    (tmp_path / "1" / "weights.safetensors").write_bytes((tmp_path / "0" / "weights.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="another run"):
        load(tmp_path / "1")


@pytest.mark.parametrize("name", ["weights.safetensors", "checkpoint.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path, checkpoint())
    (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_description_is_named(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, checkpoint())
    (tmp_path / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json"):
        load(tmp_path)


def test_a_newer_format_is_refused_by_its_number(tmp_path: Path) -> None:
    save(tmp_path, checkpoint())
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "format": 99}), "utf-8")
    with pytest.raises(CheckpointError, match=r"format 99.*newer engine"):
        load(tmp_path)
