"""The log of a run: one line of JSON an epoch, written as a watcher and read by whoever shows results.

Lines are appended and not rewritten as a whole: a log of a thousand epochs costs the last one nothing, and somebody may
follow it with `tail -f`. So a process that dies may leave a line that was cut short, or one of an epoch whose weights
were not saved, which is then trained again. When a fold goes on, the log drops what is ahead of it.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from engine.events import EpochEnded, EpochRecord, Event, FoldBegan, Watcher
from engine.files import storage_errors, write_text

_FIELDS = {field.name for field in dataclasses.fields(EpochRecord)}


class Log(Watcher):
    """Writes each epoch into the file at `path`, whose folder is there. Only for the process that writes the run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hear(self, event: Event) -> None:
        match event:
            case FoldBegan(fold=fold, epoch=epoch):
                self._drop_ahead(fold, epoch)
            case EpochEnded(record=record):
                line = dataclasses.asdict(record) | {"images_per_second": record.images_per_second}
                with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")

    def _drop_ahead(self, fold: int, epoch: int) -> None:
        if not self._path.is_file():
            return
        lines = self._path.read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not _is_ahead(line, fold, epoch)]
        if kept != lines:
            write_text(self._path, "".join(kept))


def _is_ahead(line: str, fold: int, epoch: int) -> bool:
    """Whether a line of the log, which may have been cut short, is of an epoch of `fold` from `epoch` on."""
    try:
        entry = json.loads(line)
    except ValueError:
        return True
    return bool(entry["fold"] == fold and entry["epoch"] >= epoch)


def read_log(path: Path) -> list[EpochRecord]:
    """The epochs in a log, each once (of an epoch trained again the later line), in the order of the lines. Lines that
    were cut short or are no epochs are passed over; no log is an empty one."""
    records: dict[tuple[int, int], EpochRecord] = {}
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        if (record := _record(line)) is not None:
            records.pop((record.fold, record.epoch), None)
            records[record.fold, record.epoch] = record
    return list(records.values())


def _record(line: str) -> EpochRecord | None:
    try:
        fields = json.loads(line)
        height, width = fields["size"]
        return EpochRecord(**{k: v for k, v in fields.items() if k in _FIELDS} | {"size": (height, width)})
    except (ValueError, TypeError, KeyError):
        return None
