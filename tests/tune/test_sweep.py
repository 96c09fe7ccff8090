"""A sweep tries what it says, keeps the best, and goes on where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest

from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import Event, ImagesDone, Watcher
from engine.ranks import Ranks
from engine.recipe.load import load_recipe
from engine.recipe.sections import Recipe
from engine.tune.sweep import Sweep, need_optuna
from engine.tune.trials import TrialBegan, TrialEnded, TrialResult, sets_line

MakeRecipe = Callable[..., Recipe]
SPACE = ("stage.*.lr=log:1e-4..1e-2", "train.ema=0.0|0.5")


class Diary(Watcher):
    """Writes down the trials it hears of."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, bool]] = []
        self.ended: list[tuple[int, bool]] = []
        self.images = 0

    def hear(self, event: Event) -> None:
        match event:
            case TrialBegan(number=number, goes_on=goes_on):
                self.begun.append((number, goes_on))
            case TrialEnded(result=row, best=best):
                self.ended.append((row.number, best))
            case ImagesDone(count=count):
                self.images += count


Run = Callable[..., tuple[list[TrialResult], Diary]]


@pytest.fixture
def run(recipe: MakeRecipe, ranks: Ranks, tmp_path: Path) -> Run:
    """Sweep in a folder of `tmp_path` up to so many trials."""

    def run(
        trials: int,
        *sets: str,
        space: Sequence[str] = SPACE,
        out: str = "sweep",
        fold: int = 0,
        watcher: Diary | None = None,
        stop: Callable[[Diary], bool] = lambda _: False,
    ) -> tuple[list[TrialResult], Diary]:
        sweep, diary = Sweep(recipe(*sets), space, tmp_path / out, fold), watcher or Diary()
        sweep.begin()
        return sweep.run(trials, ranks, diary, lambda: stop(diary)), diary

    return run


@pytest.fixture(scope="module")
def whole(
    recipe_in: Callable[..., Recipe], ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TrialResult], Diary]:
    """A sweep of two trials on the second fold that nothing stopped: its folder, its rows, what was told."""
    folder, diary = tmp_path_factory.mktemp("whole"), Diary()
    sweep = Sweep(recipe_in(folder), SPACE, folder / "sweep", 1)
    sweep.begin()
    return folder, sweep.run(2, ranks, diary, lambda: False), diary


def values(rows: Sequence[TrialResult]) -> list[tuple[object, ...]]:
    return [(row.number, row.state, row.value, row.sets) for row in rows]


def test_trials_are_trained_and_the_best_is_a_recipe(
    whole: tuple[Path, list[TrialResult], Diary], recipe_in: Callable[..., Recipe]
) -> None:
    folder, rows, diary = whole
    assert [row.state for row in rows] == ["complete"] * 2
    best = min(rows, key=lambda row: row.value or 0)
    assert len({row.value for row in rows}) == 2 and len({row.sets for row in rows}) == 2
    assert [number for number, is_best in diary.ended if is_best][-1] == best.number
    for row in rows:
        trial = folder / "sweep" / "trials" / str(row.number)
        scores = json.loads((trial / "scores.json").read_text("utf-8"))
        assert scores["out_of_fold"]["log_loss"] == row.value
        assert (trial / "1" / "weights.safetensors").is_file()
        trained = json.loads((trial / "run.json").read_text("utf-8"))["recipe"]
        assert trained["stage"][0]["lr"] == float(row.sets[0].removeprefix("stage.*.lr="))
        assert trained["train"]["ema"] == float(row.sets[1].removeprefix("train.ema="))
        assert row.epochs == 2 and row.seconds > 0
    assert load_recipe(folder / "sweep" / "best.toml") == recipe_in(folder, *best.sets)
    assert (folder / "sweep" / "history.png").is_file()
    table = (folder / "sweep" / "trials.csv").read_text("utf-8").splitlines()
    assert table[0] == "trial,state,value,epochs,seconds,stage.*.lr,train.ema,error"
    assert len(table) == 3
    assert not (folder / "models").exists()


def test_the_same_command_adds_what_is_missing(run: Run, whole: tuple[Path, list[TrialResult], Diary]) -> None:
    first, _ = run(1, fold=1)
    both, diary = run(2, fold=1)
    assert diary.begun == [(1, False)]
    assert values(both)[:1] == values(first)
    assert values(both) == values(whole[1])  # what is drawn does not depend on where it stopped
    _, nothing = run(2, fold=1)
    assert nothing.begun == []


