"""What trackers are told of a log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.events import EpochRecord
from engine.store.run_folder import RunFolder
from engine.track.tracker import MARK, TrackedFold, flatten, read_epochs

Make = Callable[..., EpochRecord]
MakeModels = Callable[..., Any]


def test_epochs_go_up_to_the_first_epoch_that_is_missing(models: MakeModels, make_record: Make) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(1, 0), make_record(1, 1), make_record(1, 3))
    folds = [TrackedFold(RunFolder(run.folder), number) for number in (0, 1, 2)]
    found = {fold.number: [epoch.number for epoch in epochs] for fold, epochs in read_epochs(folds).items()}
    assert found == {0: [0], 1: [0, 1]}


def test_older_epochs_ended_as_much_earlier_as_the_later_ones_took(models: MakeModels, make_record: Make) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1), make_record(0, 2, train_seconds=9.0), at=1000.0)
    (epochs,) = read_epochs([TrackedFold(RunFolder(run.folder), 0)]).values()
    assert [epoch.ended for epoch in epochs] == [1000 - 10 - 5, 1000 - 10, 1000]


def test_scalars_have_every_metric_and_end_with_the_mark(models: MakeModels, make_record: Make) -> None:
    run = models()
    run.log(make_record(0, 0, metrics={"log_loss": 1.0, "new_metric": 3.0}), make_record(0, 1, waited=0.3))
    ((first, second),) = read_epochs([TrackedFold(RunFolder(run.folder), 0)]).values()
    scalars = first.scalars
    assert "speed/waited" not in scalars and second.scalars["speed/waited"] == 0.3
    assert scalars["valid/new_metric"] == 3.0 and scalars["speed/images_per_second"] == 25.0
    assert (scalars["stage/height"], scalars["stage/width"]) == (32, 48)
    assert list(scalars)[-1] == MARK


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        ({"a": {"b": 1}}, {"a.b": 1}),
        (
            {"stage": [{"lr": 0.1, "size": [32, 48]}, {"lr": 0.2}]},
            {"stage.0.lr": 0.1, "stage.0.size": "[32, 48]", "stage.1.lr": 0.2},
        ),
        ({"a": None, "b": [], "c": [["소", "cow"]]}, {"a": "none", "b": "[]", "c": '[["소", "cow"]]'}),
    ],
)
def test_a_recipe_is_flattened(value: object, flat: object) -> None:
    assert flatten(value) == flat
