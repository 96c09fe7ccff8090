"""A run that was stopped anywhere goes on as if it had not been."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Interrupted
from engine.files import write_text
from engine.recipe.sections import Recipe
from engine.training import trainer
from engine.training.trainer import FoldTrainer

MakeRecipe = Callable[..., Recipe]
Run = Callable[..., Any]
Stage = Callable[..., dict[str, Any]]

CLOCKS = ("train_seconds", "valid_seconds", "images", "images_per_second", "waited")
DROPOUT = {"backbone": "test_convnext", "pretrained": False, "dropout": 0.2, "pooling": "gem"}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for what the clock said."""
    found: dict[str, Any] = {"log": []}
    for line in (folder / "log.jsonl").read_text("utf-8").splitlines():
        found["log"].append({key: value for key, value in json.loads(line).items() if key not in CLOCKS})
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".parquet"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def run_in_pieces(run: Run, recipe: Recipe, **options: Any) -> int:
    """Train with a stop after every single step; how many pieces it took."""
    for pieces in range(1, 1000):
        try:
            run(recipe, stop=lambda: True, **options)
        except Interrupted:
            continue
        return pieces
    raise AssertionError("the run does not end")


def stages(make_stage: Stage) -> list[dict[str, Any]]:
    return [
        make_stage(drop_path=0.1, mix={"mixup": 0.4, "cutmix": 1.0}),
        make_stage(size=(40, 32), batch=6, epochs=1, lr=1e-3, ema_restart=True),
    ]


def test_stopping_between_any_two_steps_changes_no_bit(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path
) -> None:
    def made(name: str) -> Recipe:
        changes = {"color": {"p": 0.5}, "erase": {"p": 0.5}}
        return recipe(
            output=str(tmp_path / name),
            augment=changes,
            model=DROPOUT,
            train={"ema": 0.9},
            stage=stages(make_stage),
        )

    whole, _ = run(made("whole"))
    pieces = run_in_pieces(run, made("pieces"))
    # A stop after each step, each epoch and what the fold then answers, and the last piece.
    assert pieces == (3 + 1) * 2 + (4 + 1) + 1 + 1
    assert outcome(tmp_path / "pieces") == outcome(whole.folder)


def test_a_process_that_dies_without_a_word_loses_at_most_an_epoch(
    recipe: MakeRecipe, run: Run, make_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(train={"ema": 0.9}, stage=stages(make_stage))
    run(made)
    expected = outcome(tmp_path / "models")

    class Died(BaseException):
        pass

    calls = 0
    save = trainer.save_resume

    def die_before_the_second(folder: Path, state: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the best weights and the log of the second epoch are written, its state is not
            raise Died
        save(folder, state)

    monkeypatch.setattr(trainer, "save_resume", die_before_the_second)
    with pytest.raises(Died):
        run(made, overwrite=True)
    assert len((tmp_path / "models" / "log.jsonl").read_text("utf-8").splitlines()) == 2
    _, diary = run(made)
    assert [record.epoch for record in diary.records] == [1, 2]
    assert outcome(tmp_path / "models") == expected


def test_a_log_line_that_was_cut_short_is_dropped(recipe: MakeRecipe, run: Run, tmp_path: Path) -> None:
    run(recipe())
    expected = outcome(tmp_path / "models")
    log = tmp_path / "models" / "log.jsonl"
    text = log.read_text("utf-8")
    with pytest.raises(Interrupted):
        run(recipe(), stop=Countdown(4), overwrite=True)
    write_text(log, text.splitlines(keepends=True)[0] + text.splitlines()[1][:40])
    run(recipe())
    assert outcome(tmp_path / "models") == expected


class Countdown:
    """A stop that is asked for at the n-th question."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def test_going_on_says_how_much_was_done(recipe: MakeRecipe, run: Run) -> None:
    with pytest.raises(Interrupted, match=r"fold 0, epoch 2, after step 1; the same command goes on"):
        run(recipe(), stop=Countdown(5))  # three steps, the epoch's end, one step
    _, diary = run(recipe())
    ((fold, images, done, epoch),) = diary.begun
    assert (fold, images, done, epoch) == (0, 2 * (24 + 24), 24 + 24 + 8, 1)
    assert diary.images == images - done


def test_going_on_after_the_last_step_of_an_epoch_scores_it_and_trains_the_next(recipe: MakeRecipe, run: Run) -> None:
    with pytest.raises(Interrupted, match="after step 3;"):
        run(recipe(), stop=Countdown(3))
    _, diary = run(recipe())  # scores before anything was trained on in this process
    assert [record.epoch for record in diary.records] == [0, 1]
    assert [record.images for record in diary.records] == [0, 24]


def test_a_finished_fold_is_not_trained_again(recipe: MakeRecipe, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both = recipe(data={"folds": {"run": [0, 1]}})
    with pytest.raises(Interrupted):
        run(both, stop=Countdown(9))  # all eight questions of fold 0, then one step of fold 1
    begun = []
    train = FoldTrainer.train

    def watched(self: FoldTrainer, *args: Any) -> None:
        begun.append(self.fold)
        train(self, *args)

    monkeypatch.setattr(FoldTrainer, "train", watched)
    _, diary = run(both)
    assert begun == [1]
    assert {record.fold for record in diary.records} == {1}


def test_an_interrupted_run_of_another_recipe_is_refused(recipe: MakeRecipe, run: Run, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(recipe(), stop=lambda: True)
    with pytest.raises(Exception, match=r"seed: 3 -> 4"):
        run(recipe(seed=4))
