"""A run that ran out of memory says which stage and which keys, keeps what it saved, and goes on in smaller batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import Exhausted, RecipeError
from engine.loader.batches import Loader
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.training.learner import Learner

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has")
HOST = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException, int], None]:
    """Let the n-th step of training, counted from 0, raise an error."""

    def fail(error: BaseException, at: int) -> None:
        taken, take = [0], Learner.take_step

        def step(self: Learner, *args: Any) -> Any:
            taken[0] += 1
            if taken[0] > at:
                raise error
            return take(self, *args)

        monkeypatch.setattr(Learner, "take_step", step)

    return fail


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            CUDA,
            r"the device's memory ran out while training fold 0, stage 1: batches of 8, 32 x 32 pixels \(CUDA out of",
        ),
        (
            HOST,
            r"main memory ran out .*stage 1.*stage\.1\.batch = 4 and stage\.1\.accumulate = 2 .*decode\.prefetch = 1",
        ),
        (MemoryError(), r"main memory ran out .*\(MemoryError\)"),
    ],
    ids=["cuda", "host", "python"],
)
def test_the_stage_and_its_keys_are_named(
    recipe: MakeRecipe, make_stage: Stage, run: Run, failing: Any, error: BaseException, words: str
) -> None:
    failing(error, 4)
    with pytest.raises(Exhausted, match=words) as caught:
        run(recipe(stage=[make_stage(epochs=1), make_stage(epochs=1)]))
    assert "stage.1.batch = 4 and stage.1.accumulate = 2 (the same images a step)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_saved_is_whole_and_goes_on_in_smaller_batches(
    recipe: MakeRecipe, make_stage: Stage, run: Run, monkeypatch: pytest.MonkeyPatch, failing: Any, tmp_path: Path
) -> None:
    made = recipe(stage=[make_stage(epochs=3)])
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "take_step", Learner.take_step)
        failing(CUDA, 7)  # in the third epoch
        with pytest.raises(Exhausted, match="the same command goes on"):
            run(made)
    monkeypatch.undo()
    assert checkpoint.load(Path(made.output) / "0").metrics
    smaller = recipe(stage=[make_stage(epochs=3, batch=4, accumulate=2)])
    result, diary = run(smaller)
    assert [record.epoch for record in diary.records] == [2] and result.metrics
    with pytest.raises(RecipeError, match=r"stage\.0\.batch: 4 -> 8"):
        run(recipe(stage=[make_stage(epochs=3, batch=8, accumulate=2)]))


def test_decoding_that_runs_out_is_told_alike(recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Loader, *_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("engine.decode.turbo.TurboDecoder.pixels", fail)
    monkeypatch.setattr("engine.decode.dali.DaliDecoder.pixels", fail)
    with pytest.raises(Exhausted, match=r"main memory.*stage\.0\.batch.*decode\.prefetch"):
        run(recipe())


def test_answers_that_run_out_name_their_batch(recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise CUDA

    monkeypatch.setattr("engine.inference.ask.score", fail)
    with pytest.raises(Exhausted, match=r"while answering in batches of 64.*Set predict\.batch = 32"):
        run(recipe())
