"""Which images a folder was trained with, in short, so that a refusal can say what has changed since.

A fingerprint of the data says that something did, and a user who has labelled, moved and resized files wants to know
what. A row an image: 8 of the 20 bytes of its contents' hash tell contents apart well enough for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.files import atomic_write
from engine.text import some


@dataclass(frozen=True, eq=False)
class TrainedSamples:
    """The images of a run: ids, labels, SHA-1 of the contents in hexadecimal, and in which fold each is validated."""

    ids: Sequence[str]
    labels: Sequence[str]
    sha1: Sequence[str]
    folds: Sequence[int]

    @cached_property
    def split(self) -> str:
        """Hexadecimal hash over who is validated in which fold, whatever the order of the images."""
        lines = sorted(f"{id_}\x1f{fold}" for id_, fold in zip(self.ids, self.folds, strict=True))
        return hashlib.blake2b("\x1e".join(lines).encode(), digest_size=16).hexdigest()

    def write(self, path: Path) -> None:
        """Keep them in the Parquet file `path`."""
        contents = [bytes.fromhex(sha1[:16]) for sha1 in self.sha1]
        columns = {"id": self.ids, "label": self.labels, "contents": contents, "fold": self.folds}
        with atomic_write(path) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")

    def changes_since(self, path: Path) -> str:
        """What has changed since `path` was written: "2 images more (a, b), 1 with another label (c)"; "" where that
        is not known."""
        try:
            columns = pq.read_table(path).to_pydict()
            rows = zip(columns["label"], columns["contents"], columns["fold"], strict=True)
            before = dict(zip(columns["id"], rows, strict=True))
        except (OSError, pa.ArrowException, KeyError):
            return ""
        contents = (bytes.fromhex(sha1[:16]) for sha1 in self.sha1)
        now = dict(zip(self.ids, zip(self.labels, contents, self.folds, strict=True), strict=True))
        both = [id_ for id_ in now if id_ in before]
        found = {
            "more": [id_ for id_ in now if id_ not in before],
            "less": [id_ for id_ in before if id_ not in now],
            "with another label": [id_ for id_ in both if now[id_][0] != before[id_][0]],
            "with other contents": [id_ for id_ in both if now[id_][1] != before[id_][1]],
            "in another fold": [id_ for id_ in both if now[id_][2] != before[id_][2]],
        }
        return ", ".join(f"{len(ids):,} {what} ({some(ids, 3, str)})" for what, ids in found.items() if ids)


def folds_in(path: Path) -> dict[str, int]:
    """By id, in which fold each image of `TrainedSamples.write`'s file was validated (-1: in none); {} without it."""
    try:
        columns = pq.read_table(path, columns=["id", "fold"]).to_pydict()
    except (OSError, pa.ArrowException, KeyError):
        return {}
    return dict(zip(columns["id"], columns["fold"], strict=True))
