"""A run's models as one callable: what `engine infer` does, for images at hand.

Arrays take the way of files (as BMP, which holds exactly their pixels), so that a photo is answered alike however it
comes: one way in, one set of rules on what is an image.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.data.manifest import OK
from engine.ensemble.vote import Rule
from engine.errors import CheckpointError, DataError, RecipeError
from engine.inference.heatmaps import heatmap
from engine.loader.batches import Loader, Samples
from engine.loader.source import Memory
from engine.predict.asking import Answered, Asking
from engine.predict.blind import blind_together
from engine.predict.models import Models, Wishes, load_models
from engine.predictions import P, Predictions
from engine.quarantine import Fault, Quarantine, read_file
from engine.text import some

Photo = str | Path | bytes | NDArray[np.uint8]
"""A path, a file's content, or upright RGB pixels (height, width, 3)."""
Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""N values each, by name."""
_IMAGES = ("image", "bytes", "path")  # what columns of images are called, the nearest to pixels first


class Predictor:
    """The models in a run's folder, in one fold's, in those of several runs or of their ensemble, ready to answer about
    images.

    They answer as `engine infer` would: with the run's views and rule, specialists, and all that was fitted. `tta` (how
    many), `views` (their names) and `vote` ask for other ones, `sets` ("key=value") changes keys of the recipe: of
    decode, predict, ensemble and augment.executor. `device`: None takes a GPU when there is one. Raises EngineError
    when the models cannot be used.
    """

    def __init__(
        self,
        models: Path | str | Sequence[Path | str],
        *,
        tta: int | None = None,
        views: Sequence[str] = (),
        vote: Rule | None = None,
        sets: Sequence[str] = (),
        device: torch.device | str | None = None,
    ) -> None:
        on_gpu = torch.cuda.is_available()
        folders = [models] if isinstance(models, Path | str) else models
        if not folders:
            raise RecipeError("no models: give the folder of a run, or those of several")
        if exported := [folder for folder in folders if Path(folder).suffix in (".onnx", ".pt2")]:
            raise CheckpointError(
                f"{exported[0]} is an exported file: open it with engine.Exported. It has no gradients, which heatmaps "
                "are made of; they are asked of the run's folder"
            )
        if isinstance(views, str):
            raise RecipeError(f'views="{views}": give a list of names, such as ["{views}"]')
        self._models = load_models(
            [*map(Path, folders)], Wishes(views=tta, named=tuple(views), vote=vote, sets=tuple(sets))
        )
        if self._models.recipe.predict.prior == "estimate":
            raise RecipeError(
                "predict.prior: shares are estimated from the answers to all images, and here photos are answered as "
                'they come; give the shares, or sets=["predict.prior=off"]'
            )
        self._device = torch.device(device or ("cuda" if on_gpu else "cpu"))
        self._asking = Asking(self._models, self._device)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what it tells apart, in the order of the columns of its answers."""
        return self._models.classes

    @property
    def models(self) -> Models:
        """Who answers, and what was settled on how they do."""
        return self._models

    @overload
    def __call__(self, images: Sequence[Photo], ids: Sequence[str] | None = None) -> Predictions: ...

    @overload
    def __call__(self, images: Columns, ids: None = None) -> dict[str, NDArray[Any]]: ...

    def __call__(
        self, images: Sequence[Photo] | Columns, ids: Sequence[str] | None = None
    ) -> Predictions | dict[str, NDArray[Any]]:
        """What all models together answer about the images, in their order.

        `ids` names them; left out, a path is its own name and others are numbered. Raises DataError, which names all
        images that cannot be read, and ValueError for an array that is no uint8 (height, width, 3).

        Columns by name are answered by columns, as programs want it that bring a batch at a time (Ray Data, Spark): see
        `_columns`.
        """
        if isinstance(images, Mapping):
            return self._columns(images)
        if isinstance(images, str | Path | bytes):
            raise ValueError("expected a list of images; put the one into a list")
        names = [*ids] if ids is not None else [_name(i, image) for i, image in enumerate(images)]
        if not images or len(names) != len(images) or len(set(names)) < len(names):
            raise ValueError(f"expected at least one image, and an id for each that no other has; got {some(names)}")
        answered = self.answered(images, names)
        bad = answered if isinstance(answered, Quarantine) else answered.quarantine
        if isinstance(answered, Quarantine) or bad:
            raise DataError(f"{len(bad)} of {len(images)} images cannot be read: {bad.some(len(bad))}")
        return answered.together.in_order(names, self.classes)

    def heatmap(self, image: Photo, label: str | None = None) -> NDArray[np.float32]:
        """Where on the image the models see what speaks for `label`, else for what they answer: (h, w) in [0, 1] of the
        whole upright photo, from corner to corner, the longer side at most 256; see `engine.inference.heatmaps`.

        The mean over the models and views of all runs; specialists are not asked. What no view looks at is 0. Other
        threads may ask and answer meanwhile. Raises DataError for a class that is not known and an image that cannot
        be read. `engine.predict.overlay` draws it on the photo.
        """
        name, nobody = _name(0, image), np.zeros(1, dtype=np.int64)
        if label is not None and label not in self.classes:
            raise DataError(f"no class {label!r}: the models know {some(self.classes)}")
        chosen = self([image], [name]).answers[0] if label is None else label
        samples = Samples([name], Memory([_content(image)]), nobody, nobody - 1)
        loader = Loader(samples, self._models.recipe.decode, self._device)
        with closing(loader.photos([np.arange(1)])) as decoded:
            photo = next((photos.images for photos in decoded), None)
            if photo is None:
                raise DataError(f"1 of 1 images cannot be read: {loader.quarantine.some(1)}")
            return heatmap(self._asking.members(), photo, chosen)

    def _columns(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """A batch of N images with the answers beside it: the columns that came, but for images themselves, and those
        of predictions.parquet: prediction, confidence, status, what the run has beside its answers (set, abstain, ...;
        None for an image that cannot be read) and p:CLASS for each class.

        The images are the column `image` (uint8 pixels), else `bytes` (files), else `path`. One that cannot be read is
        answered with the class shares of the training data, and its status says why. Raises ValueError when there is
        none of these columns.
        """
        found = next((name for name in _IMAGES if name in columns), None)
        if found is None:
            raise ValueError(f"expected a column {', '.join(_IMAGES[:-1])} or {_IMAGES[-1]}; got {some(list(columns))}")
        names = [str(row) for row in range(len(columns[found]))]
        p_NC = np.tile(blind_together(self._models), (len(names), 1))
        status = [OK] * len(names)
        others: dict[str, NDArray[Any]] = {}
        if names:
            answered = self.answered(list(columns[found]), names)
            for name, entry in (answered if isinstance(answered, Quarantine) else answered.quarantine).items():
                status[int(name)] = str(entry.fault)
            if not isinstance(answered, Quarantine):
                together = answered.together.in_order(answered.together.ids, self.classes)
                rows = [int(name) for name in together.ids]
                p_NC[rows] = together.probabilities_NC
                for name, values in answered.columns.items():
                    others[name] = np.full(len(names), None, dtype=object)
                    for row, value in zip(rows, values.to_pylist(), strict=True):
                        others[name][row] = value
        beside = {name: np.asarray(values) for name, values in columns.items() if name not in _IMAGES[:-1]}
        answers = {
            "prediction": np.array(self.classes, dtype=object)[p_NC.argmax(1)],
            "confidence": p_NC.max(1).astype(np.float32),
            "status": np.array(status, dtype=object),
        }
        probabilities = {P + name: p_NC[:, c].astype(np.float32) for c, name in enumerate(self.classes)}
        return beside | answers | others | probabilities

    def answered(self, images: Sequence[Photo], names: Sequence[str]) -> Answered | Quarantine:
        """All that is known of the images' answers, by these names, with the faults of those that cannot be read; the
        faults alone when none can be."""
        contents = [_content(image) for image in images]
        nobody = np.zeros(len(images), dtype=np.int64)  # keys and labels are of no use here
        return self._asking(Samples(names, Memory(contents), nobody, nobody - 1), np.arange(len(images)))


def _name(number: int, image: Photo) -> str:
    return str(image) if isinstance(image, str | Path) else str(number)


def _content(image: Photo) -> bytes | Fault:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return read_file(str(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected RGB pixels, uint8 (height, width, 3), got {image.dtype} {image.shape}")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "BMP")
    return file.getvalue()
