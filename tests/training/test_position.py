"""What follows from a position alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.recipe.load import parse_recipe
from engine.training.position import Position, Timetable

STAGES = st.lists(
    st.fixed_dictionaries(
        {
            "size": st.just(32),
            "lr": st.just(1.0),
            "epochs": st.integers(1, 4),
            "batch": st.integers(1, 5),
            "accumulate": st.integers(1, 3),
        }
    ),
    min_size=1,
    max_size=3,
)


def timetable(stages: list[dict[str, Any]], held: int = 7, world: int = 2, **train: Any) -> Timetable:
    recipe = parse_recipe({"stage": stages, "train": train})
    return Timetable(recipe.stage, recipe.train, [3 + i for i in range(len(stages))], held, world)


@given(STAGES)
def test_images_done_rise_step_by_step_to_all_of_them(stages: list[dict[str, Any]]) -> None:
    table, at = timetable(stages), Position()
    assert table.images_done(at) == 0
    seen = 0
    while True:
        for step in range(table.steps[at.stage]):
            at.step = step
            assert table.images_done(at) == seen
            seen += stages[at.stage]["batch"] * stages[at.stage]["accumulate"] * table.world
        seen += table.held
        following = table.stage_after(at)
        at.next_epoch()
        assert table.is_over(at) == (following != at.stage)
        if following is None:
            break
        if table.is_over(at):
            at.next_stage()
    assert seen == table.images


@given(STAGES)
def test_epochs_left_fall_by_one_an_epoch_to_the_last(stages: list[dict[str, Any]]) -> None:
    table, at = timetable(stages), Position()
    left = []
    for stage in stages:
        for _ in range(stage["epochs"]):
            left.append(table.epochs_left(at))
            at.next_epoch()
        at.next_stage()
    assert left == list(range(len(left), 0, -1))


def test_a_stage_that_no_longer_gets_better_is_over() -> None:
    stages = [{"size": 32, "lr": 1.0, "epochs": 9, "batch": 1}]
    table = timetable(stages, early_stop={"patience": 2})
    at = Position(epoch=3, history=[{"log_loss": value} for value in (0.5, 0.4, 0.6)])
    assert not table.is_over(at)
    at.history.append({"log_loss": 0.45})
    at.epoch = 4
    assert table.is_over(at)


def test_a_plateau_lowers_the_rate() -> None:
    stages = [{"size": 32, "lr": 0.5, "epochs": 9, "batch": 1}]
    schedule = {"kind": "plateau", "patience": 0, "decay": 0.1, "warmup_epochs": 0.0}
    table = timetable(stages, schedule=schedule)
    at = Position(epoch=2, history=[{"log_loss": 0.5}, {"log_loss": 0.4}])
    assert table.rate(at, 0) == 0.5
    at.history.append({"log_loss": 0.6})
    at.epoch = 3
    assert abs(table.rate(at, 0) - 0.05) < 1e-9
