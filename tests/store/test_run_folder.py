"""What a run leaves is found by name, and removed without touching anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CheckpointError
from engine.store.resume import save_begun, save_resume
from engine.store.run_folder import ALL_FOLDS, FoldFolder, MemberFolder, RunFolder


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def save(*members: MemberFolder) -> None:
    """Stand-ins: nothing is loaded here."""
    for member in members:
        touch(member.weights, member.checkpoint, member.out_of_fold)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "models")


def test_folds_are_found_in_the_order_of_their_numbers(run: RunFolder) -> None:
    save(run.fold(10), run.fold(2), run.fold(1))
    run.fold(3).path.mkdir()  # begun, no epoch finished
    touch(run.log)
    assert [fold.path.name for fold in run.folds()] == ["1", "2", "10"]
    assert [member.name for member in run.members()] == ["1", "2", "10"]
    assert RunFolder(run.fold(2).path).members() == [run.fold(2)]


def test_the_kept_epochs_of_a_fold_stand_in_for_it(run: RunFolder) -> None:
    first, second = run.fold(0), run.fold(1)
    save(first, first.epoch(9), first.epoch(10), second)
    second.epoch(3).path.mkdir()  # somebody else's: it holds no checkpoint
    assert run.members() == [first.epoch(9), first.epoch(10), second]
    assert [member.name for member in run.members()] == ["0/epoch_009", "0/epoch_010", "1"]
    assert [member.fold for member in run.members()] == [first, first, second]
    assert first.members() == [first.epoch(9), first.epoch(10)]
    assert [member.path for member in RunFolder(first.epoch(10).path).members()] == [first.epoch(10).path]


def test_weights_that_are_in_place_before_their_description_are_a_checkpoint(run: RunFolder) -> None:
    fold = run.fold(0)
    touch(fold.next_checkpoint)
    assert not fold.holds_checkpoint
    touch(fold.weights)
    assert fold.holds_checkpoint


def test_folds_gathered_under_other_names_answer_too(run: RunFolder) -> None:
    save(*(FoldFolder(run.path / name) for name in ("monday", "0")))
    assert [member.name for member in run.members()] == ["0", "monday"]


def test_no_folds_is_an_error_that_says_where_it_looked(run: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        run.members()
    run.path.mkdir()
    with pytest.raises(CheckpointError, match=r"no fold in it holds a checkpoint\.json"):
        run.members()
    with pytest.raises(CheckpointError, match=r"models/0: no fold in it"):
        run.fold(0).members()


def test_a_folder_without_a_name_of_its_own_has_one(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run.fold(7))
    monkeypatch.chdir(run.fold(7).path)
    (member,) = RunFolder(Path()).members()
    assert member.name == "7" and member.fold.path == run.fold(7).path


def model(*members: MemberFolder, finished: bool = False) -> None:
    for member in members:
        touch(member.weights)
        member.checkpoint.write_text(json.dumps({"classes": ["가"]}), "utf-8")
        if finished:
            member.mark_finished()


def test_a_fold_is_finished_when_its_state_says_so(run: RunFolder) -> None:
    fold = run.fold(0)
    assert not run.is_finished(0)
    save_begun(fold.resume)
    assert not run.is_finished(0)
    model(fold)  # an epoch's weights, whose state could not be written any more
    assert not run.is_finished(0)
    save_resume(fold.resume, {"finished": False, "position": {"run_epoch": 3}})
    assert not run.is_finished(0)
    save_resume(fold.resume, {"finished": True})
    assert run.is_finished(0)


def test_a_fold_of_which_only_what_answers_was_copied_is_finished_when_its_models_say_so(run: RunFolder) -> None:
    fold = run.fold(0)
    model(fold, fold.epoch(3), finished=True)
    assert run.is_finished(0)
    assert json.loads(fold.checkpoint.read_text("utf-8")) == {"classes": ["가"], "finished": True}
    touch(fold.resume)  # cut short on the way: it is not needed
    assert run.is_finished(0)


@pytest.mark.parametrize(
    ("state", "there", "missing"),
    [
        (None, ["weights.safetensors", "checkpoint.json"], "resume.pt is missing"),
        (None, ["weights.safetensors"], "resume.pt is missing"),
        (None, ["epoch_003/weights.safetensors", "epoch_003/checkpoint.json"], "resume.pt is missing"),
        ({"finished": True}, ["weights.safetensors"], "checkpoint.json is missing"),
        ({"finished": True}, ["checkpoint.json"], "weights.safetensors is missing"),
        ({"finished": True}, [], "weights.safetensors and checkpoint.json are missing"),
        ({"finished": False, "position": {"run_epoch": 2}}, ["checkpoint.json"], "weights.safetensors is missing"),
        ({"finished": False, "position": {"run_epoch": 2}}, [], "weights.safetensors and checkpoint.json are missing"),
    ],
)
def test_a_fold_that_has_lost_a_part_is_not_trained_over_and_the_part_is_named(
    run: RunFolder, state: dict[str, Any] | None, there: list[str], missing: str
) -> None:
    fold = run.fold(0)
    touch(*(fold.path / name for name in there))
    if state is not None:
        save_resume(fold.resume, state)
    with pytest.raises(CheckpointError) as caught:
        run.is_finished(0)
    assert f"{fold.path} holds a part of a trained fold: {missing}. Copy the rest" in str(caught.value)
    assert f"move {fold.path} away" in str(caught.value) and "--overwrite" in str(caught.value)


def test_epochs_that_are_no_longer_wanted_go(run: RunFolder) -> None:
    fold = run.fold(0)
    save(fold, *(fold.epoch(number) for number in (1, 2, 3)))
    note = fold.epoch(1).path / "notes.txt"
    touch(note)
    fold.keep_only({3, 4})
    assert fold.epochs() == [fold.epoch(3)] and fold.holds_checkpoint
    assert note.is_file() and not fold.epoch(2).path.exists()


def everything(run: RunFolder) -> None:
    """All that a run may leave."""
    twins = run.specialist("쌍둥이")
    save(run.fold(0), run.fold(0).epoch(3), twins.fold(0))
    touch(run.claim, run.samples, run.log, run.scores, run.out_of_fold, run.ensemble, run.tracking)
    touch(run.fold(0).epoch_answers, twins.fold(0).epoch_answers)
    touch(run.fold(0).resume, twins.fold(0).resume, twins.claim, twins.log, twins.out_of_fold)
    touch(*(run.tensorboard(name) / "events.out.tfevents.1.host" for name in ("0", "쌍둥이/0", ALL_FOLDS)))


def files(run: RunFolder) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}


def test_clearing_leaves_nothing_of_a_run(run: RunFolder) -> None:
    everything(run)
    run.clear()
    assert files(run) == set()
    assert not run.fold(0).path.exists() and not run.specialist("쌍둥이").path.parent.exists()
    run.clear()  # nor is there anything to fail at


def test_clearing_leaves_all_that_is_somebody_elses(run: RunFolder) -> None:
    everything(run)
    mine = [
        run.path / "notes.txt",
        run.path / "monday" / "checkpoint.json",
        run.fold(0).path / "notes.txt",
        run.specialist("쌍둥이").path / "notes.txt",
        run.tensorboard("0") / "a.txt",
        run.tensorboard("notes") / "events.out.tfevents.1.host",
        run.predictions.predictions,
    ]
    touch(*mine)
    run.clear()
    assert files(run) == {str(path.relative_to(run.path)) for path in mine}


def test_it_needs_no_torch() -> None:
    code = "import sys, engine.store.run_folder, engine.store.log; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
