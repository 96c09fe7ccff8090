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


def write_held(path: Path, held: Held, classes: Sequence[str], fold: int) -> None:
    """Write columns id, fold, label, and one of probabilities for each class, atomically."""
    columns = {
        "id": pa.array(held.ids, pa.string()),
        "fold": pa.array([fold] * len(held.ids), pa.int32()),
        "label": pa.array([classes[i] for i in held.labels_N], pa.string()),
    }
    probabilities = [pa.array(column) for column in held.probabilities_NC.T]
    table = pa.Table.from_arrays([*columns.values(), *probabilities], names=[*columns, *classes])
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)


def read_held(path: Path, classes: Sequence[str]) -> Held:
    """What `write_held` wrote."""
    table = pq.read_table(path)
    index = {name: i for i, name in enumerate(classes)}
    columns = [table.column(table.num_columns - len(classes) + i).to_numpy() for i in range(len(classes))]
    return Held(
        ids=table.column(0).to_pylist(),
        labels_N=np.array([index[label] for label in table.column(2).to_pylist()], dtype=np.int64),
        probabilities_NC=np.stack(columns, axis=1),
    )
