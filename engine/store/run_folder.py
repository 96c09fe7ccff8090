"""Everything that a run leaves on disk, by name, once.

    models/
      run.json              what it is trained with
      samples.parquet       which images those are, in short
      log.jsonl             a line an epoch
      scores.json           how good all folds are together, out of fold
      oof.parquet           out-of-fold predictions of all folds
      ensemble.json         how the members become one answer
      0/, 1/, ...           a fold: weights.safetensors, checkpoint.json, resume.pt, oof.parquet, bank.safetensors
        epochs.parquet      what it answered about what it held out, after each epoch, in short
        epoch_013/, ...     an epoch that was kept beside the best one: the same, without resume.pt
      court.csv             what people decided about labels; it stays when the run is trained afresh
      specialists/<name>/   a run of its own
      predictions/          what `engine infer` answered; parts/ in it while it is not finished
      running.json          while a process trains in it: which
      track.json, tensorboard/, wandb/    what trackers need and write

Whoever reads or writes one of these asks here for its place. So a name stands once, a run can be removed without
touching what somebody else has put beside it, and one that is copied elsewhere is found as it was.

Knows no torch: past runs are listed without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from engine.errors import CheckpointError
from engine.files import write_text

CHECKPOINT = "checkpoint.json"
OCCUPIED = "running.json"  # of a run, and of a folder of several
ALL_FOLDS = "out_of_fold"  # TensorBoard's run of the scores over all folds
EVENTS = "events.out.tfevents.*"  # files that TensorBoard writes

_EPOCH = "epoch_"  # and its number in the log, from 0
_SPECIALISTS, _PREDICTIONS, _TENSORBOARD, _WANDB = "specialists", "predictions", "tensorboard", "wandb"
_OUT_OF_FOLD, _SCORES = "oof.parquet", "scores.json"

Member = TypeVar("Member", bound="MemberFolder")


@dataclasses.dataclass(frozen=True)
class MemberFolder:
    """A model that answers: a fold's best epoch, or one that was kept beside it."""

    path: Path

    @property
    def weights(self) -> Path:
        """The tensors of the scored model."""
        return self.path / "weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All else that answering needs."""
        return self.path / CHECKPOINT

    @property
    def next_checkpoint(self) -> Path:
        """The same, of weights that are about to be put in place."""
        return self.path / "checkpoint.next.json"

    @property
    def out_of_fold(self) -> Path:
        """Its predictions for what its fold holds out; a specialist's, for what the main model's fold does."""
        return self.path / _OUT_OF_FOLD

    @property
    def holds_checkpoint(self) -> bool:
        """Whether there is one to load; a process may have died before the last of its files was renamed."""
        return self.checkpoint.is_file() or (self.next_checkpoint.is_file() and self.weights.is_file())

    @property
    def says_finished(self) -> bool:
        """Whether the checkpoint says that its fold was trained to the end."""
        try:
            return json.loads(self.checkpoint.read_text("utf-8"))["finished"] is True
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def mark_finished(self) -> None:
        """Have the checkpoint say so: what answers may be copied without what going on needs."""
        content = json.loads(self.checkpoint.read_text("utf-8"))
        write_text(self.checkpoint, json.dumps(content | {"finished": True}, ensure_ascii=False, indent=1) + "\n")

    @property
    def fold(self) -> FoldFolder:
        """The fold that it is, or is an epoch of."""
        path = self.path.absolute()  # "." has no name and no parent
        return FoldFolder(path.parent if path.name.startswith(_EPOCH) else path)

    @property
    def name(self) -> str:
        """What it is called: "0", or "0/epoch_013" where the fold kept several epochs."""
        fold = self.fold.path
        return fold.name if self.path.absolute() == fold else f"{fold.name}/{self.path.name}"

    def clear(self) -> None:
        """Remove what training wrote, and the folder if nothing else is in it."""
        for path in (self.weights, self.checkpoint, self.next_checkpoint, self.out_of_fold):
            path.unlink(missing_ok=True)
        _remove_empty(self.path)


