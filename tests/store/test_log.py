"""What the log says, whatever state a dying process left it in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine.events import EpochEnded, EpochRecord, FoldBegan, Notice
from engine.store.log import Log, read_log


def record(fold: int, epoch: int) -> EpochRecord:
    return EpochRecord(
        fold=fold,
        stage=0,
        epoch=epoch,
        size=(32, 48),
        lr=1e-3,
        train_loss=2.0 + epoch,
        metrics={"log_loss": 1.5},
        best=True,
        images=100,
        train_seconds=4.0,
        valid_seconds=1.0,
        specialist="쌍둥이",
        waited=0.25,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def write(path: Path, *records: EpochRecord) -> Log:
    log = Log(path)
    for one in records:
        log.hear(EpochEnded(one))
    return log


def epochs(path: Path) -> list[tuple[int, int]]:
    return [(one.fold, one.epoch) for one in read_log(path)]


def test_what_is_written_is_read(path: Path) -> None:
    log = write(path, record(0, 0), record(0, 1))
    log.hear(Notice("is no epoch"))
    assert read_log(path) == [record(0, 0), record(0, 1)]
    assert '"images_per_second": 25.0' in path.read_text("utf-8")


def test_a_fold_that_goes_on_drops_its_epochs_ahead_and_lines_cut_short(path: Path) -> None:
    log = write(path, record(0, 0), record(0, 1), record(1, 0), record(1, 1))
    with path.open("a", encoding="utf-8") as file:
        file.write(path.read_text("utf-8")[:40])
    log.hear(FoldBegan(1, 800, 400, 1))
    assert epochs(path) == [(0, 0), (0, 1), (1, 0)]
    assert len(path.read_text("utf-8").splitlines()) == 3


def test_a_line_that_was_cut_short_is_passed_over_and_of_an_epoch_the_later_line_counts(path: Path) -> None:
    write(path, record(0, 0), record(0, 1))
    text = path.read_text("utf-8")
    path.write_text(text + text.splitlines()[1][:40] + "\n", "utf-8")
    write(path, dataclasses.replace(record(0, 1), train_loss=7.0))
    assert [(one.epoch, one.train_loss) for one in read_log(path)] == [(0, 2.0), (1, 7.0)]


def test_no_log_is_an_empty_one_and_an_older_one_knows_of_no_waiting(path: Path) -> None:
    assert read_log(path) == []
    write(path, record(0, 0))
    path.write_text(path.read_text("utf-8").replace('"waited": 0.25, ', ""), "utf-8")
    assert [one.waited for one in read_log(path)] == [None]
