"""A run's models as one callable: what `engine infer` does, for images at hand.

Arrays take the way of files (as BMP, which holds exactly their pixels), so that a photo is answered alike however it
comes: one way in, one set of rules on what is an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.ensemble.vote import Rule
from engine.errors import DataError, RecipeError
from engine.loader.batches import Samples
from engine.loader.source import Memory
from engine.predict.asking import Asking
from engine.predict.models import Wishes, load_models
from engine.predictions import Predictions
from engine.quarantine import Fault, Quarantine, read_file
from engine.text import some

Photo = str | Path | bytes | NDArray[np.uint8]
"""A path, a file's content, or upright RGB pixels (height, width, 3)."""


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
        self._models = load_models(
            [*map(Path, folders)], Wishes(views=tta, named=tuple(views), vote=vote, sets=tuple(sets))
        )
        if self._models.recipe.predict.prior == "estimate":
            raise RecipeError(
                "predict.prior: shares are estimated from the answers to all images, and here photos are answered as "
                'they come; give the shares, or sets=["predict.prior=off"]'
            )
        self._asking = Asking(self._models, torch.device(device or ("cuda" if on_gpu else "cpu")))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what it tells apart, in the order of the columns of its answers."""
        return self._models.classes

    def __call__(self, images: Sequence[Photo], ids: Sequence[str] | None = None) -> Predictions:
        """What all models together answer about the images, in their order.

        `ids` names them; left out, a path is its own name and others are numbered. Raises DataError, which names all
        images that cannot be read, and ValueError for an array that is no uint8 (height, width, 3).
        """
        names = [*ids] if ids is not None else [_name(i, image) for i, image in enumerate(images)]
        if not images or len(names) != len(images) or len(set(names)) < len(names):
            raise ValueError(f"expected at least one image, and an id for each that no other has; got {some(names)}")
        contents = [_content(image) for image in images]
        nobody = np.zeros(len(images), dtype=np.int64)  # keys and labels are of no use here
        answered = self._asking(Samples(names, Memory(contents), nobody, nobody - 1), np.arange(len(images)))
        bad = answered if isinstance(answered, Quarantine) else answered.quarantine
        if isinstance(answered, Quarantine) or bad:
            raise DataError(f"{len(bad)} of {len(images)} images cannot be read: {bad.some(len(bad))}")
        return answered.together.in_order(names, self.classes)


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
