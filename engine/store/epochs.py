"""What a fold answered about the images that it held out, after each epoch: kept from the validations that training
makes anyway, in short, because how late and how often a label was learnt tells whether it is right (Swayamdipta et al.
2020, "Dataset Cartography"; Toneva et al. 2019, "An Empirical Study of Example Forgetting").

A row an image and three columns an epoch, so that ids, the longest of it, stand once: 12 bytes an image and epoch
beside a checkpoint of a hundred megabytes. All of it is written anew each epoch, so the file is always whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import DataError
from engine.files import atomic_write
from engine.predictions import LabelledPredictions

_OWN, _MARGIN, _BEST = "p:", "margin:", "best:"  # and the number of the epoch
_METADATA = b"engine.epochs"
_CLIP = 1e-15  # below which a probability's logarithm is not told apart


@dataclasses.dataclass(frozen=True, eq=False)
class EpochAnswers:
    """What was answered about N images after E epochs, one plain view each.

    epochs: their numbers in the log, from 0, in order. own_NE: the probability of the label that the image has.
    margin_NE: the logarithm of that less that of the likeliest other class (Pleiss et al. 2020, "Identifying Mislabeled
    Data using the Area Under the Margin Ranking"; a difference of logits, whatever they are shifted by). float32, NaN
    where an image was not answered. best_NE: the likeliest class, int32, a place in `classes`, -1 where not.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    epochs: tuple[int, ...]
    own_NE: NDArray[np.float32]
    margin_NE: NDArray[np.float32]
    best_NE: NDArray[np.int32]

    @classmethod
    def of(cls, epoch: int, held: LabelledPredictions) -> Self:
        """Those of one epoch. Labels are among the classes."""
        p_NC, label_N = held.probabilities_NC, held.labels_N
        rows_N = np.arange(len(held))
        own_N, best_N = p_NC[rows_N, label_N], p_NC.argmax(1)
        others_NC = p_NC.copy()
        others_NC[rows_N, label_N] = 0.0
        margin_N = _log(own_N) - _log(others_NC.max(1, initial=0.0))
        own_N1, margin_N1 = own_N[:, None].astype(np.float32), margin_N[:, None].astype(np.float32)
        return cls(held.ids, held.classes, (epoch,), own_N1, margin_N1, best_N[:, None].astype(np.int32))

    def before(self, epoch: int) -> Self:
        """Those of the epochs before this one."""
        places = [place for place, number in enumerate(self.epochs) if number < epoch]
        return dataclasses.replace(
            self,
            epochs=tuple(self.epochs[place] for place in places),
            own_NE=self.own_NE[:, places],
            margin_NE=self.margin_NE[:, places],
            best_NE=self.best_NE[:, places],
        )

    def then(self, later: EpochAnswers) -> Self:
        """Those of both, about all images that either knows. Raises ValueError for other classes."""
        if self.classes != later.classes:
            raise ValueError("answers by epoch of different classes")
        ids = tuple(dict.fromkeys((*self.ids, *later.ids)))
        first, second = self.of_ids(ids), later.of_ids(ids)
        return dataclasses.replace(
            first,
            epochs=first.epochs + second.epochs,
            own_NE=np.concatenate([first.own_NE, second.own_NE], axis=1),
            margin_NE=np.concatenate([first.margin_NE, second.margin_NE], axis=1),
            best_NE=np.concatenate([first.best_NE, second.best_NE], axis=1),
        )

    def of_ids(self, ids: Sequence[str]) -> Self:
        """The same about these images, in this order; nothing about those that are not known."""
        if tuple(ids) == self.ids:
            return self
        place = {id_: row for row, id_ in enumerate(self.ids)}
        row_N = np.array([place.get(id_, len(self.ids)) for id_ in ids], dtype=np.int64)

        def taken(values_NE: NDArray[Any], nothing: float) -> NDArray[Any]:
            with_nothing_NE = np.concatenate([values_NE, np.full_like(values_NE, nothing, shape=(1, len(self.epochs)))])
            return with_nothing_NE[row_N]

        return dataclasses.replace(
            self,
            ids=tuple(ids),
            own_NE=taken(self.own_NE, np.nan),
            margin_NE=taken(self.margin_NE, np.nan),
            best_NE=taken(self.best_NE, -1),
        )

    def write(self, path: Path) -> None:
        """Write as Parquet, atomically."""
        columns: dict[str, pa.Array] = {"id": pa.array(self.ids, pa.string())}
        for place, epoch in enumerate(self.epochs):
            for name, values_NE in ((_OWN, self.own_NE), (_MARGIN, self.margin_NE), (_BEST, self.best_NE)):
                columns[f"{name}{epoch}"] = pa.array(values_NE[:, place])
        about = {_METADATA: json.dumps({"classes": self.classes}, ensure_ascii=False)}
        with atomic_write(path) as temporary:
            pq.write_table(pa.table(columns).replace_schema_metadata(about), temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote. Raises DataError when it is no such file."""
        try:
            table = pq.read_table(path)
            classes = tuple(json.loads((table.schema.metadata or {})[_METADATA])["classes"])
            epochs = tuple(int(name.removeprefix(_OWN)) for name in table.column_names if name.startswith(_OWN))
            ids = tuple(table["id"].to_pylist())

            def columns(name: str, dtype: type) -> NDArray[Any]:
                found_EN = [table[f"{name}{epoch}"].to_numpy() for epoch in epochs]
                return np.array(found_EN, dtype=dtype).reshape(len(epochs), len(ids)).T

            own_NE, margin_NE = columns(_OWN, np.float32), columns(_MARGIN, np.float32)
            return cls(ids, classes, epochs, own_NE, margin_NE, columns(_BEST, np.int32))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a file of answers by epoch ({error}); move it away to do without") from None


def _log(p_N: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.log(np.maximum(p_N.astype(np.float64), _CLIP))


def add_epoch(path: Path, answers: EpochAnswers) -> None:
    """Put an epoch's answers into the file at `path`, in the place of what it holds of that epoch and later ones: a run
    that was stopped and goes on may train an epoch again. A file that cannot be read is begun anew, since no training
    should end for it."""
    together = answers
    if path.is_file():
        with contextlib.suppress(DataError, ValueError):
            together = EpochAnswers.read(path).before(answers.epochs[0]).then(answers)
    together.write(path)
