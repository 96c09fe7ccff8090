"""Writing beside training: copies that training cannot change, in order, and no error is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.training.writer import Writer, set_apart

MakeRecipe = Callable[..., Recipe]


def test_what_is_set_apart_does_not_change_with_its_source() -> None:
    state = {"a": torch.zeros(2), "b": [torch.zeros(1), (torch.zeros(1), 3)], "c": None}
    apart = set_apart(state)
    for tensor in (state["a"], state["b"][0], state["b"][1][0]):  # type: ignore[index]
        tensor.fill_(1)  # type: ignore[union-attr]
    assert apart["a"].tolist() == [0, 0] and apart["b"][0].item() == apart["b"][1][0].item() == 0
    assert apart["b"][1][1] == 3 and apart["c"] is None and isinstance(apart["b"][1], tuple)


def test_work_is_done_in_order_and_beside_the_caller() -> None:
    done: list[int] = []
    gate = threading.Event()

    def first() -> None:
        gate.wait(10)
        done.append(1)

    with Writer() as writer:
        writer.submit(first)
        assert done == []  # the caller was not held up
        gate.set()
        writer.submit(lambda: done.append(2))
    assert done == [1, 2]


def test_an_error_is_raised_by_the_next_call_or_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Writer() as writer:
        writer.submit(fail)
    with Writer() as writer:
        writer.submit(fail)
        with pytest.raises(OSError, match="disk full"):
            writer.submit(lambda: None)


def test_a_run_that_cannot_save_fails_and_goes_on_later(
    recipe: MakeRecipe, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "models/0/weights.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(OSError, match="No space left"):
            run(recipe())
    _, diary = run(recipe())
    assert [record.epoch for record in diary.records] == [0, 1]


def test_training_goes_on_while_an_epoch_is_written(
    recipe: MakeRecipe, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(recipe(output=str(tmp_path / "quick")))
    save = checkpoint.save
    writers: list[str] = []

    def slow(*args: Any) -> None:
        writers.append(threading.current_thread().name)
        time.sleep(0.3)
        save(*args)

    monkeypatch.setattr(checkpoint, "save", slow)
    result, _ = run(recipe(output=str(tmp_path / "slow")))
    assert writers and all(name.startswith("write") for name in writers)
    for name in ("weights.safetensors", "oof.parquet"):  # what was written is of its epoch, and not of a later step
        assert (result.folder / "0" / name).read_bytes() == (tmp_path / "quick" / "0" / name).read_bytes()
