"""Words about things, once: the form of a name, a list of readable length, a number with its noun, what was meant."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sized


def nfc(text: str) -> str:
    """The text in composed Unicode: macOS writes Hangul and accents decomposed, other systems do not."""
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    """The text in decomposed Unicode, as a file that macOS has named may be called."""
    return unicodedata.normalize("NFD", text)


def words(text: str) -> list[str]:
    """The words of a name in small letters, without signs: "Don't_know!" is ["dont", "know"]."""
    return re.findall(r"[^\W_]+", text.casefold().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))


def some(names: Collection[object], most: int = 5, show: Callable[[object], str] = repr) -> str:
    """A list for a message, cut to `most` of its names: "'a', 'b' and 3 more"."""
    shown = [show(name) for _, name in zip(range(most), names, strict=False)]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def count(things: Sized | int, one: str, many: str = "") -> str:
    """A number and its noun: "1 image", "3 images"; `many` where the plural is not `one` with an s."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def similar(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names that a mistyped one may mean, the likeliest first; [] when none is like it."""
    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def nearest(name: str, known: Iterable[str], most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The names that a mistyped one most likely means, the likeliest first; of no likeness, the first ones known."""
    known = list(known)
    return similar(name, known, most, cutoff) or known[:most]
