"""The manifest: one Arrow table with a row for every sample, known or unreadable.

One table, because everything downstream asks for whole columns (all labels, all paths, all keys), and a million
samples as Arrow columns are small in memory and quickly read from Parquet, where a million Python objects are
neither. It knows nothing of where the samples came from; `ingest` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from engine.errors import DataError
from engine.quarantine import Fault, FaultKind, Quarantine
from engine.text import some

OK = "ok"

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),  # absolute, spelled as on disk
        ("label", pa.string()),  # "" when unknown
        ("group", pa.string()),  # "" when in no group
        ("fold", pa.int32()),  # the user's own fold; -1 when not given
        ("made_from", pa.string()),  # id of the sample this is an augmented copy of; "" for an original
        ("mixed_with", pa.string()),  # id of the second sample in such a copy, "" for none
        ("sha1", pa.string()),  # of the file's bytes, hexadecimal
        ("height", pa.int32()),  # as stored, before EXIF turns it
        ("width", pa.int32()),
        ("orientation", pa.int8()),  # EXIF, 1 to 8
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("status", pa.string()),  # "ok", or the FaultKind that keeps the file from being used
        ("fault", pa.string()),  # the same in words; "" when ok
    ]
)
_DEFAULTS: dict[str, str | int] = {
    "label": "",
    "group": "",
    "fold": -1,
    "made_from": "",
    "mixed_with": "",
    "sha1": "",
    "height": 0,
    "width": 0,
    "orientation": 1,
    "bytes": -1,
    "mtime_ns": 0,
    "status": OK,
    "fault": "",
}


@dataclass(frozen=True, eq=False)
class Manifest:
    """Samples, in a fixed order. `table` has exactly the columns of `SCHEMA`, without nulls, and ids that are unique.
    `notices`: in words, what a person should know of how they were found.

    Raises DataError naming the ids when two samples share one.
    """

    table: pa.Table
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.table.schema != SCHEMA:
            raise ValueError(f"a manifest has the columns\n{SCHEMA}\nnot\n{self.table.schema}")
        if pc.count_distinct(self.table["id"]).as_py() != len(self):
            repeated = repeated_values(self.table["id"])
            raise DataError(f"sample ids must be unique; used more than once: {some(repeated)}")

    @classmethod
    def build(cls, columns: Mapping[str, Any]) -> Manifest:
        """From columns by name, each an array or list of N; `id` and `path` are needed, the others have defaults."""
        rows = len(columns["id"])
        arrays = []
        for field in SCHEMA:
            if field.name in columns:
                arrays.append(_as_column(columns[field.name], field.type))
            else:
                arrays.append(pa.repeat(pa.scalar(_DEFAULTS[field.name], field.type), rows))
        return cls(pa.Table.from_arrays(arrays, schema=SCHEMA))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @cached_property
    def ids(self) -> list[str]:
        return self._strings("id")

    @cached_property
    def paths(self) -> list[str]:
        """Absolute paths, spelled as on disk."""
        return self._strings("path")

    @cached_property
    def labels(self) -> list[str]:
        """Class names; "" where unknown."""
        return self._strings("label")

    @cached_property
    def groups(self) -> list[str]:
        """Samples of one group stay on one side of a split; "" is no group."""
        return self._strings("group")

    @cached_property
    def copies_N(self) -> NDArray[np.bool_]:
        """Which samples are augmented copies of others: trained on, never scored."""
        return np.asarray(pc.not_equal(self.table["made_from"], ""))

    @cached_property
    def folds_N(self) -> NDArray[np.int64]:
        """The user's own folds; -1 where not given."""
        return self.table["fold"].to_numpy().astype(np.int64)

    @cached_property
    def sizes_N2(self) -> NDArray[np.int64]:
        """Height and width in pixels, upright: EXIF orientations 5 to 8 turn the stored image by a quarter."""
        stored_N2 = np.stack([self.table["height"].to_numpy(), self.table["width"].to_numpy()], axis=1)
        turned_N1 = self.table["orientation"].to_numpy()[:, None] >= 5
        return np.where(turned_N1, stored_N2[:, ::-1], stored_N2).astype(np.int64)

    @cached_property
    def faults(self) -> list[Fault | None]:
        """What keeps each file from being used; None where nothing does."""
        return faults_of(self.table)

    @property
    def quarantine(self) -> Quarantine:
        """The files that cannot be used."""
        bad = Quarantine()
        for id_, path, fault in zip(self.ids, self.paths, self.faults, strict=True):
            if fault is not None:
                bad.add(id_, fault, path)
        return bad

    @cached_property
    def keys_N(self) -> NDArray[np.int64]:
        """A 64-bit hash (BLAKE2b) of each id: the address of a sample's randomness.

        It depends on the id alone, so it stays when other samples come or go, or the order changes.
        """
        digests = b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in self.ids)
        return np.frombuffer(digests, dtype="<i8").astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal hash over id, label and content of all samples, whatever their order."""
        columns = [self.table[name].combine_chunks() for name in ("id", "label", "sha1")]
        lines = pc.binary_join_element_wise(*columns, "\x1f").to_pylist()
        return hashlib.blake2b("\x1e".join(sorted(lines)).encode(), digest_size=16).hexdigest()

    def take(self, rows: ArrayLike) -> Manifest:
        """The samples at these rows, in the order of `rows`; each row at most once."""
        return self._with(self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def replace(self, column: str, values: Any) -> Manifest:
        """The same samples with other values in one column."""
        at = SCHEMA.get_field_index(column)
        return replace(
            self, table=self.table.set_column(at, SCHEMA.field(at), _as_column(values, SCHEMA.field(at).type))
        )

    def usable(self) -> Manifest:
        """Only the samples whose status is ok."""
        return self._with(self.table.filter(pc.equal(self.table["status"], OK)))

    def _with(self, table: pa.Table) -> Manifest:
        return replace(self, table=table.combine_chunks())

    def _strings(self, column: str) -> list[str]:
        strings: list[str] = self.table[column].to_pylist()
        return strings


def faults_of(table: pa.Table) -> list[Fault | None]:
    """The faults in the columns `status` and `fault` of a table; None for "ok"."""
    columns = (table["status"].to_pylist(), table["fault"].to_pylist())
    return [None if kind == OK else Fault(FaultKind(kind), words) for kind, words in zip(*columns, strict=True)]


def repeated_values(column: pa.ChunkedArray | pa.Array) -> list[str]:
    """Values that occur more than once, in order of appearance."""
    counts = pc.value_counts(column)
    repeated: list[str] = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    return repeated


def _as_column(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(type_) if isinstance(values, pa.Array) else pa.array(values, type_)
