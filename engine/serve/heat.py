"""Where the model looked on a photo, as a picture of it or as numbers."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.pictures import read_pixels
from engine.predict.overlay import overlay
from engine.quarantine import Fault
from engine.serve.photo import Photo
from engine.serve.problems import Problem

Format = Literal["png", "jpeg", "json"]
_LONGEST = 1024  # of the picture's sides, in pixels: the heat itself has no more than 256
_QUALITY = 90


def shown(photo: Photo) -> Image.Image | Problem:
    """The photo upright, as large as its heat is drawn on it, or why it cannot be seen."""
    pixels_HW3 = read_pixels(photo.content)
    if isinstance(pixels_HW3, Fault):
        return Problem.of(pixels_HW3)
    picture = Image.fromarray(pixels_HW3)
    picture.thumbnail((_LONGEST, _LONGEST))
    return picture


def drawn(picture: Image.Image, heat_HW: NDArray[np.float32], format_: Literal["png", "jpeg"]) -> bytes:
    """The heat on the picture, as a file."""
    file = io.BytesIO()
    overlay(picture, heat_HW).save(file, format_.upper(), quality=_QUALITY)
    return file.getvalue()


def numbers(label: str, heat_HW: NDArray[np.float32]) -> dict[str, Any]:
    """The heat as JSON values, to four places."""
    height, width = heat_HW.shape
    heat = [[round(value, 4) for value in row] for row in heat_HW.tolist()]
    return {"label": label, "height": height, "width": width, "heat": heat}
