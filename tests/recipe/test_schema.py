"""The walk over the sections: every key is there once, described, and found again by its path."""

from __future__ import annotations

import re
from types import NoneType
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel, Field

from engine.ensemble.vote import RULES, Rule
from engine.errors import RecipeError
from engine.recipe import schema
from engine.recipe.load import dump_recipe, parse_recipe, parse_saved
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
    known = re.compile(r'[a-z0-9, ]+|\[.*\]|(".*")( or (".*"|[a-z ]+))?')
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


# Text that names no file or folder. A new key of text is either put here or made a path (`PathText`).
NO_PATHS = {
    "name",
    *(f"data.{role}_column" for role in ("path", "label", "id", "group", "fold")),
    *(f"{where}{key}" for where in ("", "specialist.0.") for key in ("model.backbone", "train.optimizer")),
    "specialist.0.name",
    "predict.float_format",
    "predict.positive_class",
    "predict.submission",
    "track.wandb",
    "track.mlflow_experiment",
}


def test_every_key_of_text_is_a_path_or_known_to_be_none() -> None:
    texts = {name for name, key in KEYS.items() if key.is_text}
    paths = {name for name, key in KEYS.items() if key.is_path}
    assert {"output", "data.train", "data.cache", "model.weights", "specialist.0.model.weights"} <= paths
    assert texts - paths == NO_PATHS


@pytest.mark.parametrize("name", sorted(name for name, key in KEYS.items() if key.is_path))
def test_every_path_is_expanded_when_it_is_read_and_never_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DRIVE", "/mnt/a$b")
    monkeypatch.delenv("b", raising=False)
    key = name.removeprefix("specialist.0.")
    base = 'stage = [{size = 32, batch = 8, epochs = 1, lr = 0.1}]\n[[specialist]]\nname = "s"\nclasses = ["a", "b"]\n'
    for written, plain in (("~/x", "/home/me/x"), ("$DRIVE/${DRIVE}x", "/mnt/a$b//mnt/a$bx"), ("./~/$$b", "./~/$b")):
        recipe = parse_recipe(base, [f"{name}={written}"])
        for again in (recipe, parse_recipe(dump_recipe(recipe)), parse_saved(recipe.model_dump(mode="json"))):
            found: Any = again.specialist[0] if key != name else again
            for part in key.split("."):
                found = getattr(found, part)
            assert found == plain
    with pytest.raises(RecipeError, match=rf"{re.escape(name)} = .*no variable NOWHERE: set it, or write \$\$"):
        parse_recipe(base, [f"{name}=$NOWHERE/x"])
