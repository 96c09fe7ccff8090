"""What is wrong with a recipe, in the user's terms: where it stands, the key, its value, what is allowed, what was meant.

pydantic says where and of which kind a fault is. The words come from the schema, because "Input should be a valid
tuple" helps nobody who writes TOML.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import ErrorDetails

from engine.recipe import schema
from engine.recipe.schema import KeyPath, dotted
from engine.text import similar

SAME_SECTION = 0.15
"""Head start of a similar key in the section at hand over one elsewhere. The scale is difflib's ratio, 0 to 1."""
SIMILAR = 0.7


@dataclass
class Origins:
    """Where each value of a recipe was written: the lines of its file, and the `--set`s after it."""

    file: str
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    sets: list[tuple[KeyPath, str]] = field(default_factory=list)

    def of(self, path: KeyPath) -> str:
        """Where to look for the key at `path`: the last `--set` that gave it, else its line or that of its table."""
        for place, text in reversed(self.sets):
            if path[: len(place)] == place:
                return f"--set {text}"
        depth = next((depth for depth in range(len(path), 0, -1) if path[:depth] in self.lines), 0)
        where = [f"{self.file}:{self.lines[path[:depth]]}" if depth else self.file]
        inside = [f"--set {text}" for place, text in self.sets if place[: len(path)] == path]
        return " with ".join((where if path in self.lines else []) + inside or where)


def report(errors: Sequence[ErrorDetails], tables: Mapping[str, Any], origins: Origins) -> str:
    """One message that lists all `errors` of validating `tables`."""
    # pydantic counts the items of a list after leaving out the bad ones; that it is then too short is no news.
    causes = [e for e in errors if e["type"] != "too_short" or not any(_below(o["loc"], e["loc"]) for o in errors)]
    # A list with two bad items is one problem; dict keeps the first of equal ones, in order.
    problems = list(dict.fromkeys(_problem(error, tables, origins) for error in causes))
    if len(problems) == 1:
        return problems[0]
    listed = "\n".join(f"- {problem}" for problem in problems).replace("\n  ", "\n    ")
    return f"{origins.file}: {len(problems)} things to mend\n{listed}"


def _below(location: Sequence[str | int], other: Sequence[str | int]) -> bool:
    return len(location) > len(other) and location[: len(other)] == other


def _problem(error: ErrorDetails, tables: Mapping[str, Any], origins: Origins) -> str:
    path = _known(error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown((*path, error["loc"][-1]), origins)
    if error["type"] == "missing" and path == error["loc"]:
        key = schema.find(path)
        assert key is not None  # pydantic misses only keys of the schema
        return f"{origins.of(path)}: {dotted(path)} is not given and has no default{_expected(key)}"
    message = error["msg"]
    if error["type"] in ("value_error", "assertion_error"):
        message = re.sub(r"^(Value|Assertion) error, ", "", message)
        named = re.match(r"(\w+): ", message)  # a section's own check begins with the key it is about
        if named and schema.find((*path, named[1])) is not None:
            path, message = (*path, named[1]), message[named.end() :]
        shown = f"{_shown(path, tables)}: " if path else ""  # of the whole recipe, the message itself names its keys
        return f"{origins.of(path)}: {shown}{message}"
    key = schema.find(path)
    if key is None:
        return f"{origins.of(path)}: {dotted(path) or 'recipe'}: {message}"
    if isinstance(path[-1], int):
        return f"{origins.of(path)}: {_shown(path, tables)}\n  Expected: table. {key.description}"
    return f"{origins.of(path)}: {_shown(path, tables)}{_meant(key, _at(tables, path))}{_expected(key)}"


def _known(location: Sequence[str | int]) -> KeyPath:
    """The longest part of pydantic's location that is a key of the schema or an item of a list of tables. What follows
    (an item of a plain list, a member of a union) is inside that key's value."""
    path: KeyPath = ()
    for part in location:
        if schema.section_at(path) is None or schema.find((*path, part)) is None:
            break
        path = (*path, part)
    return path


def _unknown(path: KeyPath, origins: Origins) -> str:
    section = schema.section_at(path[:-1])
    assert section is not None  # only a section has keys to be unknown
    near = nearest(path)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    inside = f"in {dotted(path[:-1])}" if len(path) > 1 else "at the top of a recipe"
    return (
        f"{origins.of(path)}: {dotted(path)}: there is no such key{meant}\n"
        f"  Keys {inside}: {', '.join(section.model_fields)}"
    )


def nearest(path: KeyPath) -> list[str]:
    """The keys that a mistyped or misplaced `path` most likely means, dotted, at most three, best first."""
    name, parent = str(path[-1]), path[:-1]
    scores: dict[str, float] = {}
    for key in schema.walk():
        here = _without_indices(key.path[:-1]) == _without_indices(parent)
        score = _likeness(name.lower().replace("-", "_"), str(key.path[-1])) + SAME_SECTION * here
        scores[dotted((*parent, key.path[-1]) if here else key.path)] = score
    best = max(scores.values())
    if best < SIMILAR:
        return []
    close = [key for key, score in scores.items() if score > best - 0.05]
    return sorted(close, key=lambda key: -scores[key])[:3]


def _likeness(name: str, key: str) -> float:
    """From 0 to 1. difflib's ratio falls with the difference in length, but `warmup` does mean `warmup_epochs`."""
    ratio = difflib.SequenceMatcher(a=name, b=key).ratio()
    return max(ratio, 0.8) if len(name) >= 4 and name in key else ratio


def _without_indices(path: KeyPath) -> KeyPath:
    return tuple(part for part in path if isinstance(part, str))


def _at(tables: Any, path: KeyPath) -> Any:
    """The value at `path`; None where there is none."""
    for part in path:
        try:
            tables = tables[part]
        except (KeyError, IndexError, TypeError):
            return None
    return tables


def _shown(path: KeyPath, tables: Mapping[str, Any]) -> str:
    """`train.ema = 2`, or the key alone for a whole section or a value left to its default."""
    value = _at(tables, path)
    if value is None or (isinstance(value, dict) and schema.section_at(path) is not None):
        return dotted(path)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"{dotted(path)} = {text if len(text) <= 80 else text[:77] + '...'}"


def _meant(key: schema.Key, value: Any) -> str:
    """What a value of the wrong kind was probably meant to be, "" when there is no telling."""
    name = dotted(key.path)
    if key.is_list_of_sections and isinstance(value, dict):
        return f": write [[{name}]], in double brackets, for each entry"
    if key.section is not None and isinstance(value, list) and not key.is_list_of_sections:
        return f": there is one of it; write [{name}], in single brackets"
    if isinstance(value, str):
        options = re.findall(r'"([^"]*)"', key.type)
        if near := similar(value.lower(), options, most=1):
            return f': did you mean "{near[0]}"?'
        if value.lower() in ("true", "false") and key.type == "true or false":
            return f": that is text; write {value.lower()}"
        if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", value.lower()) and "number" in key.type:
            return f": that is text; write {float(value):g}"
    return ""


def _expected(key: schema.Key) -> str:
    """A second line: the type, the range and the meaning of a key."""
    allowed = f", {key.allowed}" if key.allowed else ""
    return f"\n  Expected: {key.type}{allowed}. {key.description}".rstrip()
