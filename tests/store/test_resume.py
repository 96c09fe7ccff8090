"""A state comes back as it was, or not at all, and never as code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import CheckpointError
from engine.store.resume import load_resume, save_resume


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resume.pt"


def test_resume_state_comes_back(path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_resume(path, {"optimizer": optimizer.state_dict(), "model": model.state_dict(), "epoch": 4, "best": None})
    state = load_resume(path)
    assert state is not None
    assert state["epoch"] == 4
    assert torch.equal(state["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert load_resume(path.with_name("elsewhere.pt")) is None


def test_a_dtype_comes_back(path: Path) -> None:
    state = {"optimizer": {"param_groups": [{"momentum_dtype": torch.bfloat16}]}}  # timm's adafactorbv
    save_resume(path, state)
    assert load_resume(path) == state


def test_a_state_that_could_not_be_read_back_is_refused_when_it_is_saved(path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a PosixPath"):
        save_resume(path, {"a": [1, path]})
    with pytest.raises(TypeError, match="float64"):
        save_resume(path, {"best": np.float64(1)})
    assert load_resume(path) is None


class Payload:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_a_resume_file_with_code_in_it_is_refused_and_not_run(path: Path) -> None:
    torch.save({"epoch": Payload(path.parent / "trace")}, path)
    with pytest.raises(CheckpointError, match=r"resume\.pt.*copy it again, or move .* away"):
        load_resume(path)
    assert not (path.parent / "trace").exists()


def test_a_resume_file_cut_short_is_refused(path: Path) -> None:
    save_resume(path, {"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"resume\.pt"):
        load_resume(path)


def test_a_resume_save_that_fails_keeps_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_resume(path, {"epoch": 1})

    def fail(*args: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_resume(path, {"epoch": 2})
    assert load_resume(path) == {"epoch": 1}
