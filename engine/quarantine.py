"""Files that could not be used, by sample id, each with a typed reason, whoever met them: indexing, the look at pixels,
training, prediction.

One bad file must not end a run of a million, and must not vanish either. So whoever meets one says what it is (a
Fault), puts it here under its sample's id, and goes on with the others; whoever shows results reads it from here.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import stat
from collections.abc import Iterator, Mapping

from engine.text import some


class FaultKind(enum.StrEnum):
    """What kept a file from being used."""

    UNREADABLE = "unreadable"  # the file system or the network did not give its bytes
    EMPTY = "empty"  # it holds none
    NOT_AN_IMAGE = "not an image"  # no decoder here knows its header
    DAMAGED = "damaged"  # its header is sound and its pixels are not
    TOO_LARGE = "too large"  # more pixels than decode.max_megapixels


@dataclasses.dataclass(frozen=True)
class Fault:
    """Why a file cannot be used. `detail` is in words and stands behind the file's name: "is empty (0 bytes)"."""

    kind: FaultKind
    detail: str

    def __str__(self) -> str:
        return self.detail


def unreadable(why: str) -> Fault:
    """Of a file whose bytes cannot be had."""
    return Fault(FaultKind.UNREADABLE, f"cannot be read: {why}")


EMPTY = Fault(FaultKind.EMPTY, "is empty (0 bytes)")
NOT_REGULAR = unreadable("no regular file")


def read_file(path: str) -> bytes | Fault:
    """A file's bytes, never none of them, or why they cannot be had."""
    try:
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return NOT_REGULAR
            return file.read() or EMPTY
    except OSError as error:
        return unreadable(error.strerror or str(error))


def _at_once(path: str, flags: int) -> int:
    """Open a file, and not wait for whoever might write to it if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A file in quarantine: its sample's id, where it lies, and why it is here."""

    id: str
    where: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.where or self.id}: {self.fault}"


class Quarantine(Mapping[str, SetAside]):
    """Files set aside, by sample id, in the order in which they were met. The first word about a file stands."""

    def __init__(self) -> None:
        self._entries: dict[str, SetAside] = {}

    def add(self, id_: str, fault: Fault, where: str = "") -> None:
        """Set the file of a sample aside; `where` is its path or address."""
        self._entries.setdefault(id_, SetAside(id_, where, fault))

    def some(self, most: int = 3) -> str:
        """The first few, for a message; "" for none."""
        return some(self._entries.values(), most, str)

    def __getitem__(self, id_: str) -> SetAside:
        return self._entries[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
