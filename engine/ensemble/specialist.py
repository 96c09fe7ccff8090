"""What a specialist is, and how its answer joins the main model's.

A specialist is a second model for classes that look alike. It is asked about an image only when the main model gives
it one of these classes. Training measures with these rules what it is worth, and prediction answers with them, so the
two cannot drift apart.

The rules move probability only where the specialist knows better. Classes that it does not know keep what they have
(several classes), or their proportions to each other (yes or no); a row sums to what it summed to before.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import CheckpointError
from engine.files import write_text
from engine.store.run_folder import RunFolder

_NOTHING = 1e-300  # up to this no probability is left that could be scaled


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
        joined_NC = main_NC.copy()
        joined_NC[rows_A] = rule(main_NC[rows_A].astype(np.float64), own_AS.astype(np.float64), columns_S, self.blend)
        return joined_NC

    def _columns(self, classes: Sequence[str]) -> NDArray[np.int64]:
        place = {name: column for column, name in enumerate(classes)}
        return np.array([place[name] for name in self.classes], dtype=np.int64)


def override(
    main_NC: NDArray[np.float64], own_NS: NDArray[np.float64], columns_S: NDArray[np.int64], blend: float
) -> NDArray[np.float64]:
    """What the main model gives to the specialist's classes together is divided among them: 1 - `blend` of it as the
    main model did, `blend` of it as the specialist does."""
    joined_NC = main_NC.copy()
    own_part_NS = main_NC[:, columns_S]
    joined_NC[:, columns_S] = (1 - blend) * own_part_NS + blend * own_part_NS.sum(1, keepdims=True) * own_NS
    return joined_NC


def yes_or_no(
    main_NC: NDArray[np.float64], own_N2: NDArray[np.float64], column_1: NDArray[np.int64], blend: float
) -> NDArray[np.float64]:
    """The class has the probability (1 - blend) * main + blend * yes, and the others are scaled to what is left; where
    the main model gave them nothing at all, they share it evenly."""
    rest_NC = np.delete(main_NC, column_1, axis=1)
    class_N1 = main_NC[:, column_1]
    rest_N1 = rest_NC.sum(1, keepdims=True)
    # As a change, so that no change leaves every bit as it was; never more than there is to take or to give.
    gain_N1 = np.clip(blend * (own_N2[:, :1] - class_N1), -class_N1, rest_N1)
    scaled_NC = main_NC * (1 - gain_N1 / np.maximum(rest_N1, _NOTHING))
    joined_NC = np.where(rest_N1 > _NOTHING, scaled_NC, main_NC - gain_N1 / rest_NC.shape[1])
    joined_NC[:, column_1] = class_N1 + gain_N1
    return joined_NC


def write_list(models: Path, specialists: Sequence[Specialist]) -> None:
    """Say which specialists prediction has to ask; none: the list is removed."""
    path = RunFolder(models).specialist_list
    if specialists:
        listed = [dataclasses.asdict(specialist) for specialist in specialists]
        write_text(path, json.dumps(listed, ensure_ascii=False, indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)


def read_list(models: Path) -> tuple[Specialist, ...]:
    """What `write_list` wrote; () when nothing was. Raises CheckpointError when it is damaged."""
    path = RunFolder(models).specialist_list
    if not path.is_file():
        return ()
    try:
        listed = json.loads(path.read_text("utf-8"))
        return tuple(Specialist(str(s["name"]), tuple(s["classes"]), float(s["blend"])) for s in listed)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); copy it again, or run the same `engine train` once more, which writes it"
        ) from error
