"""One form for whatever was measured: the figures as rows, and with them all that they depend on.

A figure means nothing without the machine, the versions, the settings and the command behind it. So `engine bench` and
every program in benchmarks/ write this one form, and tables and pages are made from it without knowing which program
it was. What follows from the rows (medians of rows, ratios, verdicts) is computed where it is shown: stored beside
them, it could come to disagree. JSON rather than a table, because a row holds lists: the windows of a rate, the epochs
of a training.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from engine.errors import EngineError
from engine.files import write_text
from engine.system import cores, cpu_name, library_versions

Row = dict[str, Any]
"""One thing that was measured: its name, what sets it apart, and its figures, all as plain JSON values."""


@dataclasses.dataclass(frozen=True)
class Envelope:
    """A result. In the settings stands what all rows share: sizes, photos, how long was measured."""

    command: str
    date: str  # ISO 8601, UTC: when the last row was there
    machine: Mapping[str, Any]  # see `machine`
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: Sequence[Row]

    @classmethod
    def of(cls, rows: Sequence[Row], settings: Mapping[str, Any], device: torch.device, command: str) -> Envelope:
        """Rows that were measured on `device` of this machine, just now."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command, date, machine(device), library_versions(), settings, rows)

    def line(self) -> str:
        """As one line of JSON, to end a program's output with."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    def write(self, path: Path) -> None:
        """To a file, whole or not at all, one value a line: a figure that changes is a line that changes."""
        write_text(path, json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n")


def read(path: Path) -> Envelope:
    """What `Envelope.write` wrote. Raises EngineError when the file is missing or is something else."""
    names = [field.name for field in dataclasses.fields(Envelope)]
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: no result can be read from it: {error}") from error
    if not isinstance(found, dict) or sorted(found) != sorted(names) or not isinstance(found["rows"], list):
        keys = ", ".join(found) if isinstance(found, dict) else f"a {type(found).__name__}"
        raise EngineError(f"{path}: a result has the keys {', '.join(names)}; this file has {keys}")
    return Envelope(**found)


def machine(device: torch.device) -> dict[str, Any]:
    """Where a figure was measured: names of the processor, of the device and of the system, and how many cores and
    torch threads there were for it."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
    }


def command_line(program: Sequence[str], arguments: Sequence[str]) -> str:
    """The command behind a result, without places on this machine: absolute paths keep their last two parts."""
    return shlex.join([*program, *map(without_place, arguments)])


def without_place(word: str) -> str:
    """A word of a command line; of an absolute path, also behind an option's "=", no more than its last two parts."""
    option, equals, value = word.rpartition("=")
    path = Path(value)
    return f"{option}{equals}{'/'.join(path.parts[-2:])}" if path.is_absolute() else word
