"""What the names of labels say: which of them mean that there is none, and which a mirror image would belie."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.data.sources.litter import means_nothing, says_unlabelled
from engine.text import words

_SIDES = frozenset({"left", "right", "lefthand", "righthand", "왼쪽", "오른쪽", "좌", "우", "좌회전", "우회전"})


def mean_none(labels: Iterable[str]) -> list[str]:
    """The labels by which people and machines say that there is none: "Not sure", "기타", "#N/A", "". Those that say so
    in one data set and are a class in the next (NA is Namibia, too) are not among them."""
    return [label for label in labels if not label or means_nothing(label) or says_unlabelled(label)]


def has_sides(labels: Iterable[str]) -> bool:
    """Whether left and right stand in the names, so that a mirror image would be of another class."""
    return any(not _SIDES.isdisjoint(words(label)) for label in labels)


def as_pattern(label: str) -> str:
    """The pattern (fnmatch) that this label fits, and no other."""
    return re.sub(r"([*?[])", r"[\1]", label)
