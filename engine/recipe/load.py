"""TOML and `--set` to a Recipe, or one error that lists everything wrong with it.

Values are taken strictly: `epochs = "3"` or `pretrained = 1` is refused rather than guessed at, because a wrong guess
shows only after hours of training.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from engine.errors import RecipeError
from engine.files import as_written
from engine.recipe import schema
from engine.recipe.lines import key_lines
from engine.recipe.problems import Origins, report
from engine.recipe.schema import KeyPath
from engine.recipe.sections import Recipe
from engine.recipe.sets import apply_set
from engine.text import nearest


def load_recipe(path: Path | str, sets: Sequence[str] = ()) -> Recipe:
    """The recipe in the TOML file `path`, changed by `sets` ("train.ema=0.99"), one after the other.

    Raises RecipeError when the file is not there or no TOML, or when keys or values cannot be used; it names them all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: some editors begin a file with a byte order mark
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe{_others(path.parent, path.name)}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder, and a recipe is a .toml file{_others(path, '')}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_recipe(text, sets, str(path))


def parse_recipe(source: str | Mapping[str, Any], sets: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """The recipe in `source`, TOML text or its tables, changed by `sets`, with `~` and `$NAME` in paths expanded.

    `origin` is what errors call the source. Raises RecipeError.
    """
    if isinstance(source, str):
        tables, lines = _tables(source, origin), key_lines(source)
    else:
        tables, lines = _lists(source), {}
    origins = Origins(origin, lines)
    for text in sets:
        origins.sets += [(place, text) for place in apply_set(tables, text)]
    try:
        return Recipe.model_validate(_tuples(tables), strict=True)
    except ValidationError as error:
        raise RecipeError(report(error.errors(include_url=False), tables, origins)) from None


def parse_saved(tables: Mapping[str, Any], sets: Sequence[str] = (), origin: str = "recipe") -> Recipe:
    """`parse_recipe` for the tables of a recipe that was read before, as a checkpoint holds them: their paths are
    taken as they are, only those in `sets` are as a user writes them."""
    return parse_recipe(_as_written(_lists(tables), ()), sets, origin)


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as TOML, defaults written out. parse_recipe makes an equal recipe of it."""
    # TOML has no null. Leaving a key out means None wherever None is allowed.
    return tomlkit.dumps(_as_written(recipe.model_dump(mode="python", exclude_none=True), ()))


def _as_written(value: Any, path: KeyPath) -> Any:
    """Tables of a recipe with its paths as a user would write them, so that they stay what they are when read."""
    if isinstance(value, Mapping):
        return {name: _as_written(item, (*path, name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_written(item, (*path, i)) for i, item in enumerate(value))
    key = schema.find(path) if isinstance(value, str) else None
    return as_written(value) if key is not None and key.is_path else value


def _tables(text: str, origin: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # "Expected '=' after a key in a key/value pair (at line 3, column 5)"
        message, _, place = str(error).removesuffix(")").partition(" (at ")
        raise RecipeError(
            f"{origin}: is not valid TOML: {place or 'somewhere'}: {message}{_line(text, place)}"
        ) from None


def _line(text: str, place: str) -> str:
    """The line a syntax error is on, and a mark under its column."""
    numbers = [int(word) for word in place.replace(",", "").split() if word.isdecimal()]
    lines = text.splitlines()
    if len(numbers) != 2 or not 1 <= numbers[0] <= len(lines):
        return ""
    return f"\n  {lines[numbers[0] - 1]}\n  {' ' * (numbers[1] - 1)}^"


def _tuples(value: Any) -> Any:
    """Lists as tuples: strict sections take nothing else, and a frozen one must not hold a list."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _lists(value: Any) -> Any:
    """A deep copy with dicts and lists alone, as tomllib makes them."""
    if isinstance(value, Mapping):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _others(folder: Path, name: str) -> str:
    """The recipes in `folder` that `name` may have meant."""
    if not folder.is_dir():
        return f"; the folder {folder} does not exist either"
    names = sorted(path.name for path in folder.glob("*.toml"))
    near = nearest(name, names)
    return f"; {'in ' + str(folder)} there is {', '.join(near)}" if near else f"; there is no .toml file in {folder}"
