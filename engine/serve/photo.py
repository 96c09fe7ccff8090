"""A photo that was sent and may wait to be answered: its header was looked at, and says how much work it will be."""

from __future__ import annotations

import dataclasses

from engine.pictures import read_header
from engine.quarantine import EMPTY, Fault
from engine.serve.problems import Problem


@dataclasses.dataclass(frozen=True)
class Photo:
    """A file's content, and how many pixels it promises."""

    content: bytes
    pixels: int


def looked_at(content: bytes, most_pixels: float) -> Photo | Problem:
    """The photo, or why it is none. Not a pixel is decoded, so that a small file of many pixels costs nothing; what is
    wrong with pixels is found when they are decoded, once."""
    header = read_header(content) if content else EMPTY
    if isinstance(header, Fault):
        return Problem.of(header)
    height, width = header.upright
    if height * width > most_pixels:
        return Problem(
            "too many pixels",
            f"The picture is said to hold {width} x {height} pixels, {height * width / 1e6:,.1f} million; "
            f"{most_pixels / 1e6:g} million are taken.",
        )
    return Photo(content, height * width)
