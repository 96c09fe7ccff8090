"""Labels that are taken as they stand, and that a person should look at: they may mean something else than a class."""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from engine.text import count, some

_SEPARATORS = ("|", ";", ",", "+", "&", "/", " ")


def doubts(labels: Collection[str]) -> list[str]:
    """Words about distinct labels that are spelt in two ways, that name several classes, or that are measurements."""
    return [*_spelt_twice(labels), *_several_at_once(labels), *_measured(labels)]


def _spelt_twice(labels: Collection[str]) -> list[str]:
    alike: dict[str, list[str]] = {}
    for label in sorted(labels):
        alike.setdefault(_blurred(label), []).append(label)
    if not (twice := [spellings for spellings in alike.values() if len(spellings) > 1]):
        return []
    shown = json.dumps(twice[:3], ensure_ascii=False)
    more = f", with {len(twice) - 3} more" if len(twice) > 3 else ""
    return [
        f"{count(twice, 'class', 'classes')} spelt in several ways, each trained as a class of its own. If they are "
        f"the same: data.aliases = {shown}{more}"
    ]


def _blurred(label: str) -> str:
    """Without capitals and doubled spaces; of a whole number without a fraction of zeros."""
    return " ".join(re.sub(r"^([+-]?\d+)\.0+$", r"\1", label).casefold().split())


def _several_at_once(labels: Collection[str]) -> list[str]:
    """Labels such as cat|dog where cat and dog are labels, too, or lists as programs write them."""
    known = set(labels)
    several = [label for label in sorted(labels) if re.fullmatch(r"[\[({].*['\"].*[\])}]", label)]
    for label in sorted(known - {*several}):
        for separator in _SEPARATORS:
            parts = [part.strip() for part in label.split(separator)]
            if len(set(parts)) > 1 and known.issuperset(parts):
                several.append(label)
                break
    if not several:
        return []
    return [
        f"{count(several, 'label')} may name several classes each, such as {some(several, 3)}. An image has one class "
        "here, so each of them is trained as one of its own"
    ]


def _measured(labels: Collection[str]) -> list[str]:
    numbers = all(re.fullmatch(r"[+-]?\d*[.,]?\d+(e[+-]?\d+)?", label, re.IGNORECASE) for label in labels)
    fractions = [label for label in sorted(labels) if re.search(r"[.,]\d*[1-9]", label)]
    if not (numbers and len(fractions) > 1):
        return []
    return [
        f"labels are numbers with fractions, such as {some(fractions, 3)}: each is trained as a class of its own, and "
        "nothing knows which of them is more"
    ]
