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
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.errors import RecipeError
from engine.files import write_text
from engine.recipe import schema
from engine.store.samples import TrainedSamples

# Keys of a recipe that may change between a run and its continuation: they do not touch what is learnt, or they say
# where something lies that is known by its contents, such as the images, of which the fingerprint decides.
FREE_KEYS = (
    "name",
    "output",
    "data.train",
    "data.test",
    "data.images",
    "data.test_images",
    "data.missing",  # what it leaves out shows in the fingerprint
    "data.exclude_file",
    "data.relabel",
    "data.label_table",
    "data.sample_submission",
    "data.cache",
    "data.alias_columns",
    "data.class_groups",
    "data.folds.run",
    "distill.teacher",  # what it answers is known by its contents (TEACHER), and so is who was asked for more
    "distill.unlabelled",
    "decode.device",
    "decode.decoder",
    "decode.threads",
    "decode.prefetch",
    "decode.prefetch_mb",
    "decode.cache",
    "decode.cache_mb",
    "decode.cache_dir",
    "decode.max_megapixels",  # which images are too large to be used shows in the fingerprint
    "ensemble",
    "predict",
    "track",
    "specialist",  # each makes a claim of its own
)
_SETTLED = ("model.weights", "train.channels_last")  # what a model's own recipe says otherwise than the run's
_UNTOLD = ("name", "output", "specialist")  # of these, what nobody needs to be told of

DATA, SPLIT, START = "data_fingerprint", "split", "starting_weights"
TEACHER = "teacher_answers"
_FINGERPRINTS = {
    DATA: "the training data (files, labels or contents)",
    SPLIT: "the division of the images into folds",
    START: "the contents of model.weights",
}

_MOST_SETS = 3  # that somebody would type
_STEP = ("batch", "accumulate")  # keys of a stage whose product is the images of a step


@dataclasses.dataclass(frozen=True)
class Claim:
    """A folder for `what` ("a run"), made with `content`; written into the file `path` in it.

    content: JSON values. `recipe` is a recipe's tables, in which `FREE_KEYS` may differ. `DATA`, `SPLIT` and `START`
    are fingerprints, which count where both sides have them. remedy: a sentence, for who finds the folder taken by
    another one. samples: the images, to say what has changed; they are kept in the file `samples_path`.
    """

    path: Path
    what: str
    content: Mapping[str, Any]
    remedy: str
    samples: TrainedSamples | None = None
    samples_path: Path = Path()

    def check(self, of_model: bool = False) -> list[str]:
        """Raise RecipeError, naming what differs, when the folder is claimed for something else. Otherwise what differs
        and may, as "key: old -> new".

        of_model: the file describes a model that was trained under such a claim, and says more, and less.
        """
        if not self.path.is_file():
            return []
        try:
            before = dict(json.loads(self.path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{self.path} is damaged ({error}). {self.remedy}") from None
        now = json.loads(json.dumps(self.content))  # as it would be read back
        if of_model:
            before, now = ({name: side[name] for name in before if name in now} for side in (before, now))
        if changes := list(self._differences(before, now, (*FREE_KEYS, *_SETTLED) if of_model else FREE_KEYS)):
            raise RecipeError(
                f"{self.path.parent} holds {self.what} that differs in {'; '.join(changes)}. {self.remedy}"
                + ("" if of_model or "recipe" not in before else _as_it_was(changes))
            )
        return list(_changes(before.get("recipe", {}), now.get("recipe", {}), "", _UNTOLD))

    def write(self) -> None:
        """Write it down, also where it stands already: keys that are free follow the latest process."""
        write_text(self.path, json.dumps(self.content, ensure_ascii=False, indent=1) + "\n")
        if self.samples is not None and not self.samples_path.is_file():
            self.samples.write(self.samples_path)

    def _differences(self, before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str]) -> Iterator[str]:
        if START in before and START in now:
            free = (*free, "model.weights")
        for name in {**before, **now}:
            old, new = before.get(name), now.get(name)
            if name == "recipe":
                yield from _changes(_in_steps(old or {}, new or {}), new or {}, "", free)
            elif name == TEACHER:  # also where one side has no teacher
                yield from ["the teacher's answers (distill.teacher, distill.unlabelled)"] if old != new else []
            elif name not in _FINGERPRINTS:
                yield from _changes(old, new, name)
            elif name in before and name in now and old != new:
                since = self.samples.changes_since(self.samples_path) if self.samples and name != START else ""
                yield _FINGERPRINTS[name] + (f": {since}" if since else "")


def claim(*claims: Claim) -> list[str]:
    """Check all of them, then write all; what differs from before and may. Raises RecipeError as `Claim.check`."""
    changes = [change for one in claims for change in one.check()]
    for one in claims:
        one.write()
    return list(dict.fromkeys(changes))


def _as_it_was(changes: Sequence[str]) -> str:
    """How to go on by a recipe's old values, where a few `--set` do that."""
    # The division into folds follows from the recipe.
    olds = [change.partition(": ")[::2] for change in changes if not change.startswith(_FINGERPRINTS[SPLIT])]
    sets = [f"{key}={old.rpartition(' -> ')[0]}" for key, old in olds]
    if len(sets) > _MOST_SETS or any(value.endswith(("=", "=null")) or "{" in value for value in sets):
        return ""
    return f". To go on as it was: {' '.join(f'--set {shlex.quote(value)}' for value in sets)}"


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


def _changes(before: Any, now: Any, key: str, free: Collection[str] = ()) -> Iterator[str]:
    if key in free:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            below = f"{key}.{name}" if key else name
            # What an older engine wrote lacks the keys that it did not know, and did what their defaults do.
            old, new = (side[name] if name in side else _default(below) for side in (before, now))
            yield from _changes(old, new, below, free)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f"{key}.{i}", free)
    elif before != now:
        yield f"{key}: {json.dumps(before, ensure_ascii=False)} -> {json.dumps(now, ensure_ascii=False)}"


def _default(name: str) -> Any:
    """The default of a recipe's key, as JSON has it; None where there is none."""
    key = schema.find(tuple(int(part) if part.isdecimal() else part for part in name.split(".")))
    if key is None or key.required:
        return None
    dumped = key.default.model_dump(mode="json") if isinstance(key.default, BaseModel) else key.default
    return json.loads(json.dumps(dumped, default=BaseModel.model_dump))
