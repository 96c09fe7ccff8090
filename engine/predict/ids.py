"""Which id of one list is which of another.

People write the same image as TEST_00000 in one table, as test/TEST_00000.jpg in a folder and with backslashes in a
third place. Ids are compared as they are, then as paths, by file name and by stem; the strictest way that finds most
counts for the whole list, because choosing a way for each id could give one image to two of them. What is ambiguous is
not guessed at.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath


def same_text(text: str) -> str:
    """Composed Unicode: macOS writes Hangul and accents decomposed, other systems do not."""
    return unicodedata.normalize("NFC", text)


def _path(text: str) -> PurePosixPath:
    return PurePosixPath(same_text(text).replace("\\", "/"))


_KEYS: tuple[Callable[[str], str], ...] = (  # from strict to lenient
    same_text,
    lambda text: str(_path(text)),
    lambda text: _path(text).name,
    lambda text: _path(text).stem,
)


def find_ids(wanted: Sequence[str], ids: Sequence[str]) -> list[str | None]:
    """For each of `wanted` its counterpart in `ids`; None where there is none, or more than one."""
    best: list[str | None] = [None] * len(wanted)
    for key in _KEYS:
        asked = Counter(map(key, wanted))
        there = Counter(map(key, ids))
        known = {key(name): name for name in ids}
        found = [known.get(text) if asked[text] == 1 and there[text] == 1 else None for text in map(key, wanted)]
        if found.count(None) < best.count(None):
            best = found
    return best
