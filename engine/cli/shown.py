"""Answers in the terminal: a few photos, each beside its likeliest classes.

A table of scores says how good answers are on the whole; what they are like is seen on photos. These are drawn in half
blocks, two pixels to a character, where the terminal has colours and characters for it, and left out where not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
from engine.predict.outcome import Outcome
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection

BEST = 5  # classes named for a photo
PHOTO = (28, 9)  # characters, across and down
_BAR = 20  # characters of a probability of 1


MOST = 100_000  # answers that are looked through for photos to show


class Shown(NamedTuple):
    """An answer to be shown: a photo's path, its true class ("" where unknown), and probabilities by class."""

    path: str
    truth: str
    p_C: NDArray[np.floating]


def show_answers(job: Job, outcome: Outcome, count: int, console: Console | None = None) -> None:
    """Print `count` of the photos that could be seen, with their likeliest classes, to stdout or to `console`."""
    seen: list[Shown] = []
    for piece in outcome.pieces():
        rows = np.flatnonzero(piece.seen_N).tolist()[: MOST - len(seen)]
        paths, labels = (piece.images[name].to_pylist() for name in ("path", "label"))
        seen += [Shown(paths[row], labels[row], piece.p_NC[row]) for row in rows]
        if len(seen) >= MOST:
            break
    show(spread(seen, count), job.models.classes, job.models.recipe.decode, console)


def show(
    answers: Sequence[Shown], classes: Sequence[str], decode: DecodeSection, console: Console | None = None
) -> None:
    """Print answers over these classes, with the photos where the console has colours."""
    console = console or console_for()
    for one in answers:
        text = _likeliest(one, classes, ascii_only=console.options.ascii_only)
        if _has_colours(console):
            both = Table.grid(padding=(0, 2))
            both.add_column(width=PHOTO[0])
            both.add_row(_photo(one.path, decode), text)
            console.print(both)
        else:
            console.print(text, soft_wrap=True)
        console.print()


def spread(seen: Sequence[Shown], count: int) -> list[Shown]:
    """`count` of the answers, from the surest to the least sure and evenly in between: the best alone would praise the
    models, and the worst alone blame them."""
    by_confidence = sorted(seen, key=lambda one: -float(one.p_C.max()))
    places = np.linspace(0, len(seen) - 1, min(count, len(seen))).round().astype(int)
    return [by_confidence[place] for place in places.tolist()]


def _likeliest(one: Shown, classes: Sequence[str], ascii_only: bool) -> Text:
    """The photo's path, its true class where it is known, and its likeliest classes, the true one in green."""
    lines = Text(_near(one.path))
    if one.truth:
        lines.append(f"\nit is {one.truth}", style="bold")
    for c in np.argsort(-one.p_C, kind="stable")[:BEST].tolist():
        bar = ("#" if ascii_only else "█") * round(_BAR * float(one.p_C[c]))
        style = "green" if classes[c] == one.truth else ""
        lines.append(f"\n{one.p_C[c]:7.1%}  {bar:<{_BAR}}  {classes[c]}", style=style)
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
