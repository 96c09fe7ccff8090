"""Answers as they come in: files of some thousand rows each, put in place one by one.

A prediction of millions of images takes days and may be killed at any moment. What it has answered stands in files that
are whole or not there (written under another name, synced, renamed), each for a range of rows that its name says, so
whoever goes on sees from the names alone what is left to do. Ranges may be of any length: they are cut by time, and
ranks take turns at them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.files import atomic_write, remove_leftovers
from engine.store.run_folder import OCCUPIED

_NAME = re.compile(r"rows-(\d+)-(\d+)\.parquet")
_METADATA = b"engine.part"
_P, _VOTER, _COLUMN = "p", "voter:", "column:"


@dataclasses.dataclass(frozen=True, order=True)
class Span:
    """Rows from `start` to before `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What was answered about N rows. p_NC: float64, columns in the order of the models' classes. status: "ok", or why
    the image was not seen. voters: what others answer about the rows whose label is known, (N, C), NaN elsewhere.
    columns: whatever else is known of an answer, N values each. asked: images each specialist was asked about."""

    p_NC: NDArray[np.float64]
    status: Sequence[str]
    voters: Mapping[str, NDArray[np.float64]] = dataclasses.field(default_factory=dict)
    columns: Mapping[str, pa.Array] = dataclasses.field(default_factory=dict)
    asked: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.status)

    def to_table(self) -> pa.Table:
        columns: dict[str, pa.Array] = {"status": pa.array(self.status, pa.string()), _P: _lists(self.p_NC)}
        columns |= {_VOTER + name: _lists(p_NC) for name, p_NC in self.voters.items()}
        columns |= {_COLUMN + name: values for name, values in self.columns.items()}
        return pa.table(columns, metadata={_METADATA: json.dumps({"asked": dict(self.asked)})})

    @classmethod
    def of_table(cls, table: pa.Table) -> Part:
        """What `to_table` gave, or some of its columns."""

        def below(prefix: str) -> dict[str, str]:
            return {name.removeprefix(prefix): name for name in table.column_names if name.startswith(prefix)}

        return cls(
            _matrix(table[_P]) if _P in table.column_names else np.zeros((table.num_rows, 0)),
            table["status"].to_pylist(),
            {name: _matrix(table[column]) for name, column in below(_VOTER).items()},
            {name: table[column].combine_chunks() for name, column in below(_COLUMN).items()},
            json.loads((table.schema.metadata or {}).get(_METADATA, b"{}")).get("asked", {}),
        )


class Parts:
    """The parts in a folder, of a prediction of `rows` images."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows

    @property
    def spans(self) -> list[Span]:
        """What is answered, in order."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("rows-*.parquet"))
        return sorted(Span(int(name[1]), int(name[2])) for name in found if name)

    @property
    def answered(self) -> int:
        """How many rows that is."""
        return sum(map(len, self.spans))

    def gaps(self, share: int, rank: int = 0, world: int = 1) -> list[Span]:
        """What `rank` of `world` has to answer yet: of the rows in shares of `share` each world-th share, without what
        is answered. Together the ranks have all of it, each row once, also when there were more or fewer of them
        before."""
        done, gaps = self.spans, []
        for start in range(rank * share, self.rows, world * share):
            stop = min(start + share, self.rows)
            for span in done:
                if span.start < stop and span.stop > start:
                    gaps.append(Span(start, span.start))
                    start = span.stop
            gaps.append(Span(start, stop))
        return [gap for gap in gaps if gap.start < gap.stop]

    def write(self, span: Span, part: Part) -> None:
        """Put a part in place, whole. Checksums tell later what a disk made of it."""
        with atomic_write(self._path(span)) as temporary:
            pq.write_table(
                part.to_table(), temporary, compression="lz4", use_dictionary=["status"], write_page_checksum=True
            )

    def read(self, span: Span, columns: Sequence[str] | None = None) -> Part:
        """A part, or some of its columns by their names in the file. Raises OSError or ArrowException for a damaged
        one."""
        table = pq.read_table(
            self._path(span), columns=columns, page_checksum_verification=True, use_threads=False, memory_map=False
        )
        if table.num_rows != len(span):
            raise pa.ArrowInvalid(f"{table.num_rows} rows in place of {len(span)}")
        return Part.of_table(table)

    def each(self, columns: Sequence[str] | None = None) -> Iterator[tuple[Span, Part]]:
        """All parts, in order of their rows, one at a time."""
        return ((span, self.read(span, columns)) for span in self.spans)

    def discard_damaged(self) -> list[str]:
        """Remove parts that are damaged, or overlap others, and what a killed process left half-written; says which."""
        remove_leftovers(self.folder / "rows-*.parquet")
        damaged, covered = [], 0
        for span in self.spans:
            try:
                if span.start < covered or span.stop > self.rows:
                    raise pa.ArrowInvalid("its rows are no part of this prediction")
                self.read(span)
                covered = span.stop
            except (OSError, pa.ArrowException, ValueError, KeyError) as error:
                reason = str(error).splitlines()[0]
                damaged.append(f"{self._path(span)} is damaged ({reason}); its images are answered again")
                self._path(span).unlink(missing_ok=True)
        return damaged

    def clear(self) -> None:
        """Remove what a prediction leaves in its folder, but the word of who works there now."""
        for path in self.folder.glob("*"):
            if path.is_file() and not path.name.startswith(OCCUPIED):
                path.unlink(missing_ok=True)

    def _path(self, span: Span) -> Path:
        return self.folder / f"rows-{span.start:012d}-{span.stop:012d}.parquet"


def _lists(p_NC: NDArray[np.float64]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(p_NC).reshape(-1)), p_NC.shape[1])


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    whole = column.combine_chunks()
    return np.asarray(whole.flatten().to_numpy(zero_copy_only=False)).reshape(len(whole), whole.type.list_size)


def voter(name: str) -> str:
    """The column of a voter in a part's file."""
    return _VOTER + name


STATUS, PROBABILITIES = "status", _P
