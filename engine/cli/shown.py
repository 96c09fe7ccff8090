"""Answers in the terminal: a few photos, each beside its likeliest classes.

A table of scores says how good answers are on the whole; what they are like is seen on photos. These are drawn in half
blocks, two pixels to a character, where the terminal has colours and characters for it, and left out where not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from engine.cli.common import console_for
from engine.pictures import thumbnail
from engine.predict.job import Job
from engine.predict.run import Outcome
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection

BEST = 5  # classes named for a photo
PHOTO = (28, 9)  # characters, across and down
_BAR = 20  # characters of a probability of 1


def show_answers(job: Job, outcome: Outcome, count: int, console: Console | None = None) -> None:
    """Print `count` of the photos that could be seen, with their likeliest classes, to stdout or to `console`."""
    console = console or console_for()
    for row in spread(outcome, count):
        answers = _answers(job, outcome, row, ascii_only=console.options.ascii_only)
        if _has_colours(console):
            both = Table.grid(padding=(0, 2))
            both.add_column(width=PHOTO[0])
            both.add_row(_photo(job.manifest.paths[row], job.models.recipe.decode), answers)
            console.print(both)
        else:
            console.print(answers, soft_wrap=True)
        console.print()


def spread(outcome: Outcome, count: int) -> list[int]:
    """Rows of `count` photos that were seen, from the surest answer to the least sure and evenly in between: the best
    alone would praise the models, and the worst alone blame them."""
    confidence_N = outcome.answers.probabilities_NC.max(1)
    failed = set(outcome.failed)
    seen = [row for row in np.argsort(-confidence_N, kind="stable").tolist() if row not in failed]
    places = np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int)
    return [seen[place] for place in places.tolist()]


def _answers(job: Job, outcome: Outcome, row: int, ascii_only: bool) -> Text:
    """The photo's path, its true class where it is known, and its likeliest classes, the true one in green."""
    answers, truth = outcome.answers, job.labels[row]
    probability_C = answers.probabilities_NC[row]
    lines = Text(_near(job.manifest.paths[row]))
    if truth:
        lines.append(f"\nit is {truth}", style="bold")
    for c in np.argsort(-probability_C, kind="stable")[:BEST].tolist():
        bar = ("#" if ascii_only else "█") * round(_BAR * float(probability_C[c]))
        style = "green" if answers.classes[c] == truth else ""
        lines.append(f"\n{probability_C[c]:7.1%}  {bar:<{_BAR}}  {answers.classes[c]}", style=style)
    return lines


def _near(path: str) -> str:
    """The path from here, for what lies below here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _has_colours(console: Console) -> bool:
    return console.color_system in ("256", "truecolor") and not console.options.ascii_only


def _photo(path: str, decode: DecodeSection) -> Text:
    """The photo as the models saw it, in half blocks: of each character, the upper pixel is the ink and the lower one
    the ground. Nothing for a file that is gone by now."""
    blocks = Text(no_wrap=True)
    small = thumbnail(path, (PHOTO[0], 2 * PHOTO[1]), decode.background, decode.max_megapixels)
    if isinstance(small, Fault):
        return blocks
    pixels_HW3 = np.asarray(small)
    for top_W3, bottom_W3 in zip(pixels_HW3[0::2], pixels_HW3[1::2], strict=False):
        for ink_3, ground_3 in zip(top_W3, bottom_W3, strict=True):
            blocks.append("▀", Style(color=_color(ink_3), bgcolor=_color(ground_3)))
        blocks.append("\n")
    blocks.rstrip()
    return blocks


def _color(rgb_3: NDArray[np.uint8]) -> Color:
    return Color.from_rgb(*rgb_3.tolist())
