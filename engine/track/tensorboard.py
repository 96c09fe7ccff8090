"""A run as TensorBoard shows it: models/tensorboard/0 and so on, one run a fold, and one for the scores over all folds.

What was sent is read off the event files: no position kept beside them can be wrong about them, and when they are
deleted the next run writes them anew. An epoch that a dying process wrote in part is purged by the next writer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.store.run_folder import ALL_FOLDS, EVENTS
from engine.track.tracker import MARK, End, TrackedEpoch, TrackedFold, TrackedRun, flatten

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_TUNED = ("seed", "model", "augment", "train", "stage")  # the recipe's parts that are hyper-parameters


class TensorBoard:
    """Writes event files."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._writers: dict[str, SummaryWriter] = {}
        self._sent: dict[str, int] = {}

    def follow(self, fold: TrackedFold, epochs: Sequence[TrackedEpoch]) -> None:
        name = fold.name
        writer = self._writer(name, MARK)
        if not self._sent[name]:
            self._introduce(writer, epochs[0])
        for epoch in epochs[self._sent[name] :]:
            for tag, value in epoch.scalars.items():
                writer.add_scalar(tag, value, epoch.number, epoch.ended)
            self._sent[name] += 1
        writer.flush()

    def score(self, scores: Mapping[str, float]) -> None:
        """Over the number of folds, since a run may go on with more of them."""
        folds = self._run.scored_folds
        *others, last = (f"out_of_fold/{name}" for name in scores)
        writer = self._writer(ALL_FOLDS, last)
        if self._sent[ALL_FOLDS] <= folds:
            for name, value in zip([*others, last], scores.values(), strict=True):
                writer.add_scalar(name, value, folds)
            self._sent[ALL_FOLDS] = folds + 1
        writer.flush()

    def close(self, end: End) -> None:
        while self._writers:
            self._writers.popitem()[1].close()

    def drop(self) -> None:
        self._writers.clear()  # closing them would write what may be what failed

    def _writer(self, name: str, mark: str) -> SummaryWriter:
        if name not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._run.folder.tensorboard(name)
            self._sent[name] = next_step(folder, mark)
            self._writers[name] = SummaryWriter(str(folder), purge_step=self._sent[name])
        return self._writers[name]

    def _introduce(self, writer: SummaryWriter, first: TrackedEpoch) -> None:
        """The recipe as text, and its values for the page of hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        writer.add_text("recipe", f"```toml\n{self._run.toml}\n```", 0, first.ended)
        tuned = flatten({key: self._run.recipe[key] for key in _TUNED if key in self._run.recipe})
        drawn = dict.fromkeys(["train/loss", *(tag for tag in first.scalars if tag.startswith("valid/"))], 0.0)
        for summary in hparams(tuned, drawn)[:2]:  # the third one would say that it is over
            writer._get_file_writer().add_summary(summary, 0, first.ended)


def next_step(folder: Path, tag: str) -> int:
    """One more than the last step of a scalar in the event files of a folder; 0 when there are none."""
    if not any(folder.glob(EVENTS)):
        return 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of what was purged
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    if tag not in events.Tags()["scalars"]:
        return 0
    return max(event.step for event in events.Scalars(tag)) + 1
