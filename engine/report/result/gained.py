"""What answering together gained over one model, and how the folds did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.events import EpochRecord
from engine.report.result.told import Told

_SHOWN = ("log_loss", "accuracy")


def steps(told: Told) -> list[dict[str, Any]]:
    """From the best epoch of each fold, by one look, to all that answer together; [] where the log does not say."""
    if told.answers is None or not told.metrics:
        return []
    fold_F, images_F = np.unique(told.answers.fold_N, return_counts=True)
    best = {record.fold: record for record in told.records if record.best and record.metrics}
    if set(best) != set(fold_F.tolist()):
        return []
    one = _mean([best[fold] for fold in fold_F.tolist()], images_F / images_F.sum())
    gains, specialists = told.scores.get("ensemble", []), told.scores.get("specialists", [])
    found = [("each fold's best epoch, one view", one)]
    if gains and not specialists and any(gain["kept"] for gain in gains):
        found.append(("kept epochs and views together", gains[0]["before"]))
        found.append(("with what was fitted", told.metrics))
    else:
        found.append(("all together, as it answers" if specialists else "kept epochs and views together", told.metrics))
    return [{"name": name, **{metric: values[metric] for metric in _SHOWN}} for name, values in found]


def _mean(records: list[EpochRecord], shares_F: np.ndarray) -> Mapping[str, float]:
    return {name: float(np.dot([record.metrics[name] for record in records], shares_F)) for name in _SHOWN}


def folds(told: Told) -> list[dict[str, Any]]:
    """Of each fold: photos held out, and how well all that answers about them does."""
    answers = told.answers
    if answers is None:
        return []
    rows = []
    for fold in np.unique(answers.fold_N).tolist():
        own_N = answers.fold_N == fold
        best = [record for record in told.records if record.fold == fold and record.best]
        rows.append(
            {
                "fold": fold,
                "images": int(own_N.sum()),
                "epoch": best[-1].epoch + 1 if best else None,
                "log_loss": float(answers.nats_N[own_N].mean()),
                "accuracy": float(answers.right_N[own_N].mean()),
            }
        )
    return rows
