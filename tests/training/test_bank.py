"""A trained fold remembers the images that it was trained on, and none that it held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.augment.views import PLAIN
from engine.ensemble.neighbours import embedding, search
from engine.errors import EngineError, Interrupted
from engine.events import BankFilled, Event, Watcher
from engine.inference.ask import ask
from engine.inference.members import Members
from engine.inference.scoring import mean
from engine.predictions import Predictions
from engine.ranks import Ranks
from engine.recipe.sections import Recipe
from engine.store import checkpoint
from engine.store.bank import bank_of
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import FoldFolder
from engine.training.bank import write_bank
from engine.training.prepare import Prepared, prepare

ALONE = Ranks(0, 1, torch.device("cpu"))


class Heard(Watcher):
    def __init__(self) -> None:
        self.done: list[tuple[int, int]] = []

    def hear(self, event: Event) -> None:
        if isinstance(event, BankFilled):
            self.done.append((event.done, event.images))


@pytest.fixture
def prepared(recipe: Callable[..., Recipe]) -> Prepared:
    return prepare(recipe(predict={"batch": 5, "tta": 3}))


@pytest.fixture
def folder(tmp_path: Path, fold: Callable[..., Checkpoint], prepared: Prepared) -> FoldFolder:
    """A fold with two kept epochs that were never trained."""
    folder = FoldFolder(tmp_path / "0")
    for number, member in enumerate((folder, folder.epoch(3), folder.epoch(4))):
        checkpoint.save(member.path, fold(number, prepared.classes))
    return folder


def fill(prepared: Prepared, folder: FoldFolder, stop: Callable[[], bool] = lambda: False) -> list[tuple[int, int]]:
    heard = Heard()
    write_bank(prepared.recipe, 0, prepared.fold_data(0), folder, ALONE, heard, stop)
    return heard.done


def test_it_holds_what_the_fold_was_trained_on_as_its_models_see_it_plainly(
    prepared: Prepared, folder: FoldFolder
) -> None:
    done = fill(prepared, folder)
    data, bank = prepared.fold_data(0), bank_of(folder)
    assert done[0] == (5, 24) and done[-1] == (24, 24)
    assert set(bank.ids) == {data.ids[row] for row in data.train_rows_N}
    assert not set(bank.ids) & {data.ids[row] for row in data.held_rows_N}
    labels = dict(zip(prepared.ids, prepared.manifest.labels, strict=True))
    assert [bank.classes[label] for label in bank.labels_B] == [labels[id_] for id_ in bank.ids]

    kept = [checkpoint.load(member.path) for member in folder.members()]
    members = Members.restored(kept, ALONE.device, (PLAIN,))
    asked = ask(members, data.samples, data.train_rows_N, prepared.recipe, mean, ALONE, extras=("features",))[0]
    np.testing.assert_array_equal(embedding(asked), bank.features_BE)
    assert len(kept) == 2 and asked[0].features_NE is not None
    assert bank.features_BE.shape[1] == 2 * asked[0].features_NE.shape[1]


def test_a_training_image_is_nearest_to_itself(prepared: Prepared, folder: FoldFolder) -> None:
    fill(prepared, folder)
    bank = bank_of(folder)
    one = Predictions(bank.ids, bank.classes, np.full((24, 3), 1 / 3), features_NE=bank.features_BE)
    assert search(one, bank, 2).nearest == bank.ids


def test_it_is_filled_again_when_the_models_are_others_and_only_then(
    prepared: Prepared, folder: FoldFolder, fold: Callable[..., Checkpoint]
) -> None:
    assert fill(prepared, folder) and not fill(prepared, folder)
    checkpoint.save(folder.epoch(4).path, fold(9, prepared.classes))
    assert fill(prepared, folder) and not fill(prepared, folder)
    folder.keep_only([4])
    assert fill(prepared, folder)
    folder.bank.write_bytes(b"broken")
    assert fill(prepared, folder)
    folder.clear()
    assert not folder.bank.exists()


def test_a_stop_is_heard_and_it_begins_again(prepared: Prepared, folder: FoldFolder) -> None:
    calls = iter(range(100))
    with pytest.raises(Interrupted, match="stopped while fold 0 filled its bank; the same command goes on"):
        fill(prepared, folder, lambda: next(calls) == 2)
    assert not folder.bank.exists()
    with pytest.raises(Interrupted, match="stopped after fold 0 filled its bank"):
        fill(prepared, folder, folder.bank.exists)
    assert not fill(prepared, folder)


def test_training_images_of_which_none_can_be_read_are_an_error_that_names_one(
    prepared: Prepared, folder: FoldFolder, tmp_path: Path
) -> None:
    lost = [str(tmp_path / "lost.jpg")] * len(prepared.ids)
    object.__setattr__(prepared.samples.source, "paths", lost)
    with pytest.raises(EngineError, match=r"fold 0: none of its 24 training images could be read: .*lost\.jpg"):
        fill(prepared, folder)
