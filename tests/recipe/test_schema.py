"""The walk over the sections: every key is there once, described, and found again by its path."""

from __future__ import annotations

import re
from types import NoneType
from typing import Literal, get_args

import pytest
from pydantic import BaseModel, Field

from engine.ensemble.vote import RULES, Rule
from engine.recipe import schema
from engine.recipe.sections import Recipe

KEYS = {schema.dotted(key.path): key for key in schema.walk()}


def test_the_walk_reaches_every_field_of_every_section_once() -> None:
    def count(section: type[BaseModel]) -> int:
        fields = [schema.Key((name,), field) for name, field in section.model_fields.items()]
        return sum(1 + (count(key.section) if key.section else 0) for key in fields)

    assert len(list(schema.walk())) == len(KEYS) == count(Recipe)
    assert {"seed", "data.folds.count", "stage.0.size", "stage.0.mix.mixup", "augment.mix.0.cutmix"} <= KEYS.keys()


def test_every_key_says_what_it_means() -> None:
    assert [name for name, key in KEYS.items() if not key.description.strip()] == []


def test_every_type_has_words() -> None:
    # A kind of annotation that the walk does not know falls through to its Python name.
    known = re.compile(r'[a-z0-9, ]+|\[.*\]|(".*")( or ".*")?')
    assert [f"{name}: {key.type}" for name, key in KEYS.items() if not known.fullmatch(key.type)] == []


def test_a_key_is_found_by_its_path_whatever_the_index() -> None:
    for key in KEYS.values():
        assert schema.find(key.path) == key
        found = schema.find(tuple(7 if isinstance(part, int) else part for part in key.path))
        assert found is not None and found.field is key.field


@pytest.mark.parametrize(
    "path", [("trian",), ("train", "emma"), ("stage", "size"), ("stage", 0, 0), ("train", 0), ("train", "ema", "x")]
)
def test_what_is_no_key_is_not_found(path: schema.KeyPath) -> None:
    assert schema.find(path) is None


def test_none_is_allowed_only_where_it_is_the_default() -> None:
    """TOML has no null, so a dumped recipe leaves None out; leaving it out must mean None."""
    for name, key in KEYS.items():
        if NoneType in get_args(key.field.annotation):
            assert key.default is None, name


class Example(BaseModel):
    text: str = Field("", min_length=1)
    choice: Literal["a", "b", "c"] = "a"
    share: float = Field(0, ge=0, le=1)
    rate: float = Field(1, gt=0, lt=2)
    pair: tuple[int, int] = (1, 2)
    many: tuple[float, ...] = ()
    maybe: bool | None = None


@pytest.mark.parametrize(
    ("name", "type_", "allowed"),
    [
        ("text", "text", "not empty"),
        ("choice", '"a", "b" or "c"', ""),
        ("share", "number", "0 to 1"),
        ("rate", "number", "above 0, below 2"),
        ("pair", "2 whole numbers", ""),
        ("many", "list of numbers", ""),
        ("maybe", "true or false", ""),
    ],
)
def test_types_and_ranges_in_words(name: str, type_: str, allowed: str) -> None:
    key = schema.Key((name,), Example.model_fields[name])
    assert (key.type, key.allowed) == (type_, allowed)


def test_rules_of_voting_are_those_that_can_vote() -> None:
    assert KEYS["ensemble.vote"].field.annotation == Rule and get_args(Rule) == RULES
