"""How the models of a run become one answer: `models/ensemble.json`, written when training has ended, so that whoever
answers later does what out-of-fold scores were measured with, without being told.

Each model's checkpoint holds the recipe too, but as it was when that model was trained. What follows afterwards (other
views, another rule, one more specialist, weights that were fitted) changes no weights, and so it changes no checkpoint:
it stands here. All of it is JSON: a file from somewhere else is read and never run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from engine.ensemble.hedges import NO_HEDGES, Hedges
from engine.ensemble.parts import NOTHING, Parts
from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import RULES
from engine.errors import CheckpointError, RecipeError
from engine.files import write_text
from engine.recipe.sections import EnsembleSection, PredictSection, Recipe

FORMAT = 2  # raised when an older engine could not read it rightly

ENSEMBLE = ("vote", "weights", "stack", "calibrate", "neighbours", "neighbours_k")
PREDICT = (
    *("tta", "views", "specialists", "prior"),
    *("risk", "risk_method", "risk_by_class", "abstain_accuracy", "false_alarms"),
)
"""Keys of the recipe's sections that say how answers become one."""

RISK = ("predict.risk", "predict.risk_method", "predict.risk_by_class", "predict.abstain_accuracy")
"""Those by which sets and abstaining are fitted."""

_ASKING: dict[str, dict[str, str | None]] = {
    "join": {"ensemble.weights": "equal", "ensemble.stack": "off"},
    "neighbours": {"ensemble.neighbours": "off", "ensemble.neighbours_k": None},
    "calibration": {"ensemble.calibrate": "off"},
}
"""By part, the keys of the recipe that it is fitted by, and with which value they do not ask for it."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How the answers of a run's models become one.

    keys: values of the recipe's keys (`ensemble.vote`, ...) that it was made by. views: the names of those that are
    shown of each image. parts: what was fitted of the answer, hedges: of what stands beside it. runs: where an ensemble
    is of several runs, their folders, as seen from its own; its views are theirs then.
    """

    keys: Mapping[str, Any]
    views: tuple[str, ...] = ()
    specialists: tuple[Specialist, ...] = ()
    parts: Parts = NOTHING
    hedges: Hedges = NO_HEDGES
    runs: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        specialists: Sequence[Specialist],
        parts: Parts = NOTHING,
        hedges: Hedges = NO_HEDGES,
    ) -> Self:
        """What a recipe says, whose specialists these are and of which this was fitted."""
        return cls(keys_of(recipe), recipe.predict.names, tuple(specialists), parts, hedges)

    @property
    def sets(self) -> tuple[str, ...]:
        """The same as "key=value" changes of a recipe."""
        return tuple(f"{key}={_toml(value)}" for key, value in self.keys.items())

    def followed(self, recipe: Recipe) -> Parts:
        """What was fitted, as far as `recipe` does not do without it.

        Raises RecipeError where the recipe asks for something else than was fitted, naming how that is had.
        """
        wanted, left_out = keys_of(recipe), dict[str, None]()
        for part, asking in _ASKING.items():
            changed = [key for key in asking if wanted[key] != self.keys[key]]
            if all(off is None or wanted[key] == off for key, off in asking.items()):
                left_out[part] = None
            elif changed:
                told = " ".join(f"--set {key}={_toml(wanted[key])}" for key in changed)
                was = ", ".join(f"{key} = {_toml(self.keys[key])}" for key in changed)
                raise RecipeError(
                    f"{told}: {part} was fitted with {was}. Have it fitted anew, which takes seconds: "
                    f"engine ensemble RUN {told}"
                )
        return dataclasses.replace(self.parts, **left_out)

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        content = {
            "format": FORMAT,
            "keys": dict(self.keys),
            "views": self.views,
            "specialists": [dataclasses.asdict(one) for one in self.specialists],
            "parts": self.parts.to_dict(),
            "hedges": self.hedges.to_dict(),
            "runs": self.runs,
        }
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What `save` wrote; None when nothing was. Raises CheckpointError when it is damaged or of a newer format."""
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
            if content["format"] > FORMAT:
                raise CheckpointError(
                    f"{path} is of format {content['format']}, this engine reads up to {FORMAT}; use a newer engine"
                )
            return cls._read(_as_now(content) if content["format"] == 1 else content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); copy it again, or run the same `engine train` once more, which writes it"
            ) from error

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> Self:
        specialists = tuple(
            Specialist(str(each["name"]), tuple(each["classes"]), float(each["blend"]))
            for each in content["specialists"]
        )
        keys, runs = dict(content["keys"]), tuple(map(str, content["runs"]))
        if keys["ensemble.vote"] not in RULES:
            raise ValueError(f"vote {keys['ensemble.vote']!r}")
        fitted = Parts.from_dict(content["parts"]), Hedges.from_dict(content["hedges"])
        return cls(keys, tuple(map(str, content["views"])), specialists, *fitted, runs)


def keys_of(recipe: Recipe) -> dict[str, Any]:
    """Those keys of a recipe that say how answers become one, as JSON."""
    return _keys(recipe.ensemble, recipe.predict)


def _keys(ensemble: EnsembleSection, predict: PredictSection) -> dict[str, Any]:
    of_ensemble, of_predict = ensemble.model_dump(mode="json"), predict.model_dump(mode="json")
    return {
        **{f"ensemble.{name}": of_ensemble[name] for name in ENSEMBLE},
        **{f"predict.{name}": of_predict[name] for name in PREDICT},
    }


def _as_now(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of format 1, which knew no fitted parts, and views by their family and number."""
    views = content["views"] if isinstance(content["views"], str) else tuple(content["views"])
    predict = PredictSection(tta=content["tta"], views=views, specialists=content["asks_specialists"])
    keys = _keys(EnsembleSection(vote=content["vote"]), predict)
    specialists = content["specialists"]
    return {"keys": keys, "views": predict.names, "specialists": specialists, "parts": {}, "hedges": {}, "runs": []}


def _toml(value: Any) -> str:
    """A JSON value as --set takes it: JSON but for tables."""
    if isinstance(value, Mapping):
        items = (f"{json.dumps(key, ensure_ascii=False)} = {_toml(own)}" for key, own in value.items())
        return "{" + ", ".join(items) + "}"
    return json.dumps(value, ensure_ascii=False)
