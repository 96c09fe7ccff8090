"""What the benchmark programs share: how contenders take turns, how a table looks, how a program ends.

A machine that others use has slow minutes. Contenders that are measured one after the other get different ones; taking
turns, they share them, so that their ratios hold where their rates do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from engine.bench.envelope import Envelope, Row, command_line

CPU = torch.device("cpu")
RESULTS = Path(__file__).resolve().parent / "results"


@dataclasses.dataclass
class Contender:
    """Something that does `images` images when called; `seconds` are those of its calls."""

    name: str
    run: Callable[[], object]
    images: int
    seconds: list[float] = dataclasses.field(default_factory=list)

    @property
    def windows(self) -> list[float]:
        """Images a second, call by call."""
        return [self.images / seconds for seconds in self.seconds]

    @property
    def rate(self) -> float:
        """Images a second: the median."""
        return self.images / statistics.median(self.seconds)


def take_turns(
    contenders: Sequence[Contender],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Call each of them in every round, and note the time of the `repeats` rounds after the first `warm_up` ones, in
    which things are compiled, allocated and faulted in. `clock` gives seconds."""
    for turn in range(warm_up + repeats):
        for contender in contenders:
            start_s = clock()
            contender.run()
            if turn >= warm_up:
                contender.seconds.append(clock() - start_s)


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Table:
    """For the console. The first `words` columns are words and stand to the left, the others are numbers."""
    made = Table(title=title or None, title_justify="left")
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="left" if number < words else "right")
    for row in rows:
        made.add_row(*row)
    return made


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, help="write the result to this file, too")


def result(rows: Sequence[Row], settings: Mapping[str, Any], measured_on: torch.device = CPU) -> Envelope:
    """Rows that this process has measured, with its command."""
    return Envelope.of(rows, settings, measured_on, command_line(["python"], sys.argv))


def finish(made: Envelope, path: Path | None) -> None:
    """End a program: the result goes to `path`, if there is one, and is the last line of the output."""
    if path is not None:
        made.write(path)
    print(made.line())
