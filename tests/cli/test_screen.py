"""What a run tells is drawn: each epoch in a line, what several runs say alike once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from engine.cli.common import console
from engine.cli.screen import Screen
from engine.events import (
    BankFilled,
    EpochEnded,
    EpochRecord,
    FileSetAside,
    FoldBegan,
    HeldOutAnswered,
    ImagesDone,
    Notice,
    RunBegan,
)
from engine.quarantine import Fault, FaultKind, SetAside

RECORD = EpochRecord(
    fold=1,
    stage=0,
    epoch=2,
    size=(32, 48),
    lr=1e-3,
    train_loss=0.5,
    metrics={"log_loss": 0.25, "accuracy": 0.75},
    best=True,
    images=100,
    train_seconds=4.0,
    valid_seconds=1.0,
    specialist="쌍둥이",
    waited=0.034,
)


@pytest.fixture(autouse=True)
def fresh_console() -> Iterator[None]:
    """One that writes to what the test captures."""
    console.cache_clear()
    yield
    console.cache_clear()


def test_an_epoch_is_a_line_with_its_scores_speed_and_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.hear(FoldBegan(1, 400, 100, 1))
        screen.hear(ImagesDone(8, 0.5))
        screen.hear(EpochEnded(RECORD))
        screen.hear(EpochEnded(dataclasses.replace(RECORD, waited=None, metrics={}, specialist="")))
    going_on, measured, bare = filter(str.strip, capsys.readouterr().err.splitlines())
    assert going_on == "fold 1: going on after 100 of 400 images"
    assert measured.startswith("쌍둥이  fold 1  epoch   3  32x48") and measured.endswith("25 images/s  waited 3%  best")
    assert bare.startswith("fold 1  epoch   3") and bare.endswith("25 images/s")


def test_a_fold_that_answers_has_a_bar_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Screen() as screen:
        screen.hear(FoldBegan(0, 8, 0, 0))
        screen.hear(ImagesDone(8, 0.5))
        bars = []
        for event in (HeldOutAnswered(0, 4, 8), HeldOutAnswered(0, 8, 8), FoldBegan(0, 8, 0, 0), BankFilled(0, 8, 8)):
            screen.hear(event)
            bars.append(screen._meter)
    assert bars[0] is bars[1] is not bars[2] is not bars[3]
    assert not "".join(capsys.readouterr().err.split())


def test_what_several_runs_say_alike_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    bad = FileSetAside(SetAside("a", "photos/a.jpg", Fault(FaultKind.EMPTY, "is empty (0 bytes)")))
    with Screen() as screen:
        for title in ("resnet50", "vit"):
            for event in (RunBegan(title), Notice("2 duplicates collapsed"), bad):
                screen.hear(event)
    told = capsys.readouterr().err.splitlines()
    assert told == ["resnet50", "2 duplicates collapsed", "set aside: photos/a.jpg: is empty (0 bytes)", "vit"]
