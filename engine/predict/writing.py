"""Answers become files: each whole or not at all, once everything is known, and written a piece at a time.

How answers were cut into parts does not show in the files: they are cut anew, so that a prediction that was killed, one
of several ranks and one that went through in one piece leave the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.roll import even
from engine.errors import DataError
from engine.files import atomic_write, write_text
from engine.predict.job import Job
from engine.predict.outcome import Outcome
from engine.predict.piece import Piece
from engine.predict.submission import write_submission
from engine.predictions import P, file_metadata
from engine.store.run_folder import PredictionsFolder

_GROUP_CELLS, _GROUP_ROWS = 1 << 22, 1 << 16  # of a row group of predictions.parquet


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
    """Write predictions.parquet, submission.csv and, when the data has labels, scores.json; returns their paths. The
    parts stay: `job.parts.clear()` when all is done."""
    files = PredictionsFolder(folder)
    written = [files.predictions, files.submission]
    _write_predictions(written[0], job, outcome)
    write_submission(written[1], job.sheet, (piece.predictions(job.models.classes) for piece in outcome.pieces()))
    if outcome.scores is None:
        files.scores.unlink(missing_ok=True)  # of other images: it would be taken for these
    else:
        written.append(files.scores)
        write_text(written[2], json.dumps(dataclasses.asdict(outcome.scores), ensure_ascii=False, indent=1) + "\n")
    return written


def _write_predictions(path: Path, job: Job, outcome: Outcome) -> None:
    classes = job.models.classes
    others = _others(outcome)
    names = ["id", "path", "prediction", "confidence", "status", *(["label"] if job.labelled else []), *others]
    rows = max(1, min(_GROUP_ROWS, _GROUP_CELLS // len(classes)))

    def tables() -> Iterator[pa.Table]:
        for piece in outcome.pieces():
            yield _table(piece, classes, names, others)

    schema = pa.schema([(name, _TYPES.get(name) or others[name]) for name in names])
    for name in classes:
        schema = schema.append(pa.field(P + name, pa.float32()))
    schema = schema.with_metadata(file_metadata())
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_statistics=["id"]) as writer,
    ):
        for table in even(tables(), rows):
            writer.write_table(table.replace_schema_metadata(schema.metadata))


_TYPES = {
    "id": pa.string(),
    "path": pa.string(),
    "prediction": pa.string(),
    "confidence": pa.float32(),
    "status": pa.string(),
    "label": pa.string(),
}


def _table(piece: Piece, classes: tuple[str, ...], names: list[str], others: Mapping[str, pa.DataType]) -> pa.Table:
    """Rows of predictions.parquet: id; path, prediction (the likeliest class), confidence (its probability), status,
    label where the images have any; what else is known; probabilities."""
    p_NC = piece.p_NC
    columns = {
        "id": piece.images["id"],
        "path": piece.images["path"],
        "prediction": pa.array(np.array(classes, dtype=object)[p_NC.argmax(1)], pa.string()),
        "confidence": pa.array(p_NC.max(1), pa.float32()),
        "status": pa.array(piece.status, pa.string()),
        "label": piece.images["label"],
    }
    columns |= {
        name: piece.columns[name] if name in piece.columns else pa.nulls(len(piece), type_)
        for name, type_ in others.items()
    }
    probabilities = {P + name: pa.array(p_NC[:, place], pa.float32()) for place, name in enumerate(classes)}
    return pa.table({name: columns[name] for name in names} | probabilities)


def _others(outcome: Outcome) -> dict[str, pa.DataType]:
    """The columns beside those of every answer: as in any part of which an image could be seen."""
    seen = next(piece for piece in outcome.pieces() if piece.seen_N.any())
    return {name: values.type for name, values in seen.columns.items()}
