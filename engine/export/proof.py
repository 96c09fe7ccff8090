"""What an exported file proves itself by: a handful of photos, as files, and what it must answer about them.

A file that is deployed is asked by somebody else's program, on another machine: another decoder, another resize before
it, channels in another order. None of that raises an error; answers only get worse. So the file carries photos with
their answers, and fingerprints of all that lies between: decoded pixels, what the networks were shown, their logits.
Whoever has the file can see whether they get the same, and if not, where it first differs.

The answers are the file's own, as it gave them where it was exported; that they are the run's is settled there, by the
export. How far others may be off is settled there as well:

* The same pixels on another processor. Sums are then rounded in another order: float32 keeps 24 bits, and a few
  hundred layers leave some 1e-6 of a probability, at most 1e-4 by what ONNX runtimes are seen to differ. Halves keep 11
  bits (bfloat16: 8), and 8-bit products saturate on processors without VNNI: answers are then less alike by as much.
* Of a JPEG also other pixels, by another decoder, whose rounding the standard leaves open. What that changes is the
  model's own, so it is measured, photo by photo, by noise of one level.

JSON, because it travels in the metadata of an ONNX file: photos in base64, everything else as numbers.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.augment.contract import Contract
from engine.augment.views import View, view_named
from engine.ensemble.parts import Parts
from engine.ensemble.vote import RULES, Rule, blend, vote
from engine.errors import CheckpointError
from engine.predictions import Predictions

KEY = "engine.proof"
"""Of the metadata of an exported file."""
FORMAT = 1

Array = NDArray[np.float32]

SAME = {"fp32": 5e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
"""By precision, how far a probability may be off where the pixels are the same."""
PARITY = {"fp32": 5e-4, "fp16": 3e-2, "bf16": 0.1, "int8": 0.4}
"""How far from the run's own answer: photos of a proof are those that a model is least sure of, so this is much more
than what a lower precision changes on the average. It is there to find what is wrong, not what is coarse."""
_POINTS = 96  # of an array that a fingerprint keeps
_GOLDEN = 0.6180339887498949  # steps of this share of an array meet all of it, and every channel


@dataclasses.dataclass(frozen=True)
class Print:
    """A fingerprint of an array: its shape, its mean, and its values in some places all over it."""

    shape: tuple[int, ...]
    mean: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        flat = array.reshape(-1)
        values = flat[_places(flat.size)].astype(np.float64)
        return cls(tuple(array.shape), _rounded(flat.mean(dtype=np.float64)), tuple(map(_rounded, values.tolist())))

    def difference(self, array: NDArray[Any]) -> float:
        """The highest difference of the values that are kept; infinite for another shape."""
        if tuple(array.shape) != self.shape:
            return float("inf")
        other = Print.of(array)
        return max(abs(a - b) for a, b in zip((self.mean, *self.values), (other.mean, *other.values), strict=True))


def _places(size: int) -> NDArray[np.int64]:
    return ((np.arange(_POINTS) * _GOLDEN % 1) * size).astype(np.int64)


def _rounded(value: float) -> float:
    return float(f"{float(value):.7g}")


@dataclasses.dataclass(frozen=True)
class Shown:
    """What networks were shown: the tensor's name, the contract and the view that it was prepared by."""

    name: str
    contract: Contract
    view: View


@dataclasses.dataclass(frozen=True)
class Asked:
    """A model: its name in the run, that of its logits, their classes, and what it was shown, view by view."""

    model: str
    logits: str
    classes: tuple[str, ...]
    shown: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Between:
    """What lies between a photo's pixels and the answer, as a file says of itself."""

    classes: tuple[str, ...]
    shown: tuple[Shown, ...]
    asked: tuple[Asked, ...]

    @classmethod
    def of(cls, about: Mapping[str, Any], origin: object = KEY) -> Self:
        """Raises CheckpointError, naming `origin`, where that is not said rightly."""
        try:
            return cls._read(about)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise CheckpointError(
                f"{origin}: what it says about itself is damaged ({error!r}); export the run again"
            ) from error

    @classmethod
    def _read(cls, about: Mapping[str, Any]) -> Self:
        contracts = [Contract.from_dict(each) for each in about["contracts"]]
        return cls(
            tuple(about["classes"]),
            tuple(
                Shown(each["name"], contracts[each["contract"]], view_named(each["view"])) for each in about["prepared"]
            ),
            tuple(
                Asked(each["name"], each["logits"], tuple(each["classes"]), tuple(each["shown"]))
                for each in about["models"]
            ),
        )


