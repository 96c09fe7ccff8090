"""Lines of TOML with comments, in which names from outside can neither end a value nor a comment."""

from __future__ import annotations

import textwrap
from typing import Any

import tomlkit

WIDTH = 118  # up to which a comment stands behind its key


class Lines:
    """A recipe's text, grown line by line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"

    def section(self, name: str) -> None:
        """Begin a table: "data", or "[stage]" for one of a list."""
        self._lines += ["", f"[{name}]"]

    def gap(self) -> None:
        self._lines.append("")

    def say(self, text: str = "") -> None:
        """A comment, of several lines where it is long. Its first letter says how far it is set in."""
        text = plain(text)
        margin = " " * (len(text) - len(text.lstrip()))
        parts = textwrap.wrap(
            text.strip(),
            WIDTH,
            initial_indent=f"# {margin}",
            subsequent_indent=f"# {margin}{'  ' if margin else ''}",
            break_long_words=False,
            break_on_hyphens=False,
        )
        self._lines += parts or ["#"]

    def key(self, key: str, value: Any, why: str = "", off: bool = False) -> None:
        """A key and why it is there; `off` makes a comment of it, to be uncommented by who wants it."""
        line = f"{'# ' if off else ''}{key} = {toml(value)}"
        if why and len(line) + len(why) + 4 > WIDTH:
            self.say(why)
            why = ""
        self._lines.append(f"{line}  # {plain(why)}" if why else line)


def toml(value: Any) -> str:
    """A value as TOML, on one line. Mappings are inline tables."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return tomlkit.item(value).as_string()


def plain(text: str) -> str:
    """The text on one line: what does not print is written as Python would escape it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
