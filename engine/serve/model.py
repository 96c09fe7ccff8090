"""What is served: a run's folder, or an exported file, as one kind of model.

Each answers as it does elsewhere, to the last bit: a run through the same `Predictor` that `engine infer` and the
library use, an exported file through the runtime that verified it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import RecipeError
from engine.pictures import WHITE
from engine.quarantine import Fault, Quarantine
from engine.serve.photo import Photo
from engine.system import library_versions

if TYPE_CHECKING:  # they import torch or a runtime, and one of them will do
    from engine.decode.decoder import Decoder
    from engine.export.runner import Exported
    from engine.predict.predictor import Predictor

_BESIDE = ("risk", "abstain_accuracy", "false_alarms")  # keys of predict that ask for columns


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """About one photo: p_C, float32, and what stands `beside` it in predictions.parquet (set, abstain, strange, near,
    ...), by name."""

    p_C: NDArray[np.float32]
    beside: dict[str, Any]


class Model(Protocol):
    """Answers photos, from one thread at a time."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what it tells apart, in the order of its probabilities."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """What a client may want to know of it, as JSON values."""
        ...

    @property
    def heatmaps(self) -> bool:
        """Whether it can show where it looked."""
        ...

    def __call__(self, photos: Sequence[Photo]) -> Sequence[Answer | Fault]:
        """Of each photo its answer, or why it cannot be seen."""
        ...

    def heatmap(self, photo: Photo, label: str) -> NDArray[np.float32]:
        """Where on the upright photo it sees what speaks for a class: (h, w) in [0, 1]. Raises EngineError for a photo
        that cannot be seen."""
        ...


class RunModel:
    """The models of a run, of one fold, or of an ensemble of runs."""

    heatmaps = True

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def classes(self) -> tuple[str, ...]:
        return self._predictor.classes

    @property
    def about(self) -> dict[str, Any]:
        models = self._predictor.models
        from engine.augment.views import views_of

        models, first = self._predictor.models, self._predictor.models.checkpoints[0]
        predict = models.recipe.predict
        contracts = {str(sorted(saved.contract.items())): dict(saved.contract) for saved in models.checkpoints}
        parts = {*models.parts.names, *(name for run in models.runs for name in run.parts.names)}
        return {
            "kind": "run",
            "name": models.recipe.name,
            "classes": list(self.classes),
            "models": models.names,
            "specialists": [one.specialist.name for one in models.specialists],
            "views": [view.name for view in views_of(predict)],
            "vote": models.recipe.ensemble.vote,
            "contracts": [*contracts.values()],
            "fitted": sorted(parts | models.hedges.to_dict().keys()),
            "asked": {key: value for key in _BESIDE if (value := getattr(predict, key))},
            "notices": [*models.notices],
            "versions": {"trained": dict(first.versions), "serving": library_versions()},
        }

    def __call__(self, photos: Sequence[Photo]) -> Sequence[Answer | Fault]:
        names = [str(number) for number in range(len(photos))]
        answered = self._predictor.answered([photo.content for photo in photos], names)
        bad = answered if isinstance(answered, Quarantine) else answered.quarantine
        found: dict[str, Answer | Fault] = {name: entry.fault for name, entry in bad.items()}
        if not isinstance(answered, Quarantine):
            together = answered.together.in_order(answered.together.ids, self.classes)
            p_NC = together.probabilities_NC.astype(np.float32)
            for row, (name, beside) in enumerate(zip(together.ids, _rows(answered.columns, len(p_NC)), strict=True)):
                found[name] = Answer(p_NC[row], beside)
        return [found[name] for name in names]

    def heatmap(self, photo: Photo, label: str) -> NDArray[np.float32]:
        return self._predictor.heatmap(photo.content, label)


class ExportModel:
    """An exported file that takes pixels. It gets those that a run would: decoded by the same decoders and rules."""

    heatmaps = False

    def __init__(self, exported: Exported) -> None:
        if exported.about["takes"] != "pixels":
            raise RecipeError(
                f"{exported.path} decodes photos by itself, and not every kind: serve the file that takes pixels "
                "(engine export without --bytes)"
            )
        self._exported = exported
        self._decoder: Decoder | None = None  # belongs to the thread that first uses it

    @property
    def classes(self) -> tuple[str, ...]:
        return self._exported.classes

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "export", "name": self._exported.path.stem, **self._exported.about}

    def __call__(self, photos: Sequence[Photo]) -> Sequence[Answer | Fault]:
        decoder = self._decoder = self._decoder or _decoder(self._exported.about.get("background", WHITE))
        opened = decoder.open([photo.content for photo in photos])
        pixels = iter(decoder.pixels([one for one in opened if not isinstance(one, Fault)]))
        found = [one if isinstance(one, Fault) else next(pixels) for one in opened]
        seen = [np.asarray(one.pixels_HW3) for one in found if not isinstance(one, Fault)]
        answers = iter(self._exported.probabilities(seen) if seen else ())
        return [one if isinstance(one, Fault) else Answer(next(answers), {}) for one in found]

    def heatmap(self, photo: Photo, label: str) -> NDArray[np.float32]:
        raise NotImplementedError("there are no layers to look into")


def _decoder(background: Sequence[float]) -> Decoder:
    import torch

    from engine.decode.choose import decoder_for
    from engine.recipe.sections import DecodeSection

    red, green, blue = background
    return decoder_for(DecodeSection(device="cpu", background=(red, green, blue)), torch.device("cpu"))


def _rows(columns: dict[str, pa.Array], count: int) -> list[dict[str, Any]]:
    values = {name: column.to_pylist() for name, column in columns.items()}
    return [{name: column[row] for name, column in values.items()} for row in range(count)]


def open_model(path: Path, sets: Sequence[str] = ()) -> Model:
    """What lies at `path`, ready to be asked; `sets` ("key=value") changes keys of a run's recipe, as `engine infer`
    does. Raises EngineError when it cannot be used."""
    if path.is_file():
        from engine.export.runner import Exported

        if sets:
            raise RecipeError(f"--set: {path} answers as it was exported; --set is for the folder of a run")
        return ExportModel(Exported.open(path))
    from engine.predict.predictor import Predictor

    return RunModel(Predictor(path, sets=sets))
