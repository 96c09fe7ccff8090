"""Which line of a TOML text a key stands on, for error messages.

tomllib forgets where values came from. A scan of headers and of the keys that begin a line is enough: what is written
inside an inline table is found through the key that holds it.
"""

from __future__ import annotations

import re

from engine.recipe.schema import KeyPath

_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*({_DOTTED})\s*=")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers, from 1, by key path. A key-like line inside a multi-line string is taken for a key; that can
    misplace a number and nothing else."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}  # items so far of each [[array of tables]]
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = ()
            for part in _parts(header[2]):
                table = (*_last_item(table, counts), part)
            if header[1] == "[[":
                lines.setdefault(table, number)
                counts[table] = counts.get(table, 0) + 1
                table = _last_item(table, counts)
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(line):
            path = table
            for part in _parts(assignment[1]):
                path = (*path, part)
                lines.setdefault(path, number)
    return lines


def _parts(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, key)]


def _last_item(path: KeyPath, counts: dict[KeyPath, int]) -> KeyPath:
    """`path`, and when it is an array of tables the index of its newest table: that is what `[stage.mix]` means."""
    return (*path, counts[path] - 1) if path in counts else path
