"""The roll: samples to be answered, in their order, in a file, of which a piece at a time is in memory.

A manifest is one table in memory, which training asks for whole columns. Whoever predicts goes through the samples once
and in order, and there may be ten million of them. So they are listed into a Parquet file first (a listing that is
refused is refused before the first image is decoded) and read from there, some thousand rows at a time. Nothing is
found out about the files but what listing tells: whoever decodes them reads them, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.spill import Hashes, hashes_of
from engine.errors import DataError
from engine.files import atomic_write
from engine.text import some

ROWS = 8_192
"""Of a piece: what is in memory at a time."""

ROLL = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),  # absolute, spelled as on disk
        ("label", pa.string()),  # "" when unknown
        ("group", pa.string()),  # "" when in none
        ("bytes", pa.int64()),  # -1: not looked at, or no such file
        ("mtime_ns", pa.int64()),
    ]
)
_SHOWN = 3  # ids that are named in an error


class Roll:
    """The samples in the file `path`, which `Roll.write` wrote; `labels` counts them by label ("": unknown)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = pq.ParquetFile(path, memory_map=False)
        self._starts = [0]
        for number in range(self._file.num_row_groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(number).num_rows)
        self._piece: tuple[int, pa.Table] | None = None

    @classmethod
    def write(cls, path: Path, pieces: Iterable[pa.Table], told: Callable[[int], None] = lambda done: None) -> Roll:
        """Write pieces of any length; `told` hears how many rows are listed. Raises DataError when two samples share
        an id."""
        hashes, listed = Hashes(path.with_name(f"{path.name}.hashes")), 0
        try:
            with atomic_write(path) as temporary, pq.ParquetWriter(temporary, ROLL, compression="zstd") as writer:
                for piece in even((piece.cast(ROLL) for piece in pieces), ROWS):
                    writer.write_table(piece)
                    hashes.add(piece["id"])
                    listed += piece.num_rows
                    told(listed)
            roll = cls(path)
            if repeated := hashes.repeated():
                roll.refuse_repeated(repeated)
            return roll
        finally:
            hashes.close()

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, start: int, stop: int) -> pa.Table:
        """The samples from row `start` to before row `stop`."""
        groups = [
            number
            for number, (first, end) in enumerate(zip(self._starts, self._starts[1:], strict=False))
            if first < stop and end > start
        ]
        if not groups:
            return ROLL.empty_table()
        found = self._file.read_row_groups(groups, use_threads=False)
        return found.slice(start - self._starts[groups[0]], stop - start).combine_chunks()

    def pieces(self, columns: Sequence[str] = tuple(ROLL.names)) -> Iterator[pa.Table]:
        """All samples, in order, a piece at a time."""
        for number in range(self._file.num_row_groups):
            yield self._file.read_row_group(number, columns=list(columns), use_threads=False)

    @property
    def ids(self) -> Sequence[str]:
        """The ids, which are read as they are asked for: quickly in order, slowly here and there."""
        return _Ids(self)

    @cached_property
    def labels(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for piece in self.pieces(["label"]):
            counts.update(piece["label"].to_pylist())
        return counts

    def column(self, name: str) -> list[str]:
        """All values of a column in memory, for who has room for them."""
        return [value for piece in self.pieces([name]) for value in piece[name].to_pylist()]

    def id_at(self, row: int) -> str:
        number = row // ROWS
        if self._piece is None or self._piece[0] != number:
            self._piece = number, self._file.read_row_group(number, columns=["id"], use_threads=False)
        return str(self._piece[1]["id"][row - self._starts[number]].as_py())

    def relabelled(self, label_of: Mapping[str, str]) -> Roll:
        """The same with these labels by id in place of its own, "" where there is none."""

        def pieces() -> Iterator[pa.Table]:
            for piece in self.pieces():
                labels = [label_of.get(id_, "") for id_ in piece["id"].to_pylist()]
                yield piece.set_column(ROLL.get_field_index("label"), "label", pa.array(labels, pa.string()))

        return Roll.write(self.path, pieces())

    def change_since(self, before: Roll) -> str:
        """What differs from an earlier roll, in words: the first row that does; "" when nothing does."""
        for number, (old, new) in enumerate(zip_longest(before.pieces(), self.pieces())):
            if old is not None and new is not None and old.equals(new):
                continue
            olds, news = ([] if piece is None else piece.to_pylist() for piece in (old, new))
            for place, (one, other) in enumerate(zip_longest(olds, news)):
                if one != other:
                    return (
                        f"{len(before):,} -> {len(self):,} images; row {number * ROWS + place}: {_change(one, other)}"
                    )
        return ""

    def refuse_repeated(self, hashes: set[int]) -> None:
        """Raise DataError when samples with these hashes of their ids share an id, and not the hash alone."""
        paths: dict[str, list[str]] = {}
        for piece in self.pieces(["id", "path"]):
            for hash_, id_, path in zip(hashes_of(piece["id"]), *piece.to_pydict().values(), strict=True):
                if int(hash_) in hashes and len(paths.setdefault(id_, [])) < _SHOWN:
                    paths[id_].append(path)
        if repeated := {id_: found for id_, found in paths.items() if len(found) > 1}:
            shown = [f"{id_!r} ({some(found, _SHOWN, str)})" for id_, found in list(repeated.items())[:_SHOWN]]
            raise DataError(
                f"{len(repeated):,} sample ids are used more than once, and must be unique: {'; '.join(shown)}. Remove "
                "the repeated rows, or set data.id_column to a column without repeats"
            )


class _Ids(Sequence[str]):
    def __init__(self, roll: Roll) -> None:
        self._roll = roll

    def __len__(self) -> int:
        return len(self._roll)

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if isinstance(row, slice):
            return [self._roll.id_at(each) for each in range(*row.indices(len(self)))]
        return self._roll.id_at(row + len(self) if row < 0 else row)

    def __iter__(self) -> Iterator[str]:
        for piece in self._roll.pieces(["id"]):
            yield from piece["id"].to_pylist()


def even(pieces: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in pieces of `rows` each, the last one shorter: files then do not depend on how they came."""
    waiting: list[pa.Table] = []
    held = 0
    for piece in pieces:
        waiting.append(piece)
        held += piece.num_rows
        if held < rows:
            continue
        whole = pa.concat_tables(waiting)
        for start in range(0, held - rows + 1, rows):
            yield whole.slice(start, rows).combine_chunks()
        rest = held % rows
        waiting, held = ([whole.slice(held - rest).combine_chunks()] if rest else []), rest
    if held:
        yield pa.concat_tables(waiting).combine_chunks()


def _change(old: Mapping[str, object] | None, new: Mapping[str, object] | None) -> str:
    if old is None or new is None:
        return f"{(new or old or {})['id']!r} is {'new' if old is None else 'gone'}"
    if old["id"] != new["id"]:
        return f"{old['id']!r} -> {new['id']!r}"
    names = ["content" if name in ("bytes", "mtime_ns") else name for name in ROLL.names if old[name] != new[name]]
    return f"{new['id']!r} has another {' and '.join(dict.fromkeys(names))}"
