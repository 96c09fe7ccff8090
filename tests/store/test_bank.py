"""What a fold remembers of its training images is in one file, with whom it belongs to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from engine.errors import CheckpointError
from engine.store import checkpoint
from engine.store.bank import Bank, bank_of, made_by, makers
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import FoldFolder


def make_bank() -> Bank:
    features = np.array([[1, 0], [0, -1], [0.6, 0.8]], np.float16)
    return Bank(("a.jpg", "여름/b.jpg", ""), ("모자", "bag"), np.array([1, 0, 1]), features, ("sha",))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    bank, path = make_bank(), tmp_path / "bank.safetensors"
    bank.save(path)
    read = Bank.load(path)
    assert (read.ids, read.classes, read.made_by) == (bank.ids, bank.classes, bank.made_by)
    np.testing.assert_array_equal(read.labels_B, bank.labels_B)
    np.testing.assert_array_equal(read.features_BE, bank.features_BE)
    assert read.features_BE.dtype == np.float16 and made_by(path) == ("sha",)
    nothing = Bank((), ("x",), np.zeros(0, np.int64), np.zeros((0, 4), np.float16))
    nothing.save(path)
    assert len(Bank.load(path)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"labels_B": np.array([0, 1])},
        {"labels_B": np.array([0, 1, 2])},
        {"features_BE": np.zeros((2, 2), np.float16)},
        {"features_BE": np.zeros((3, 2), np.float32)},
        {"ids": ("a", "b", "a")},
    ],
)
def test_what_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        dataclasses.replace(make_bank(), **change)


def test_a_missing_damaged_or_newer_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bank.safetensors"
    assert made_by(path) is None
    with pytest.raises(CheckpointError, match="is missing; copy it"):
        Bank.load(path)
    make_bank().save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(content)
        assert made_by(path) is None
        with pytest.raises(CheckpointError, match="is damaged"):
            Bank.load(path)
    safetensors.numpy.save_file({"x": np.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        Bank.load(path)
    monkeypatch.setattr("engine.store.bank.FORMAT", 2)
    make_bank().save(path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2, this engine reads up to 1"):
        Bank.load(path)


def test_it_belongs_to_the_models_that_made_it(tmp_path: Path, fold: Callable[..., Checkpoint]) -> None:
    folder = FoldFolder(tmp_path / "0")
    checkpoint.save(folder.path, fold(1))
    dataclasses.replace(make_bank(), made_by=makers(folder)).save(folder.bank)
    assert len(bank_of(folder)) == 3
    folder.path.rename(tmp_path / "elsewhere")
    moved = FoldFolder(tmp_path / "elsewhere")
    assert len(bank_of(moved)) == 3
    checkpoint.save(moved.path, fold(2))
    with pytest.raises(CheckpointError, match="was made by other models"):
        bank_of(moved)
    moved.clear()
    assert not moved.path.exists()