@dataclasses.dataclass(frozen=True)
class FoldFolder(MemberFolder):
    """A fold of a run: its best epoch, those that were kept beside it, and what going on with it needs."""

    @property
    def resume(self) -> Path:
        """Optimiser, averages and position."""
        return self.path / "resume.pt"

    @property
    def bank(self) -> Path:
        """The features of the images that it was trained on."""
        return self.path / "bank.safetensors"

    @property
    def epoch_answers(self) -> Path:
        """What it answered about what it held out, after each epoch; runs of older engines have none."""
        return self.path / "epochs.parquet"

    def epoch(self, number: int) -> MemberFolder:
        """Where an epoch of the run, counted from 0, is kept."""
        return MemberFolder(self.path / f"{_EPOCH}{number:03d}")

    def epochs(self) -> list[MemberFolder]:
        """The epochs that were kept, in order; [] when the best one alone was."""
        return _saved(MemberFolder(path) for path in self.path.glob(f"{_EPOCH}*"))

    def members(self) -> list[MemberFolder]:
        """Who answers for the fold: the kept epochs in place of the best one. Raises CheckpointError for nobody."""
        return _not_none(self.epochs() or ([self] if self.holds_checkpoint else []), self.path)

    def is_finished(self) -> bool:
        """Whether it was trained to its end. Its state says so, and where that was left behind, its models do.

        Raises CheckpointError, naming what is missing, where training would replace models that it knows nothing of,
        or go on without those that it trained.
        """
        from engine.store.resume import load_resume  # needs torch

        models = [self, *(MemberFolder(path) for path in sorted(self.path.glob(f"{_EPOCH}*")))]
        there = [one for one in models if one.weights.is_file() or one.holds_checkpoint]
        if there and all(one.says_finished and one.weights.is_file() for one in there):
            return True
        state = load_resume(self.resume)
        if there and state is None:
            raise self._lacks([self.resume])
        if state is not None and (state["finished"] or state.get("position", {}).get("run_epoch")):
            lacking = [path for path in (self.weights, self.checkpoint) if not path.is_file()]
            if not self.holds_checkpoint or not self.weights.is_file():
                raise self._lacks(lacking)
        return state is not None and bool(state["finished"])

    def _lacks(self, files: Sequence[Path]) -> CheckpointError:
        names = " and ".join(path.name for path in files)
        missing = "is missing" if len(files) == 1 else "are missing"
        return CheckpointError(
            f"{self.path} holds a part of a trained fold: {names} {missing}. Copy the rest from where it was trained, "
            f"or train it again: move {self.path} away, or start all of the run afresh with --overwrite"
        )

    def keep_only(self, epochs: Collection[int]) -> None:
        """Remove the kept epochs that are not among `epochs`."""
        wanted = {self.epoch(number) for number in epochs}
        for kept in self.epochs():
            if kept not in wanted:
                kept.clear()

    def clear(self) -> None:
        for kept in self.epochs():
            kept.clear()
        self.resume.unlink(missing_ok=True)
        self.bank.unlink(missing_ok=True)
        self.epoch_answers.unlink(missing_ok=True)
        super().clear()


