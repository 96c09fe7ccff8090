"""The photos that a page shows: where they lie, and small pictures of them that stand in the page itself.

A page has room for some megabytes, whatever the photos are; noise compresses badly and a scan of a page well. So a
picture has a number of bytes that it may take, and is made smaller until it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.pictures import thumbnail
from engine.predict.overlay import overlay
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection
from engine.report.page import data_url

LARGE, SMALL = 340, 200  # pixels of the longer side: in galleries, beside a pair of classes
_BYTES = {LARGE: 16_000, SMALL: 9_000}
_WARM_BYTES = 11_000  # with heat on it
_QUALITIES = (76, 60, 40)


class Photos:
    """Pictures by sample id; each is made once. paths: of the photos that may be asked for."""

    def __init__(self, paths: Mapping[str, str], decode: DecodeSection) -> None:
        self._paths, self._decode = paths, decode
        self._made: dict[tuple[str, int], str] = {}

    def path(self, id_: str) -> Path | None:
        """Where a photo lies; None where that is not known, or it is gone."""
        path = self._paths.get(id_)
        return Path(path) if path and Path(path).is_file() else None

    def url(self, id_: str, side: int = LARGE) -> str:
        """A picture no larger than `side`, as a data URL; "" for a photo that is gone or cannot be read."""
        if (id_, side) not in self._made:
            path = self.path(id_)
            self._made[id_, side] = "" if path is None else self._make(path, side)
        return self._made[id_, side]

    def warm_url(self, id_: str, heat_HW: NDArray[np.float32]) -> str:
        """The large picture with heat drawn over it; "" as `url`."""
        path = self.path(id_)
        small = None if path is None else self._small(path, LARGE)
        return "" if small is None else small_url(overlay(small, heat_HW), _WARM_BYTES)

    def _make(self, path: Path, side: int) -> str:
        small = self._small(path, side)
        return "" if small is None else small_url(small, _BYTES[side])

    def _small(self, path: Path, side: int) -> Image.Image | None:
        small = thumbnail(str(path), (side, side), self._decode.background, self._decode.max_megapixels)
        return None if isinstance(small, Fault) else small


def small_url(picture: Image.Image, most: int) -> str:
    """A JPEG of at most so many bytes."""
    while True:
        for quality in _QUALITIES:
            url = data_url(picture, quality)
            if len(url) * 3 / 4 <= most:
                return url
        if max(picture.size) <= 32:
            return url
        width, height = picture.size
        picture = picture.resize((max(1, width * 3 // 4), max(1, height * 3 // 4)), Image.Resampling.BILINEAR)