@dataclasses.dataclass(frozen=True)
class Steps:
    """From logits to the answer, for one run without specialists and neighbours. folds: the names of the logits of each
    fold's models. views: by the rule of `vote`, as are a fold's epochs and the folds."""

    folds: tuple[tuple[str, ...], ...]
    vote: Rule
    parts: Parts

    def answer(
        self,
        logits: Mapping[str, Array],
        between: Between,
        views: Sequence[int] = (),
        folds: Sequence[int] = (),
        calibrated: bool = True,
    ) -> NDArray[np.float64]:
        """Of N photos, (N, C), from logits (N, V, C) by name; of these views and folds alone, where some are named."""
        parts = self.parts if calibrated else dataclasses.replace(self.parts, calibration=None)
        classes, by_name = between.classes, {one.logits: one for one in between.asked}
        finished = []
        for number, names in enumerate(self.folds):
            if folds and number not in folds:
                continue
            candidates = [self._alone(logits[name], by_name[name].classes, classes, views) for name in names]
            finished.append(parts.finished(parts.joined(candidates, self.vote)))
        weights = [float(len(names)) for number, names in enumerate(self.folds) if not folds or number in folds]
        together = finished[0] if len(finished) == 1 else vote(finished, self.vote, weights)
        return np.asarray(together.in_order(together.ids, classes).probabilities_NC, dtype=np.float64)

    def _alone(
        self, logits_NVC: Array, own: Sequence[str], classes: Sequence[str], views: Sequence[int]
    ) -> Predictions:
        p_VNC = softmax(logits_NVC.transpose(1, 0, 2))[[*views] if views else slice(None)]
        p_NC = p_VNC[0] if len(p_VNC) == 1 else blend(p_VNC, self.vote)
        answers = Predictions(tuple(map(str, range(len(p_NC)))), tuple(own), p_NC.astype(np.float32))
        return answers.in_order(answers.ids, classes)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Over the last axis."""
    raised = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class Shot:
    """A photo of the proof: its file's name and content, what is particular to it, and the print of its upright RGB
    pixels, uint8 (H, W, 3). tolerance: how far a probability may be off."""

    name: str
    content: bytes
    what: str
    pixels: Print
    tolerance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """probabilities_NC of the N photos, float32, with columns as the file's classes; prepared: the prints of what was
    shown, by its name; logits: (N, V, C) by name. tolerance: how far a
    probability may be off for the very same pixels. steps: None where more lies between logits and answers."""

    shots: tuple[Shot, ...]
    probabilities_NC: Array
    prepared: Mapping[str, tuple[Print, ...]]
    logits: Mapping[str, Array]
    tolerance: float
    steps: Steps | None = None

    @property
    def tolerance_N(self) -> NDArray[np.float64]:
        """Of each photo, decoded by whomever."""
        return np.array([shot.tolerance for shot in self.shots])

    def to_json(self) -> str:
        """One line; `photos` hold what ten lines of anybody's need: file, answer and tolerance."""
        photos = [
            {
                "name": shot.name,
                "what": shot.what,
                "file": base64.b64encode(shot.content).decode("ascii"),
                "answer": _numbers(p_C),
                "tolerance": shot.tolerance,
                "pixels": dataclasses.asdict(shot.pixels),
            }
            for shot, p_C in zip(self.shots, self.probabilities_NC, strict=True)
        ]
        content = {
            "format": FORMAT,
            "tolerance": self.tolerance,
            "photos": photos,
            "prepared": {name: [dataclasses.asdict(each) for each in prints] for name, prints in self.prepared.items()},
            "logits": {name: [[_numbers(row) for row in each] for each in own] for name, own in self.logits.items()},
            "steps": None if self.steps is None else _steps_to_dict(self.steps),
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, origin: object = KEY) -> Self:
        """What `to_json` gave. Raises CheckpointError, naming `origin`, for anything else."""
        try:
            content = json.loads(text)
            if content["format"] > FORMAT:
                raise CheckpointError(
                    f"{origin}: its proof is of format {content['format']}, this engine reads up to {FORMAT}; use a "
                    "newer engine"
                )
            return cls._read(content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{origin}: its proof is damaged ({error!r}); export the run again") from error

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> Self:
        photos = content["photos"]
        shots = [
            Shot(
                each["name"],
                base64.b64decode(each["file"], validate=True),
                each["what"],
                _print(each["pixels"]),
                float(each["tolerance"]),
            )
            for each in photos
        ]
        probabilities_NC = np.array([each["answer"] for each in photos], dtype=np.float32)
        if not shots or probabilities_NC.ndim != 2:
            raise ValueError("no photos with answers")
        if strange := [shot.name for shot in shots if not _is_plain(shot.name)]:
            raise ValueError(f"{strange[0]!r} is no name of a photo")
        return cls(
            shots=tuple(shots),
            probabilities_NC=probabilities_NC,
            prepared={name: tuple(map(_print, prints)) for name, prints in content["prepared"].items()},
            logits={name: np.array(own, dtype=np.float32) for name, own in content["logits"].items()},
            tolerance=float(content["tolerance"]),
            steps=None if content["steps"] is None else _steps(content["steps"]),
        )


def _is_plain(name: str) -> bool:
    """Whether it names a file in a folder, and none elsewhere: files come from anybody, and photos are written out."""
    return name not in ("", ".", "..") and not set(name) & {*"/\\\0"}


def _numbers(values: Array) -> list[float]:
    return [float(f"{value:.8g}") for value in values.tolist()]


def _print(content: Mapping[str, Any]) -> Print:
    return Print(tuple(content["shape"]), float(content["mean"]), tuple(map(float, content["values"])))


def _steps_to_dict(steps: Steps) -> dict[str, Any]:
    return {"folds": steps.folds, "vote": steps.vote, "parts": steps.parts.to_dict()}


def _steps(content: Mapping[str, Any]) -> Steps:
    if content["vote"] not in RULES:
        raise ValueError(f"vote {content['vote']!r}")
    return Steps(tuple(tuple(names) for names in content["folds"]), content["vote"], Parts.from_dict(content["parts"]))
