"""TensorBoard's event files, read back with its own reader."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from engine.events import EpochRecord
from engine.store.run_folder import RunFolder
from engine.track.tensorboard import TensorBoard
from engine.track.tracker import read_epochs, read_scores

MakeModels = Callable[..., Any]


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def steps(folder: Path, tag: str) -> list[int]:
    return [event.step for event in events(folder).Scalars(tag)]


def send(run, close: bool = True) -> None:
    """What a process does with the log as it is."""
    board = TensorBoard(run.run())
    for fold, epochs in read_epochs(run.run().folds).items():
        board.follow(fold, epochs)
    if scores := read_scores(RunFolder(run.folder)):
        board.score(scores)
    if close:
        board.close("finished")


def make_older(folder: Path, seconds: int) -> None:
    """As if it had been written earlier: the files are read in the order of the second in their names."""
    for path in folder.iterdir():
        head, second, tail = re.fullmatch(r"(\D+)(\d+)(.*)", path.name).groups()
        path.rename(folder / f"{head}{int(second) - seconds}{tail}")


def test_each_fold_is_a_run_with_all_its_scalars_by_epoch(
    models: MakeModels, make_record: Callable[..., EpochRecord]
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1), make_record(1, 0), at=5000.0)
    send(run)
    first = events(run.folder / "tensorboard" / "0")
    assert [(e.step, e.wall_time, round(e.value, 4)) for e in first.Scalars("valid/log_loss")] == [
        (0, 4990.0, 1.5),
        (1, 4995.0, 1.4),
    ]
    expected = {"train/loss", "train/lr", "valid/log_loss", "valid/accuracy", "valid/macro_f1", "stage/number"}
    assert expected < set(first.Tags()["scalars"])
    text = first.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert 'name = "고양이 A"' in text and "lr = 0.001" in text
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(first.PluginTagToContent("hparams"))
    assert b"stage.1.lr" in first.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert steps(run.folder / "tensorboard" / "1", "train/loss") == [0]


def test_another_process_adds_what_is_new_and_nothing_twice(
    models: MakeModels, make_record: Callable[..., EpochRecord]
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1))
    send(run)
    send(run)
    run.log(make_record(0, 2))
    send(run)
    assert steps(run.folder / "tensorboard" / "0", "train/loss") == [0, 1, 2]
    run.scores(log_loss=0.9)
    for _ in range(2):
        send(run)
    together = run.folder / "tensorboard" / "out_of_fold"
    assert [(e.step, round(e.value, 4)) for e in events(together).Scalars("out_of_fold/log_loss")] == [(2, 0.9)]


def test_an_epoch_that_was_written_in_part_is_written_anew(
    models: MakeModels, make_record: Callable[..., EpochRecord]
) -> None:
    run = models()
    run.log(make_record(0, 0), make_record(0, 1))
    send(run)
    folder = run.folder / "tensorboard" / "0"
    make_older(folder, 20)
    with SummaryWriter(str(folder), purge_step=2) as dying:
        dying.add_scalar("train/loss", 99.0, 2)
    make_older(folder, 10)
    run.log(make_record(0, 2))
    send(run)
    assert [round(e.value, 4) for e in events(folder).Scalars("train/loss")] == [2.0, 1.9, 1.8]


def test_events_that_were_removed_are_written_again(
    models: MakeModels, make_record: Callable[..., EpochRecord]
) -> None:
    run = models()
    run.finish()
    send(run)
    RunFolder(run.folder).clear()
    assert not [path for path in (run.folder / "tensorboard").rglob("*") if path.is_file()]
    run.finish()
    send(run)
    assert steps(run.folder / "tensorboard" / "1", "train/loss") == [0, 1, 2]
