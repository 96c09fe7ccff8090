"""What the names of labels say: which of them mean that there is none, and which a mirror image would belie."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NONE = frozenset(
    {
        *("not sure", "notsure", "unsure", "skip", "skipped", "other", "others", "unknown", "unk", "unlabeled"),
        *("unlabelled", "no label", "nolabel", "none", "null", "nil", "nan", "n a", "na", "undefined", "undetermined"),
        *(
            "unclear",
            "uncertain",
            "ambiguous",
            "misc",
            "miscellaneous",
            "ignore",
            "ignored",
            "invalid",
            "junk",
            "trash",
        ),
        *(
            "garbage",
            "tbd",
            "todo",
            "to do",
            "unclassified",
            "uncategorized",
            "uncategorised",
            "do not know",
            "dont know",
        ),
        *("can not tell", "cannot tell", "not available", "not applicable", "to be determined", "unidentified", ""),
        *(
            "기타",
            "모름",
            "알수없음",
            "알 수 없음",
            "미분류",
            "미정",
            "없음",
            "해당없음",
            "해당 없음",
            "불명",
            "분류불가",
        ),
    }
)
_SIDES = frozenset({"left", "right", "lefthand", "righthand", "왼쪽", "오른쪽", "좌", "우", "좌회전", "우회전"})


def mean_none(labels: Iterable[str]) -> list[str]:
    """The labels by which people say that they gave none: "Not sure", "N/A", "?", "기타"."""
    return [label for label in labels if " ".join(_words(label)) in _NONE]


def has_sides(labels: Iterable[str]) -> bool:
    """Whether left and right stand in the names, so that a mirror image would be of another class."""
    return any(not _SIDES.isdisjoint(_words(label)) for label in labels)


def as_pattern(label: str) -> str:
    """The pattern (fnmatch) that this label fits, and no other."""
    return re.sub(r"([*?[])", r"[\1]", label)


def _words(label: str) -> list[str]:
    return re.findall(r"[^\W_]+", label.casefold().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))
