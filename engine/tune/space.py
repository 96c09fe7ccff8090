"""What a sweep may change: `key=range` or `key=a|b|c` on the command line, a dimension of the search space here.

A value is drawn as the text that `--set` takes, so a trial is a recipe and a list of `--set`s, and the best of them can
be given to `engine train` as it stands.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import RecipeError
from engine.recipe import schema
from engine.recipe.load import parse_saved

if TYPE_CHECKING:
    from optuna.trial import Trial

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"((?:log:|int:)*)\s*({_NUMBER})\s*\.\.\s*({_NUMBER})")
_FORMS = "key=0.0..0.1, key=log:1e-5..1e-3, key=int:1..5 or key=a|b|c"
_OWN = ("output", "name", "data.folds", "train.select", "specialist")  # what the sweep itself sets


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: evenly by their logarithm; `whole`: whole ones alone."""

    key: str
    low: float
    high: float
    log: bool
    whole: bool

    @property
    def ends(self) -> list[str]:
        """The values to check."""
        return [self._text(self.low), self._text(self.high)]

    def suggest(self, trial: Trial) -> str:
        """The text of the trial's value."""
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return self._text(trial.suggest_float(self.key, self.low, self.high, log=self.log))

    def _text(self, value: float) -> str:
        """With four digits: what is tried is what is shown, and no more digits than could matter."""
        return str(int(value)) if self.whole else repr(min(self.high, max(self.low, float(f"{value:.4g}"))))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, as texts."""

    key: str
    ends: list[str]

    def suggest(self, trial: Trial) -> str:
        """The text of the trial's value."""
        return trial.suggest_categorical(self.key, self.ends)


Dimension = Range | Choice


def parse_dimension(text: str) -> Dimension:
    """The dimension that `--over text` means. Raises RecipeError."""
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not key or not values:
        raise RecipeError(f"--over {text}: expected {_FORMS}")
    if any(key == own or key.startswith(f"{own}.") for own in _OWN):
        raise RecipeError(f"--over {text}: {key} is the sweep's own to set; see --out, --fold and --metric")
    if found := _RANGE.fullmatch(values):
        return _range(text, key, *found.groups())
    choices = [choice.strip() for choice in values.split("|")]
    if len(choices) < 2 or "" in choices:
        raise RecipeError(f"--over {text}: expected {_FORMS}; one fixed value is given with --set")
    if len(set(choices)) < len(choices):
        raise RecipeError(f"--over {text}: a value is named twice")
    return Choice(key, choices)


def _range(text: str, key: str, kinds: str, first: str, last: str) -> Range:
    log, whole = "log:" in kinds, "int:" in kinds or _is_whole(key)
    low, high = float(first), float(last)
    if low >= high:
        raise RecipeError(f"--over {text}: expected the lower end first")
    if log and low <= 0:
        raise RecipeError(f"--over {text}: log: needs ends above 0")
    if whole and not (low.is_integer() and high.is_integer()):
        raise RecipeError(f"--over {text}: expected whole numbers")
    return Range(key, low, high, log, whole)


def _is_whole(key: str) -> bool:
    """Whether the recipe takes whole numbers alone there."""
    found = schema.find(tuple(int(part) if part.isdecimal() else 0 if part == "*" else part for part in key.split(".")))
    return found is not None and found.type == "whole number"


def parse_space(texts: Sequence[str], tables: Mapping[str, Any], origin: str) -> list[Dimension]:
    """The dimensions of `--over` texts. Raises RecipeError when one cannot be read, a key comes twice, or an end of a
    range or a choice cannot stand in the recipe of `tables`, alone beside its other values."""
    space = [parse_dimension(text) for text in texts]
    if not space:
        raise RecipeError(f"--over is not given: name what to change, as {_FORMS}")
    keys = [dimension.key for dimension in space]
    if double := next((key for key in keys if keys.count(key) > 1), None):
        raise RecipeError(f"--over {double}: is given twice")
    for dimension in space:
        for value in dimension.ends:
            try:
                parse_saved(tables, [f"{dimension.key}={value}"], origin)
            except RecipeError as error:
                raise RecipeError(str(error).replace("--set", "--over")) from None
    return space
