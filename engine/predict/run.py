"""From fold models and a folder of images to files with answers: `answer` predicts; `write` puts the files in place,
each whole or not at all, once everything is known.

An image that cannot be read is answered, too: with the class shares of the training data, the best answer of somebody
who sees nothing. A submission without its row would be refused as a whole. It is named in `status` and to the user.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from engine.data.classes import groups_of
from engine.data.ingest import Progress
from engine.data.manifest import OK
from engine.ensemble.vote import blend
from engine.errors import DataError
from engine.files import write_text
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.metrics import Scores, evaluate
from engine.predict.asking import Answered, Asking
from engine.predict.job import Job
from engine.predict.models import Models
from engine.predict.submission import write_submission
from engine.predictions import Predictions
from engine.quarantine import Quarantine
from engine.store.checkpoint import Checkpoint
from engine.store.run_folder import PredictionsFolder


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Metrics by name over the `images` that have a known label: of all models together, of each alone, and of always
    answering the class shares. `unknown`: labels of the data that the models do not know.

    Specialists count in `together` and not in `alone`; `without_specialists` is what together was without them, {} when
    none were asked."""

    images: int
    together: dict[str, float]
    alone: dict[str, dict[str, float]]  # by the name of the fold's folder
    baseline: dict[str, float]
    unknown: tuple[str, ...]
    without_specialists: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Answers for every image of the job, in the manifest's order; `status` says "ok", or why an image was not seen."""

    answers: Predictions
    status: tuple[str, ...]
    scores: Comparison | None  # None: the data has no labels
    seconds: float
    asked: dict[str, int] = dataclasses.field(default_factory=dict)  # images each specialist was asked about

    @property
    def failed(self) -> list[int]:
        """Rows whose image could not be seen."""
        return [row for row, status in enumerate(self.status) if status != OK]


def answer(job: Job, device: torch.device, progress: Progress | None = None) -> Outcome:
    """Predict every image, as `Asking` does.

    `progress(done, total)` counts images. Raises DataError when no image can be decoded.
    """
    began_s = time.perf_counter()
    manifest, models = job.manifest, job.models
    status = [OK if fault is None else str(fault) for fault in manifest.faults]
    rows_N = np.flatnonzero(np.array(status) == OK)
    samples = Samples(manifest.ids, Files(manifest.paths), manifest.keys_N, np.full(len(manifest), -1))

    def told(done: int) -> None:
        if progress:
            progress(done, len(rows_N))

    answered = Asking(models, device)(samples, rows_N, told)
    quarantine = answered if isinstance(answered, Quarantine) else answered.quarantine
    for row in rows_N.tolist():
        if entry := quarantine.get(manifest.ids[row]):
            status[row] = str(entry.fault)
    if isinstance(answered, Quarantine):
        raise DataError(
            f"none of the {len(manifest)} images can be decoded; the first, {manifest.paths[0]}: {status[0]}"
        )
    return Outcome(
        answers=_whole(answered.together, manifest.ids, _blind_together(models)),
        status=tuple(status),
        scores=_compared(job, answered),
        seconds=time.perf_counter() - began_s,
        asked=answered.asked,
    )


def refuse_place(folder: Path) -> None:
    """Raises DataError when `write` could not put its files into `folder`: better known before the first image is
    decoded. Makes nothing."""
    files = PredictionsFolder(folder)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise DataError(f"{above}: is a file, so there can be no folder {folder} for the answers; give another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: nothing can be written into {above}; give another --out, or mend its permissions")
    for path in (files.predictions, files.submission, files.scores):
        if path.is_dir():
            raise DataError(f"{path}: is a folder, where a file is to be written; move it, or give another --out")


def write(job: Job, outcome: Outcome, folder: Path) -> list[Path]:
    """Write predictions.parquet, submission.csv and, when the data has labels, scores.json; returns their paths."""
    files = PredictionsFolder(folder)
    written = [files.predictions, files.submission]
    outcome.answers.write(written[0], _beside(job, outcome))
    write_submission(written[1], job.sheet, outcome.answers)
    if outcome.scores is None:
        files.scores.unlink(missing_ok=True)  # of other images: it would be taken for these
    else:
        written.append(files.scores)
        write_text(written[2], json.dumps(dataclasses.asdict(outcome.scores), ensure_ascii=False, indent=1) + "\n")
    return written


def _beside(job: Job, outcome: Outcome) -> dict[str, pa.Array]:
    """The columns of predictions.parquet between the id and the probabilities: path, prediction (the likeliest class),
    confidence (its probability), status, and label where the images have any."""
    answers = outcome.answers
    columns = {
        "path": pa.array(job.manifest.paths, pa.string()),
        "prediction": pa.array(answers.answers, pa.string()),
        "confidence": pa.array(answers.probabilities_NC.max(1), pa.float32()),
        "status": pa.array(outcome.status, pa.string()),
    }
    return columns | ({"label": pa.array(job.labels, pa.string())} if any(job.labels) else {})


def _whole(seen: Predictions, ids: Sequence[str], otherwise_C: NDArray[np.float64]) -> Predictions:
    """An answer for each of `ids`: `otherwise_C` for those that were not seen."""
    place = {id_: row for row, id_ in enumerate(ids)}
    probabilities_NC = np.tile(otherwise_C, (len(ids), 1))
    probabilities_NC[[place[id_] for id_ in seen.ids]] = seen.probabilities_NC
    return Predictions(tuple(ids), seen.classes, probabilities_NC)


def _blind(saved: Checkpoint, classes: Sequence[str]) -> NDArray[np.float64]:
    """What a model answers about an image that it cannot see, (1, C): its class shares."""
    counts = dict(zip(saved.classes, saved.class_counts, strict=True))
    counts_C = np.array([counts[name] for name in classes], dtype=np.float64)
    return (counts_C / counts_C.sum())[None]


def _blind_together(models: Models) -> NDArray[np.float64]:
    """What all of them answer about an image that nobody can see, (C,)."""
    weights, rule = [len(places) for places in models.folds], models.recipe.ensemble.vote
    shares = [_blind(models.checkpoints[places[0]], models.classes) for places in models.folds]
    # Nobody has answered, so there are no first answers to count and no places: shares are averaged.
    return blend(np.stack(shares), "logit" if rule == "logit" else "soft", weights)[0]


def _compared(job: Job, answered: Answered) -> Comparison | None:
    """How good the answers are where the label is known; None when it is nowhere."""
    models, ids = job.models, job.manifest.ids
    if not set(job.labels) & set(models.classes):
        return None
    groups = groups_of(models.classes, models.recipe.data)

    def scores(answers: Predictions, otherwise_C: NDArray[np.float64]) -> Scores:
        whole = _whole(answers, ids, otherwise_C).in_order(ids, models.classes)
        return evaluate(whole.labelled(job.labels), groups)

    together = scores(answered.together, _blind_together(models))
    blind = [_blind(saved, models.classes) for saved in models.checkpoints]
    alone = {
        member.name: scores(answers, _blind(saved, answers.classes)[0]).metrics
        for member, saved, answers in zip(models.members, models.checkpoints, answered.alone, strict=True)
    }
    without = scores(answered.without_specialists, _blind_together(models)).metrics if models.specialists else {}
    return Comparison(
        images=together.images,
        together=together.metrics,
        alone=alone,
        baseline=scores(answered.together.take([]), blend(np.stack(blind))[0]).metrics,
        unknown=together.unknown,
        without_specialists=without,
    )
