"""What a specialist is, how its answer joins the main model's, and what that is worth.

A specialist is a second model for classes that look alike. It is asked about an image only when the main model gives
it one of these classes. Training measures with these rules what it is worth, and prediction answers with them, so the
two cannot drift apart.

The rules move probability only where the specialist knows better. Classes that it does not know keep what they have
(several classes), or their proportions to each other (yes or no); a row sums to what it summed to before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.metrics import score
from engine.predictions import LabelledPredictions, Predictions

_NOTHING = 1e-300  # up to this no probability is left that could be scaled
_SHOWN = ("log_loss", "accuracy", "macro_f1")

P = TypeVar("P", bound=Predictions)


@dataclasses.dataclass(frozen=True)
class Specialist:
    """`classes`, in the main model's order: several, which it tells apart, or one, about which it says yes or no.
    `blend` is its share of the answer, from 0 to 1."""

    name: str
    classes: tuple[str, ...]
    blend: float = 1.0

    @property
    def answers(self) -> tuple[str, ...]:
        """The classes of its own models."""
        return self.classes if len(self.classes) > 1 else (self.classes[0], f"not {self.classes[0]}")

    def asked(self, main_NC: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.bool_]:
        """To which images the main model gives one of its classes; `classes` names the columns."""
        return np.isin(main_NC.argmax(1), self._columns(classes))

    def heard(self, main: P, own: Predictions) -> P:
        """The main model's predictions once the specialist was asked about them. Images that `own` knows nothing of
        keep their answer."""
        asked_A = np.flatnonzero(self.asked(main.probabilities_NC, main.classes)).tolist()
        place = {id_: row for row, id_ in enumerate(own.ids)}
        rows = [row for row in asked_A if main.ids[row] in place]
        own_AS = own.in_order(own.ids, self.answers).probabilities_NC[[place[main.ids[row]] for row in rows]]
        joined_NC = self.joined(main.probabilities_NC, main.classes, np.array(rows, dtype=np.int64), own_AS)
        return dataclasses.replace(main, probabilities_NC=joined_NC, logits_NC=None, features_NE=None)

    def joined(
        self,
        main_NC: NDArray[np.floating],
        classes: Sequence[str],
        rows_A: NDArray[np.int64],
        own_AS: NDArray[np.floating],
    ) -> NDArray[np.floating]:
        """The main model's probabilities, in which rows_A have heard what the specialist answers about them: a copy
        of the same type. Raises ValueError when own_AS is not (rows, answers)."""
        if own_AS.shape != (len(rows_A), len(self.answers)):
            raise ValueError(f"expected {(len(rows_A), len(self.answers))} answers of {self.name}, got {own_AS.shape}")
        columns_S = self._columns(classes)
        rule = override if len(self.classes) > 1 else yes_or_no
        joined_NC = np.array(main_NC, order="C")
        main_AC, own_AS = (np.ascontiguousarray(each, dtype=np.float64) for each in (main_NC[rows_A], own_AS))
        joined_NC[rows_A] = rule(main_AC, own_AS, columns_S, self.blend)
        return joined_NC

    def _columns(self, classes: Sequence[str]) -> NDArray[np.int64]:
        place = {name: column for column, name in enumerate(classes)}
        return np.array([place[name] for name in self.classes], dtype=np.int64)


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a specialist did to the out-of-fold predictions, after those before it."""

    name: str
    classes: tuple[str, ...]
    blend: float
    images: int
    asked: int
    wrong_to_right: int
    right_to_wrong: int
    before: dict[str, float]
    after: dict[str, float]


def effect_of(
    specialist: Specialist, before: LabelledPredictions, after: LabelledPredictions, own: Predictions
) -> Effect:
    """What changed between the predictions before and after a specialist, which answers `own`, was heard."""
    known = set(own.ids)
    asked_N = specialist.asked(before.probabilities_NC, before.classes)
    asked = [id_ for id_, is_asked in zip(before.ids, asked_N.tolist(), strict=True) if is_asked and id_ in known]
    labels_N = before.labels_N
    was_right_N, is_right_N = (one.probabilities_NC.argmax(1) == labels_N for one in (before, after))
    return Effect(
        name=specialist.name,
        classes=specialist.classes,
        blend=specialist.blend,
        images=len(before),
        asked=len(asked),
        wrong_to_right=int((~was_right_N & is_right_N).sum()),
        right_to_wrong=int((was_right_N & ~is_right_N).sum()),
        before=score(before.probabilities_NC, labels_N, _SHOWN),
        after=score(after.probabilities_NC, labels_N, _SHOWN),
    )


def override(
    main_NC: NDArray[np.float64], own_NS: NDArray[np.float64], columns_S: NDArray[np.int64], blend: float
) -> NDArray[np.float64]:
    """What the main model gives to the specialist's classes together is divided among them: 1 - `blend` of it as the
    main model did, `blend` of it as the specialist does."""
    joined_NC = main_NC.copy()
    own_part_NS = np.ascontiguousarray(main_NC[:, columns_S])
    joined_NC[:, columns_S] = (1 - blend) * own_part_NS + blend * own_part_NS.sum(1, keepdims=True) * own_NS
    return joined_NC


def yes_or_no(
    main_NC: NDArray[np.float64], own_N2: NDArray[np.float64], column_1: NDArray[np.int64], blend: float
) -> NDArray[np.float64]:
    """The class has the probability (1 - blend) * main + blend * yes, and the others are scaled to what is left; where
    the main model gave them nothing at all, they share it evenly."""
    rest_NC = np.ascontiguousarray(np.delete(main_NC, column_1, axis=1))
    class_N1 = main_NC[:, column_1]
    rest_N1 = rest_NC.sum(1, keepdims=True)
    # As a change, so that no change leaves every bit as it was; never more than there is to take or to give.
    gain_N1 = np.clip(blend * (own_N2[:, :1] - class_N1), -class_N1, rest_N1)
    scaled_NC = main_NC * (1 - gain_N1 / np.maximum(rest_N1, _NOTHING))
    joined_NC = np.where(rest_N1 > _NOTHING, scaled_NC, main_NC - gain_N1 / rest_NC.shape[1])
    joined_NC[:, column_1] = class_N1 + gain_N1
    return joined_NC
