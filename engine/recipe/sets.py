"""`--set section.key=value`: one value of the recipe's tables, changed from the command line.

The value is read as TOML, so numbers, lists and whole tables are written as in the file, and taken as plain text where
it is no TOML: nobody wants to quote quotes in a shell.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from engine.errors import RecipeError
from engine.recipe import schema
from engine.recipe.schema import KeyPath, dotted


def apply_set(tables: dict[str, Any], text: str) -> list[KeyPath]:
    """Carry out `text` ("stage.*.epochs=2") on `tables`, in place, and return the places that changed.

    An item of a list is named by its index, all of them by `*`. Keys need not exist: the sections refuse those they do
    not know. Raises RecipeError when the text is no assignment or the place cannot be reached.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise RecipeError(f"--set {text}: expected section.key=value, for example --set train.ema=0.99")
    changed = []
    for container, last, path in _places(tables, parts, (), text):
        container[last] = _value(value.strip(), path)
        changed.append(path)
    return changed


def _places(node: Any, parts: list[str], path: KeyPath, text: str) -> Iterator[tuple[Any, Any, KeyPath]]:
    """(container, key or index, path) of every place that `parts` names below `node`."""
    if isinstance(node, list):
        steps: list[Any] = list(_indices(node, parts[0], path, text))
    elif isinstance(node, dict):
        steps = [parts[0]]
    else:
        raise RecipeError(f"--set {text}: {dotted(path)} is one value and has no {dotted(tuple(parts))} in it")
    for step in steps:
        below: KeyPath = (*path, step)
        if len(parts) == 1:
            yield node, step, below
        else:
            if isinstance(node, dict) and step not in node:
                node[step] = _default(below)
            yield from _places(node[step], parts[1:], below, text)


def _indices(items: list[Any], part: str, path: KeyPath, text: str) -> range | list[int]:
    if part == "*" and items:
        return range(len(items))
    if part.isdecimal() and int(part) < len(items):
        return [int(part)]
    if not items:
        raise RecipeError(f"--set {text}: {dotted(path)} has no entries; set the whole list: {dotted(path)}=[{{...}}]")
    raise RecipeError(
        f"--set {text}: the entries of {dotted(path)} are {', '.join(map(str, range(len(items))))}, or * for all; "
        f"{part!r} is none of them"
    )


def _default(path: KeyPath) -> Any:
    """What stands at a place the recipe leaves out, as far as a value inside it can be set."""
    key = schema.find(path)
    return _thawed(key.default) if key is not None and isinstance(key.default, tuple) else {}


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_thawed(item) for item in value]
    return value.model_dump() if isinstance(value, BaseModel) else value


def _value(text: str, path: KeyPath) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    if parsed.keys() != {"value"}:  # a line break in the text began a second key
        return text
    value = parsed["value"]
    key = schema.find(path)
    if key is not None and key.is_text and not isinstance(value, str):
        return text  # --set name=2024 means the text
    return copy.deepcopy(value)
