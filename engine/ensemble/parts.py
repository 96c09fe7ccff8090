"""What is fitted after training, as one value: how the answers about an image are joined, told by its neighbours and
calibrated. Training puts it together a part at a time, and prediction follows it; both by the functions here, so what
was scored is what is answered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from engine.ensemble.calibrate import Calibration
from engine.ensemble.join import Join
from engine.ensemble.neighbours import Found, Neighbours
from engine.ensemble.vote import Rule, vote_of_fold
from engine.predictions import Predictions
from engine.text import some

P = TypeVar("P", bound=Predictions)

_KINDS: dict[str, Any] = {"join": Join, "neighbours": Neighbours, "calibration": Calibration}


@dataclasses.dataclass(frozen=True)
class Parts:
    """What was fitted out of fold, and kept because it gained; None: nothing was asked for, or nothing gained.

    join: makes one answer of the kept epochs of a fold (of several runs, where an ensemble has these). neighbours: the
    say of the most similar images that the fold was trained on. calibration: of a fold's answer, or of the runs'
    together.
    """

    join: Join | None = None
    neighbours: Neighbours | None = None
    calibration: Calibration | None = None

    def joined(self, candidates: Sequence[P], rule: Rule) -> P:
        """Of a fold, its kept epochs become one, before specialists are heard."""
        if self.join is None or len(candidates) == 1:
            return vote_of_fold(candidates, rule)
        return self.join.apply(candidates)

    def finished(self, answer: P, found: Found | None = None) -> P:
        """What a fold answers in the end, once specialists were heard. found: the images' neighbours in its bank."""
        if self.neighbours is not None:
            if found is None:
                raise ValueError("neighbours are to be heard, and were not searched for")
            answer = self.neighbours.apply(answer, found)
        return answer if self.calibration is None else self.calibration.apply(answer)

    def refuse_other_classes(self, classes: Sequence[str]) -> None:
        """Raise ValueError where a part was fitted on answers of other classes, which it could not be applied to."""
        stack = self.join.stack if self.join is not None else None
        for name, part in (("stack", stack), ("calibration", self.calibration)):
            if part is not None and (other := sorted(set(part.classes) ^ set(classes))):
                raise ValueError(f"{name} is of other classes: {some(other)}")

    @property
    def names(self) -> list[str]:
        """Those there are."""
        return [*self.to_dict()]

    def to_dict(self) -> dict[str, Any]:
        """JSON values by the name of the part."""
        own = {name: getattr(self, name) for name in _KINDS}
        return {name: part.to_dict() for name, part in own.items() if part is not None}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """What `to_dict` gave. Raises ValueError, TypeError or KeyError for anything else."""
        if unknown := set(content) - set(_KINDS):
            raise ValueError(f"parts {sorted(unknown)}")
        return cls(**{name: kind.from_dict(content[name]) for name, kind in _KINDS.items() if name in content})


NOTHING = Parts()
