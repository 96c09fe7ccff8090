"""From fold models and a folder of images to files with answers: `answer` predicts; `write` puts the files in place,
each whole or not at all, once everything is known.

An image that cannot be read is answered, too: with the class shares of the training data, the best answer of somebody
who sees nothing. A submission without its row would be refused as a whole. It is named in `status` and to the user.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from engine.data.classes import groups_of
from engine.data.ingest import Progress
from engine.data.manifest import OK
from engine.ensemble.vote import blend, vote, vote_of_fold
from engine.errors import DataError
from engine.files import write_text
from engine.inference.ask import ask
from engine.loader.batches import Samples
from engine.loader.source import Files
from engine.metrics import evaluate
from engine.predict.job import Job
from engine.predict.panel import hear
from engine.predict.submission import write_submission
from engine.predictions import LabelledPredictions, Predictions
from engine.ranks import Ranks
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
    """Predict every image: views averaged within each model, then models with each other, both by `ensemble.vote`; in
    between, specialists are asked.

    `progress(done, total)` counts images. Raises DataError when no image can be decoded.
    """
    began_s = time.perf_counter()
    manifest, recipe, rule = job.manifest, job.recipe, job.recipe.ensemble.vote
    status = [OK if fault is None else str(fault) for fault in manifest.faults]
    rows_N = np.flatnonzero(np.array(status) == OK)
    samples = Samples(manifest.ids, Files(manifest.paths), manifest.keys_N, np.full(len(manifest), -1))
    views, here = partial(blend, rule=rule), Ranks(0, 1, device)

    def told(done: int) -> None:
        if progress:
            progress(done, len(rows_N))

    seen, quarantine = ask(job.checkpoints, samples, rows_N, recipe, views, here, told)
    for row in rows_N.tolist():
        if entry := quarantine.get(manifest.ids[row]):
            status[row] = str(entry.fault)
    if not len(seen[0]):
        raise DataError(
            f"none of the {len(manifest)} images can be decoded; the first, {manifest.paths[0]}: {status[0]}"
        )
    row_of = {id_: row for row, id_ in enumerate(manifest.ids)}

    def ask_specialist(checkpoints: Sequence[Checkpoint], ids: Sequence[str]) -> list[Predictions]:
        about_N = np.array(sorted(row_of[id_] for id_ in ids), dtype=np.int64)
        return ask(checkpoints, samples, about_N, recipe, views, here)[0]

    folds = [vote_of_fold([seen[place] for place in places], rule) for places in job.folds]
    heard, asked = hear(job.specialists, folds, rule, ask_specialist)
    together, without = (_together(job, each, manifest.ids) for each in (heard, folds))
    return Outcome(
        answers=together,
        status=tuple(status),
        scores=_compared(job, together, without if job.specialists else None, seen),
        seconds=time.perf_counter() - began_s,
        asked=asked,
    )


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


def _together(job: Job, folds: Sequence[Predictions], ids: Sequence[str]) -> Predictions:
    """The vote of the folds about the images that were seen, and of their class shares about the others. Every kept
    epoch has one vote."""
    weights, rule = [len(places) for places in job.folds], job.recipe.ensemble.vote
    shares = [_blind(job.checkpoints[places[0]], job.classes) for places in job.folds]
    return _whole(vote(folds, rule, weights), ids, blend(np.stack(shares), rule, weights)[0])


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


def _compared(
    job: Job, together: Predictions, without: Predictions | None, seen: Sequence[Predictions]
) -> Comparison | None:
    """How good the answers are where the label is known; None when it is nowhere. `without`: specialists."""
    if not set(job.labels) & set(job.classes):
        return None
    groups = groups_of(together.classes, job.recipe.data)

    def labelled(answers: Predictions) -> LabelledPredictions:
        return answers.in_order(together.ids, together.classes).labelled(job.labels)

    def metrics(answers: Predictions) -> dict[str, float]:
        return evaluate(labelled(answers), groups).metrics

    blind = [_blind(saved, together.classes) for saved in job.checkpoints]
    alone = {
        member.name: metrics(_whole(answers, together.ids, _blind(saved, answers.classes)[0]))
        for member, saved, answers in zip(job.members, job.checkpoints, seen, strict=True)
    }
    scores = evaluate(labelled(together), groups)
    return Comparison(
        images=scores.images,
        together=scores.metrics,
        alone=alone,
        baseline=metrics(_whole(together.take([]), together.ids, blend(np.stack(blind))[0])),
        unknown=scores.unknown,
        without_specialists={} if without is None else metrics(without),
    )
