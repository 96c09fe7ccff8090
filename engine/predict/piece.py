"""Answers about some images in a row, with what is known of these beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.data.manifest import OK
from engine.predictions import Predictions


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Answers about N images in a row. images: the rows of the roll (id, path, label, group). p_NC: float64, columns
    in the order of the models' classes. status: "ok", or why an image was not seen. columns: what else is known of an
    answer. voters: what others answer, NaN where no label is known."""

    images: pa.Table
    p_NC: NDArray[np.float64]
    status: Sequence[str]
    columns: Mapping[str, pa.Array]
    voters: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ids(self) -> list[str]:
        ids: list[str] = self.images["id"].to_pylist()
        return ids

    @property
    def seen_N(self) -> NDArray[np.bool_]:
        return np.array(self.status) == OK

    def predictions(self, classes: Sequence[str]) -> Predictions:
        return Predictions(tuple(self.ids), tuple(classes), self.p_NC)
