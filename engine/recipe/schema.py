"""What a recipe may say, key by key, read off the sections themselves.

One walk serves the error messages (load.py), the documentation (document.py) and the completion of `--set`, so none of
them can drift from the schema. It reads the annotations rather than pydantic's JSON schema, which flattens constraints
into a dialect of its own and loses the order and the names of the sections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from engine.files import expanded
from engine.recipe.sections import Recipe

KeyPath = tuple[str | int, ...]
"""A place in a recipe: ("stage", 0, "size"). An item of a list is its index."""


@dataclass(frozen=True)
class Key:
    """One key of the schema. `path` names the first item of a list for all of them: ("stage", 0, "size")."""

    path: KeyPath
    field: FieldInfo

    @property
    def section(self) -> type[BaseModel] | None:
        """The section this key opens, itself or as the item of its list; None for a value."""
        return _section(self.field.annotation)

    @property
    def is_list_of_sections(self) -> bool:
        return self.section is not None and _plain(self.field.annotation)[0] is not self.section

    @property
    def is_text(self) -> bool:
        return _plain(self.field.annotation)[0] is str

    @property
    def is_path(self) -> bool:
        """Whether it names a file or a folder (`PathText`)."""
        expands = AfterValidator(expanded)
        return self.is_text and expands in (*self.field.metadata, *_plain(self.field.annotation)[1])

    @property
    def type(self) -> str:
        """The type in words: "whole number", "`a` or `b`", "list of tables"."""
        return _words(self.field.annotation)

    @property
    def allowed(self) -> str:
        """The allowed range in words, "" when the type says it all: "above 0, at most 1"."""
        return _range(self.field.annotation, self.field.metadata)

    @property
    def default(self) -> Any:
        """The value of a key that is not given; PydanticUndefined when it must be."""
        return self.field.get_default(call_default_factory=True)

    @property
    def required(self) -> bool:
        return self.default is PydanticUndefined

    @property
    def description(self) -> str:
        return self.field.description or ""


def walk(section: type[BaseModel] = Recipe, path: KeyPath = ()) -> Iterator[Key]:
    """Every key below `section`, in the order written there, each section before what it holds."""
    for name, field in section.model_fields.items():
        key = Key((*path, name), field)
        yield key
        if key.section is not None:
            yield from walk(key.section, (*key.path, 0) if key.is_list_of_sections else key.path)


def find(path: KeyPath) -> Key | None:
    """The key at `path`, whatever the indices in it; None when there is none."""
    section: type[BaseModel] | None = Recipe
    key: Key | None = None
    for depth, part in enumerate(path):
        if isinstance(part, int):
            if key is None or not key.is_list_of_sections or isinstance(path[depth - 1], int):
                return None
            continue
        if section is None or part not in section.model_fields:
            return None
        if key is not None and key.is_list_of_sections and not isinstance(path[depth - 1], int):
            return None  # a key of an item, but the item is not named
        key = Key(path[: depth + 1], section.model_fields[part])
        section = key.section
    return key


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The section at `path`: the recipe itself for (), the item's for ("stage", 2)."""
    if not path:
        return Recipe
    key = find(path)
    return None if key is None else key.section


def dotted(path: KeyPath) -> str:
    """The way a key is written on the command line: `stage.0.size`."""
    return ".".join(str(part) for part in path)


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without Annotated and Optional around it, and the metadata that stood there."""
    metadata: tuple[Any, ...] = ()
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *inner = get_args(annotation)
            metadata = (*inner, *metadata)
        elif get_origin(annotation) in (Union, UnionType):
            options = [option for option in get_args(annotation) if option is not NoneType]
            if len(options) > 1:
                return annotation, metadata
            (annotation,) = options
        else:
            return annotation, metadata


def _section(annotation: Any) -> type[BaseModel] | None:
    plain, _ = _plain(annotation)
    if get_origin(plain) in (tuple, list):
        plain, _ = _plain(get_args(plain)[0])
    return plain if isinstance(plain, type) and issubclass(plain, BaseModel) else None


def _words(annotation: Any) -> str:
    plain, _ = _plain(annotation)
    origin, options = get_origin(plain), get_args(plain)
    if origin in (Literal, Union, UnionType):
        return _either(_options(plain))
    if origin in (tuple, list) and (origin is list or (len(options) == 2 and options[1] is Ellipsis)):
        return f"list of {_plural(_words(options[0]))}"
    if origin is tuple:
        kinds = {_words(option) for option in options}
        return f"[{', '.join(map(_words, options))}]" if len(kinds) > 1 else f"{len(options)} {_plural(kinds.pop())}"
    if origin is dict:
        return f"table of {_plural(_words(options[1]))}"
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return "table"
    return {str: "text", bool: "true or false", int: "whole number", float: "number"}.get(plain, str(plain))


def _options(annotation: Any) -> list[str]:
    """What a choice is between, in words; the values of a Literal are options of their own."""
    options = get_args(annotation)
    if get_origin(annotation) is Literal:
        return [f'"{option}"' if isinstance(option, str) else str(option) for option in options]
    words = [_options(one) if get_origin(one) is Literal else [_words(one)] for one in options if one is not NoneType]
    return [word for each in words for word in each]


def _plural(words: str) -> str:
    return words if words.startswith('"') or " or " in words else words.removesuffix("s") + "s"


def _either(options: list[str]) -> str:
    return options[0] if len(options) == 1 else f"{', '.join(options[:-1])} or {options[-1]}"


def _range(annotation: Any, metadata: list[Any] | tuple[Any, ...]) -> str:
    plain, inner = _plain(annotation)
    limits = [
        limit for item in (*metadata, *inner) for limit in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    words: list[str] = []
    for limit in limits:
        match limit:
            case Ge(ge=low):
                words.append(f"at least {low}")
            case Gt(gt=low):
                words.append(f"above {low}")
            case Le(le=high) if words and words[-1].startswith("at least "):
                words[-1] = f"{words[-1].removeprefix('at least ')} to {high}"
            case Le(le=high):
                words.append(f"at most {high}")
            case Lt(lt=high):
                words.append(f"below {high}")
            case MinLen(min_length=least):
                words.append("not empty" if least == 1 else f"at least {least} long")
            case MaxLen(max_length=most):
                words.append(f"at most {most} long")
    if get_origin(plain) in (tuple, list) and (each := _range(get_args(plain)[0], ())):
        words.append(f"each {each}")
    return ", ".join(words)
