"""Epochs that are kept beside the best one: `models/<fold>/epoch_013/`, numbered as in the log, from 0.

Each is a checkpoint like any other, with its own out-of-fold predictions. `engine.store.checkpoint.find_folds` gives
them out in place of the fold's best epoch, so that they answer together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from engine.store import checkpoint

OOF = "oof.parquet"
FILES = (checkpoint.WEIGHTS, checkpoint.META, checkpoint.NEXT_META, checkpoint.RESUME, OOF)


def epoch_folder(fold: Path, epoch: int) -> Path:
    return fold / f"{checkpoint.EPOCH_PREFIX}{epoch:03d}"


def keep_only(fold: Path, epochs: Collection[int]) -> None:
    """Remove the kept epochs of a fold that are not among `epochs`."""
    wanted = {epoch_folder(fold, epoch) for epoch in epochs}
    for folder in checkpoint.epoch_folders(fold):
        if folder not in wanted:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a fold's folder, or a kept epoch's; files that training did not write stay."""
    for epoch in checkpoint.epoch_folders(folder):
        remove(epoch)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()
