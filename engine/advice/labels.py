"""What the names of labels say: which of them mean that there is none, and which a mirror image would belie."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.data.sources.litter import means_nothing

# How people say that they did not label an image. What machines write for it is known to `litter`.
_NONE = frozenset(
    {
        *("not sure", "notsure", "unsure", "skip", "skipped", "other", "others", "unknown", "unk", "unlabeled"),
        *("unlabelled", "no label", "nolabel", "undetermined", "unclear", "uncertain", "ambiguous", "misc"),
        *("miscellaneous", "ignore", "ignored", "invalid", "junk", "trash", "garbage", "tbd", "todo", "to do"),
        *("unclassified", "uncategorized", "uncategorised", "do not know", "dont know", "can not tell", "cannot tell"),
        *("not available", "not applicable", "to be determined", "unidentified", "기타", "모름", "알수없음"),
        *("알 수 없음", "미분류", "미정", "해당없음", "해당 없음", "불명", "분류불가", "분류 불가"),
    }
)
_SIDES = frozenset({"left", "right", "lefthand", "righthand", "왼쪽", "오른쪽", "좌", "우", "좌회전", "우회전"})


def mean_none(labels: Iterable[str]) -> list[str]:
    """The labels by which people and machines say that there is none: "Not sure", "기타", "#N/A", "". Those that say so
    in one data set and are a class in the next (NA is Namibia, too) are not among them."""
    return [label for label in labels if not label or means_nothing(label) or " ".join(_words(label)) in _NONE]


def has_sides(labels: Iterable[str]) -> bool:
    """Whether left and right stand in the names, so that a mirror image would be of another class."""
    return any(not _SIDES.isdisjoint(_words(label)) for label in labels)


def as_pattern(label: str) -> str:
    """The pattern (fnmatch) that this label fits, and no other."""
    return re.sub(r"([*?[])", r"[\1]", label)


def _words(label: str) -> list[str]:
    return re.findall(r"[^\W_]+", label.casefold().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))
