"""How the models of a run become one answer: `models/ensemble.json`, written when training has ended, so that whoever
answers later does what out-of-fold scores were measured with, without being told.

Each model's checkpoint holds the recipe too, but as it was when that model was trained. What follows afterwards (other
views, another rule, one more specialist) changes no weights, and so it changes no checkpoint: it stands here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from engine.ensemble.specialist import Specialist
from engine.ensemble.vote import RULES, Rule
from engine.errors import CheckpointError
from engine.files import write_text
from engine.recipe.sections import Recipe

FORMAT = 1  # raised when an older engine could not read it rightly


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How the answers of a run's models become one.

    `tta` views of the family `views`, or those that it names, are shown of each image, and averaged within each model
    and then over models by the rule `vote`. In between `specialists` are asked, in order, unless `asks_specialists` is
    False.
    """

    tta: int
    views: Literal["zooms", "crops"] | tuple[str, ...]
    vote: Rule
    asks_specialists: bool = True
    specialists: tuple[Specialist, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe, specialists: Sequence[Specialist]) -> Self:
        """What a recipe says, whose specialists these are."""
        predict = recipe.predict
        return cls(predict.tta, predict.views, recipe.ensemble.vote, predict.specialists, tuple(specialists))

    @property
    def sets(self) -> tuple[str, ...]:
        """The same as "key=value" changes of a recipe."""
        return (
            f"predict.tta={self.tta}",
            f"predict.views={self.views if isinstance(self.views, str) else json.dumps(self.views)}",
            f"predict.specialists={str(self.asks_specialists).lower()}",
            f"ensemble.vote={self.vote}",
        )

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        content = {"format": FORMAT} | dataclasses.asdict(self)
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
            specialists = tuple(
                Specialist(str(each["name"]), tuple(each["classes"]), float(each["blend"]))
                for each in content["specialists"]
            )
            if content["vote"] not in RULES:
                raise ValueError(f"vote {content['vote']!r}")
            asks = bool(content["asks_specialists"])
            views = tuple(content["views"]) if isinstance(content["views"], list) else content["views"]
            return cls(int(content["tta"]), views, content["vote"], asks, specialists)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}); copy it again, or run the same `engine train` once more, which writes it"
            ) from error
