"""Out-of-fold predictions: what each fold's saved weights answer about the samples it never saw, by sample id."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.files import atomic_write


@dataclasses.dataclass(frozen=True)
class Held:
    """Class probabilities (N, C), float32, of held-out samples and their class indices (N,)."""

    ids: list[str]
    labels_N: np.ndarray
    probabilities_NC: np.ndarray


def write_held(path: Path, held: Held, classes: Sequence[str], fold: int, labels: Sequence[str] | None = None) -> None:
    """Write `held_table`, atomically."""
    with atomic_write(path) as temporary:
        pq.write_table(held_table(held, classes, fold, labels), temporary)


def held_table(held: Held, classes: Sequence[str], fold: int, labels: Sequence[str] | None = None) -> pa.Table:
    """Columns id, fold, label, and one of probabilities for each class. `labels` names the labels where they are not
    among these classes."""
    names = classes if labels is None else labels
    columns = {
        "id": pa.array(held.ids, pa.string()),
        "fold": pa.array([fold] * len(held.ids), pa.int32()),
        "label": pa.array([names[i] for i in held.labels_N], pa.string()),
    }
    probabilities = [pa.array(column) for column in held.probabilities_NC.T]
    return pa.Table.from_arrays([*columns.values(), *probabilities], names=[*columns, *classes])


def read_held(path: Path, classes: Sequence[str], labels: Sequence[str] | None = None) -> Held:
    """What `write_held` wrote."""
    table = pq.read_table(path)
    index = {name: i for i, name in enumerate(classes if labels is None else labels)}
    columns = [table.column(table.num_columns - len(classes) + i).to_numpy() for i in range(len(classes))]
    return Held(
        ids=table.column(0).to_pylist(),
        labels_N=np.array([index[label] for label in table.column(2).to_pylist()], dtype=np.int64),
        probabilities_NC=np.stack(columns, axis=1),
    )


def mean_held(answers: Sequence[Held]) -> Held:
    """The mean of several answers about the same samples: of those that all of them know, in the first one's order."""
    rows = [{id_: row for row, id_ in enumerate(answer.ids)} for answer in answers]
    ids = [id_ for id_ in answers[0].ids if all(id_ in known for known in rows)]
    picked = [np.array([known[id_] for id_ in ids], dtype=np.int64) for known in rows]
    return Held(
        ids=ids,
        labels_N=answers[0].labels_N[picked[0]],
        probabilities_NC=np.mean([a.probabilities_NC[p] for a, p in zip(answers, picked, strict=True)], axis=0),
    )
