"""The photos that a page shows: where they lie, and small pictures of them that stand in the page itself.

A page has room for some megabytes, whatever the photos are; noise compresses badly and a scan of a page well. So a
picture has a number of bytes that it may take, and is made smaller until it does.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.pictures import thumbnail
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection
from engine.report.page import data_url

LARGE, SMALL = 300, 150  # pixels of the longer side: in galleries, beside a pair of classes
_BYTES = {LARGE: 20_000, SMALL: 7_000}
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

    def _make(self, path: Path, side: int) -> str:
        small = thumbnail(str(path), (side, side), self._decode.background, self._decode.max_megapixels)
        return "" if isinstance(small, Fault) else small_url(small, _BYTES[side])


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


def heat_url(heat_HW: NDArray[np.floating]) -> str:
    """Heat from 0 to 1 as a picture to lie over a photo: nothing where it is cold, and the warmer the denser. A few
    dozen pixels are enough; the browser smooths them."""
    import base64

    picture = Image.fromarray((np.clip(heat_HW, 0, 1) * 255).round().astype(np.uint8))
    picture.thumbnail((48, 48), Image.Resampling.BILINEAR)
    warm_HW = np.asarray(picture, dtype=np.float32) / 255
    # From deep red over orange to yellow; dense from a third on.
    rgba_HW4 = np.stack(
        [
            np.interp(warm_HW, [0, 0.5, 1], [150, 240, 255]),
            np.interp(warm_HW, [0, 0.5, 1], [10, 90, 225]),
            np.interp(warm_HW, [0, 0.5, 1], [60, 20, 70]),
            np.interp(warm_HW, [0, 0.15, 0.6, 1], [0, 0, 150, 205]),
        ],
        axis=-1,
    )
    file = io.BytesIO()
    Image.fromarray(rgba_HW4.round().astype(np.uint8), "RGBA").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
