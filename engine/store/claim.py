"""What a folder is made with, so that what was made of different things is never mixed in it.

A run, a sweep, a comparison and a set of copies go on where they were interrupted, by the same command. What goes on
has to be the same: its recipe, but for keys that do not touch what is learnt, its data, and what else was asked for.
The first process writes it down beside its results and every later one must say the same. Kept as it is and not as a
hash, so that a refusal can name what differs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import RecipeError
from engine.files import write_text

# Keys of a recipe that may change between a run and its continuation: they do not touch what is learnt.
FREE_KEYS = (
    "name",
    "output",
    "data.test",
    "data.sample_submission",
    "data.cache",
    "data.alias_columns",
    "data.class_groups",
    "data.folds.run",
    "decode",
    "ensemble",
    "predict",
    "track",
    "specialist",  # each makes a claim of its own
)

_STEP = ("batch", "accumulate")  # keys of a stage whose product is the images of a step


@dataclasses.dataclass(frozen=True)
class Claim:
    """A folder for `what` ("a run"), made with `content`; written into the file `path` in it.

    content: JSON values. `recipe` is a recipe's tables, in which `FREE_KEYS` may differ, `data_fingerprint` that of the
    data. remedy: a sentence, for who finds the folder taken by another one.
    """

    path: Path
    what: str
    content: Mapping[str, Any]
    remedy: str

    def check(self) -> None:
        """Raise RecipeError, naming what differs, when the folder is claimed for something else."""
        if not self.path.is_file():
            return
        try:
            before = dict(json.loads(self.path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{self.path} is damaged ({error}). {self.remedy}") from None
        now = json.loads(json.dumps(self.content))  # as it would be read back
        if changes := list(_differences(before, now)):
            raise RecipeError(
                f"{self.path.parent} holds {self.what} that differs in {'; '.join(changes)}. {self.remedy}"
            )

    def write(self) -> None:
        """Write it down, also where it stands already: keys that are free follow the latest process."""
        write_text(self.path, json.dumps(self.content, ensure_ascii=False, indent=1) + "\n")


def claim(*claims: Claim) -> None:
    """Check all of them, then write all. Raises RecipeError as `Claim.check`."""
    for one in claims:
        one.check()
    for one in claims:
        one.write()


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two recipes' tables, as "key: old -> new", leaving out keys that do not touch learning."""
    yield from _changes(_in_steps(before, now), now, "", FREE_KEYS)


def _in_steps(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """`before`, with `now`'s batch and accumulate in stages whose steps are of as many images: where memory ran out, a
    run goes on in smaller batches."""
    stages, others = before.get("stage"), now.get("stage")
    if not isinstance(stages, list) or not isinstance(others, list) or len(stages) != len(others):
        return before
    merged = [
        {**old, **{key: new[key] for key in _STEP if key in new}} if _images(old) == _images(new) else old
        for old, new in zip(stages, others, strict=True)
    ]
    return {**before, "stage": merged}


def _images(stage: Mapping[str, Any]) -> int:
    return math.prod(int(stage.get(key, 1)) for key in _STEP)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if name == "data_fingerprint":
            if old != new:
                yield "the training data (files, labels or contents)"
        else:
            yield from changes_between(old or {}, new or {}) if name == "recipe" else _changes(old, new, name)


def _changes(before: Any, now: Any, key: str, free: Collection[str] = ()) -> Iterator[str]:
    if key in free:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            yield from _changes(before.get(name), now.get(name), f"{key}.{name}" if key else name, free)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f"{key}.{i}", free)
    elif before != now:
        yield f"{key}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(now, ensure_ascii=False)}"