def test_a_stopped_trial_goes_on(run: Run, whole: tuple[Path, list[TrialResult], Diary]) -> None:
    _, uninterrupted, seen = whole
    images = seen.images // 2  # of a trial
    with pytest.raises(Interrupted):
        run(2, fold=1, stop=lambda diary: diary.images >= images // 2 + 4)  # within the second epoch
    rows, diary = run(2, fold=1)
    assert diary.begun == [(0, True), (1, False)]
    assert images < diary.images < 2 * images
    assert values(rows) == values(uninterrupted)
    assert [row.epochs for row in rows] == [2, 2]


def test_a_killed_trial_is_run_again(run: Run, whole: tuple[Path, list[TrialResult], Diary]) -> None:
    class Killed(Diary):
        def hear(self, event: Event) -> None:
            if isinstance(event, ImagesDone):
                raise SystemExit
            super().hear(event)

    with pytest.raises(SystemExit):
        run(1, fold=1, watcher=Killed())
    rows, diary = run(1, fold=1)
    assert diary.begun == [(0, True)]
    assert values(rows) == values(whole[1])[:1]


def test_a_trial_that_is_worse_is_given_up(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda: optuna.pruners.ThresholdPruner(upper=0.0))
    rows, diary = run(2)
    assert [(row.state, row.epochs) for row in rows] == [("pruned", 1), ("pruned", 1)]
    assert all(row.value is not None for row in rows)
    assert diary.ended == [(0, False), (1, False)]
    for number in ("0", "1"):  # its log stays, its weights go
        assert [path.name for path in (tmp_path / "sweep" / "trials" / number).iterdir()] != []
        assert not (tmp_path / "sweep" / "trials" / number / "0").exists()
    assert not (tmp_path / "sweep" / "best.toml").exists()


def test_the_last_epoch_gives_no_trial_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda: optuna.pruners.ThresholdPruner(upper=0.0))
    rows, _ = run(1, "stage.0.epochs=1")
    assert [row.state for row in rows] == ["complete"]


def test_higher_is_better_where_it_is(run: Run, tmp_path: Path) -> None:
    rows, diary = run(2, "train.select=accuracy", space=["stage.0.lr=0.003|1e-09"])
    best = max(rows, key=lambda row: row.value or 0)
    assert len({row.value for row in rows}) > 1
    assert [number for number, is_best in diary.ended if is_best][-1] == best.number
    assert load_recipe(tmp_path / "sweep" / "best.toml").train.select == "accuracy"


def test_values_that_do_not_go_together_fail_their_trial_alone(run: Run) -> None:
    rows, _ = run(4, "stage.0.epochs=1", space=["train.loss=focal|bce", "train.label_smoothing=0.0|0.1"])
    failed = [row for row in rows if row.state == "failed"]
    assert failed and len(failed) < len(rows)
    for row in rows:
        together = row.sets == ("train.loss=focal", "train.label_smoothing=0.1")
        assert (row.state == "failed") == together
        assert ("label_smoothing" in row.error) == together
        assert (row.value is None) == together


def test_when_no_trial_can_run_it_ends(run: Run) -> None:
    with pytest.raises(EngineError, match="none of 3 trials could run; the last: the loss is"):
        run(20, "train.clip=0", "train.optimizer=sgd", space=["stage.0.lr=1e30|1e35"])


def test_trials_are_scored_on_the_same_images_whatever_their_seed(run: Run, tmp_path: Path) -> None:
    run(2, "stage.0.epochs=1", space=["seed=1|2|3|4"])
    seeds, splits = set(), set()
    for number in (0, 1):
        trained = json.loads((tmp_path / "sweep" / "trials" / str(number) / "run.json").read_text("utf-8"))["recipe"]
        seeds.add(trained["seed"])
        splits.add(trained["data"]["folds"]["seed"])
    assert len(seeds) == 2 and splits == {3}


def test_a_folder_holds_one_sweep(run: Run, tmp_path: Path) -> None:
    run(1, "stage.0.epochs=1")
    for sets, space, fold, word in (
        (["seed=9"], SPACE, 0, "seed: 3 -> 9"),
        ([], SPACE[:1], 0, "over"),
        ([], SPACE, 1, "fold"),
    ):
        with pytest.raises(RecipeError, match=word):
            run(2, "stage.0.epochs=1", *sets, space=space, fold=fold)


def test_two_sweeps_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    class Second(Diary):
        def hear(self, event: Event) -> None:
            if isinstance(event, TrialBegan):
                run(1)

    with pytest.raises(EngineError, match="a sweep is going on there, process"):
        run(1, watcher=Second())


@pytest.mark.parametrize(
    ("sets", "fold", "word"), [(["data.folds.count=1"], 0, "holds nothing out"), ([], 2, "--fold 2")]
)
def test_what_cannot_be_scored_is_refused(
    recipe: MakeRecipe, tmp_path: Path, sets: list[str], fold: int, word: str
) -> None:
    with pytest.raises(RecipeError, match=word):
        Sweep(recipe(*sets), SPACE, tmp_path / "sweep", fold)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(EngineError, match="pip install optuna"):
        need_optuna()


def test_the_best_values_can_be_pasted_into_a_shell() -> None:
    assert sets_line(("stage.*.lr=0.01", "train.ema=0.9")) == "--set 'stage.*.lr=0.01' --set train.ema=0.9"
