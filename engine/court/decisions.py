"""What people decided about labels: a CSV file in the run's folder to which lines are added and nothing is changed.

So each decision is on the disk as soon as it is made, it can be taken back and seen to have been, and several people
may decide at once: a line is written in one piece, under a lock. For each photo the last line counts; `undo` takes the
one before it back. A line that a crash has cut short is no decision.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fcntl
import io
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.data.encodings import read_text
from engine.errors import DataError
from engine.files import storage_errors
from engine.text import nfc

COLUMNS = ("id", "given", "decision", "new", "who", "when")
_HEAD = ",".join(COLUMNS)
KEEP, RELABEL, DROP, UNSURE, UNDO = KINDS = ("keep", "relabel", "drop", "unsure", "undo")


@dataclasses.dataclass(frozen=True)
class Decision:
    """given: the label that the photo had. new: the one it gets, where `kind` is relabel. when: ISO 8601, UTC.

    Raises ValueError for what is no decision.
    """

    id: str
    given: str
    kind: str
    new: str = ""
    who: str = ""
    when: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a decision is one of {', '.join(KINDS)}, not {self.kind!r}")
        if (self.kind == RELABEL) != bool(self.new):
            raise ValueError("a new label belongs to `relabel`, and to nothing else")
        if self.kind == RELABEL and self.new == self.given:
            raise ValueError(f"{self.id!r} is {self.given!r} already; that is to keep it")
        if not self.id or any(any(c in value for c in "\r\n\0") for value in dataclasses.astuple(self)):
            raise ValueError("an id, and no line breaks in what is written")


def now() -> str:
    """The time as decisions have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add(path: Path, decisions: Sequence[Decision]) -> None:
    """Add decisions to the file, on the disk when this returns. Raises StorageError where the disk does not take it."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(dataclasses.astuple, decisions))
    with storage_errors(path), path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        content = file.read()
        last = content[content.rfind(b"\n") + 1 :]  # nothing, but for a line without an end
        whole = last.decode("utf-8-sig", errors="replace")
        if last and whole != _HEAD and _decision(whole) is None:  # cut short: what follows must not be read with it
            file.truncate(len(content) - len(last))
            content, last = content[: len(content) - len(last)], b""
        before = "\n" if last else "" if content else f"{_HEAD}\n"
        file.write((before + text.getvalue()).encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Decision]:
    """All that was decided, in order; [] where there is no file. Lines that are no decisions are passed over. Raises
    DataError for a file of something else."""
    if not path.is_file():
        return []
    head, *lines = _text(path).split("\n")  # line by line: an open quote is of a line that was cut short
    if (head or lines) and tuple(_cells(head)) != COLUMNS and (lines or not _HEAD.startswith(head)):
        raise DataError(f"{path}: no decisions of a label court; expected the columns {', '.join(COLUMNS)}")
    return [one for one in map(_decision, lines) if one is not None]


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except DataError:
        with contextlib.suppress(UnicodeDecodeError):  # a crash may cut within a letter
            return path.read_bytes().rpartition(b"\n")[0].decode("utf-8-sig")
        raise


def _decision(line: str) -> Decision | None:
    cells = _cells(line)
    try:
        found = Decision(nfc(cells[0]), nfc(cells[1]), cells[2], nfc(cells[3]), *cells[4:])
    except (ValueError, TypeError, IndexError):
        return None
    return found if found.when else None  # what has no time was cut short


def _cells(line: str) -> list[str]:
    return next(csv.reader([line.rstrip("\r")]), [])


def standing(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """What counts for each photo that was decided on, by id, in the order of the first decisions."""
    made: dict[str, list[Decision]] = {}
    for one in decisions:
        of_photo = made.setdefault(one.id, [])
        if one.kind != UNDO:
            of_photo.append(one)
        elif of_photo:
            of_photo.pop()
    return {id_: of_photo[-1] for id_, of_photo in made.items() if of_photo}


def merged(have: Sequence[Decision], more: Sequence[Decision]) -> list[Decision]:
    """Those of `more` that are not among `have` yet: the same file may be taken in twice."""
    known = set(have)
    return [one for one in dict.fromkeys(more) if one not in known]