@dataclasses.dataclass(frozen=True)
class PredictionsFolder:
    """What `engine infer` answered; anywhere, by default inside the run's folder."""

    path: Path

    @property
    def predictions(self) -> Path:
        """Every answer, with what is known of its image."""
        return self.path / "predictions.parquet"

    @property
    def submission(self) -> Path:
        """The answers as a contest asks for them."""
        return self.path / "submission.csv"

    @property
    def scores(self) -> Path:
        """How good they are, where labels are known."""
        return self.path / _SCORES

    @property
    def parts(self) -> Path:
        """While it is going on, and after it was stopped: what is answered so far."""
        return self.path / "parts"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's folder, the recipe's `output`; or a specialist's, which is a run of its own inside another one's."""

    path: Path

    @property
    def claim(self) -> Path:
        """What it is trained with: recipe and data."""
        return self.path / "run.json"

    @property
    def samples(self) -> Path:
        """Which images it is trained with."""
        return self.path / "samples.parquet"

    @property
    def occupied(self) -> Path:
        """Which process trains in it; there while one does."""
        return self.path / OCCUPIED

    @property
    def log(self) -> Path:
        """A line an epoch."""
        return self.path / "log.jsonl"

    @property
    def scores(self) -> Path:
        """How good all folds are together; written at the end."""
        return self.path / _SCORES

    @property
    def out_of_fold(self) -> Path:
        """The folds' out-of-fold predictions, joined."""
        return self.path / _OUT_OF_FOLD

    @property
    def ensemble(self) -> Path:
        """How the members become one answer; written at the end."""
        return self.path / "ensemble.json"

    @property
    def court(self) -> Path:
        """What people decided about labels: theirs, and not removed with the run."""
        return self.path / "court.csv"

    @property
    def predictions(self) -> PredictionsFolder:
        """Where `engine infer` puts its answers unless told otherwise."""
        return PredictionsFolder(self.path / _PREDICTIONS)

    @property
    def tracking(self) -> Path:
        """The run's id among trackers, and what they have got."""
        return self.path / "track.json"

    @property
    def wandb(self) -> Path:
        """Where Weights & Biases keeps its files."""
        return self.path / _WANDB

    def tensorboard(self, name: str = "") -> Path:
        """Where TensorBoard finds a run of that name, a fold's or `ALL_FOLDS`; without a name, where it finds all."""
        return self.path / _TENSORBOARD / name

    # -- folds

    def fold(self, number: int) -> FoldFolder:
        """The folder of a fold, trained or not."""
        return FoldFolder(self.path / str(number))

    def folds(self) -> list[FoldFolder]:
        """Those that hold a checkpoint, by name, numbers as numbers (2 before 10). Folds may have been gathered from
        several runs, under any names."""
        return _saved(FoldFolder(path) for path in self.path.iterdir())

    def is_finished(self, number: int) -> bool:
        """Whether a fold was trained to its end. Raises CheckpointError as `FoldFolder.is_finished`."""
        return self.fold(number).is_finished()

    def members(self) -> list[MemberFolder]:
        """The models that answer together: those of each fold. A fold's own folder is its only fold. Raises
        CheckpointError for none."""
        if not self.path.is_dir():
            raise CheckpointError(
                f"{self.path}: no such folder; train first, or give the folder that `engine train` wrote"
            )
        only = FoldFolder(self.path)
        folds = [only] if only.holds_checkpoint else self.folds()
        return _not_none([member for fold in folds for member in fold.members()], self.path)

    # -- specialists

    def specialist(self, name: str) -> RunFolder:
        """The run of a specialist, trained or not."""
        return RunFolder(self.path / _SPECIALISTS / name)

    def specialists(self) -> list[RunFolder]:
        """Those that were begun, by name."""
        return [RunFolder(path) for path in sorted((self.path / _SPECIALISTS).glob("*/"))]

    # -- the whole

    def clear(self) -> None:
        """Remove what training and TensorBoard's tracker have written here, and nothing else."""
        for specialist in self.specialists():
            specialist.clear()
            _remove_empty(specialist.path)
        for path in (self.claim, self.samples, self.log, self.scores, self.out_of_fold, self.ensemble):
            path.unlink(missing_ok=True)
        _remove_empty(self.path / _SPECIALISTS)
        for path in self.path.glob("*/"):
            if path.name.isdecimal():
                FoldFolder(path).clear()
        self.tracking.unlink(missing_ok=True)
        for path in [*self.tensorboard().rglob(EVENTS)]:
            if path.parent.name == ALL_FOLDS or path.parent.name.isdecimal():
                path.unlink()

    @staticmethod
    def is_inside(name: str) -> bool:
        """Whether a folder of that name in a run's folder is a part of the run, and no run of somebody's own."""
        return name.isdecimal() or name in (_SPECIALISTS, _PREDICTIONS, _TENSORBOARD, _WANDB)


def _saved(folders: Iterable[Member]) -> list[Member]:
    """Those that hold a checkpoint, by name, numbers as numbers."""
    return sorted((folder for folder in folders if folder.holds_checkpoint), key=lambda folder: _natural(folder.path))


def _not_none(members: list[MemberFolder], path: Path) -> list[MemberFolder]:
    if not members:
        raise CheckpointError(
            f"{path}: no fold in it holds a {CHECKPOINT}; finish at least one epoch of `engine train`, or give the "
            "folder that it wrote"
        )
    return members


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()
