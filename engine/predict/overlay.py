"""A heatmap on its photo, for people.

Colour and strength both say how much: what is cold stays the photo as it is, so that nothing is hidden where the model
did not look. The colours get lighter all the way (black-body, from dark red to a pale yellow), so that a print in gray,
and people who do not tell red from green, read them alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_HEAT = np.array([[90, 0, 20], [200, 30, 20], [245, 130, 20], [255, 215, 70], [255, 250, 190]], dtype=np.float32)
_STRONGEST = 0.75  # of a pixel is the heat's at the most: what lies there is still to be seen


def overlay(photo: Image.Image, heat_HW: NDArray[np.float32]) -> Image.Image:
    """The photo (upright), RGB and of its own size, with the heat, (h, w) in [0, 1] from corner to corner of it, drawn
    over it. Raises ValueError for a heat of another kind."""
    if heat_HW.ndim != 2 or not heat_HW.size or not (heat_HW >= 0).all() or heat_HW.max() > 1:
        raise ValueError(f"expected a heat (h, w) from 0 to 1, got {heat_HW.dtype} {heat_HW.shape}")
    large = Image.fromarray(heat_HW.astype(np.float32)).resize(photo.size, Image.Resampling.BILINEAR)
    share_HW = np.clip(np.asarray(large), 0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    color_HW3 = np.stack([np.interp(share_HW, steps, _HEAT[:, c]) for c in range(3)], axis=2)
    weight_HW1 = _STRONGEST * np.sqrt(share_HW)[..., None]
    pixels_HW3 = np.asarray(photo.convert("RGB"), dtype=np.float32)
    return Image.fromarray(np.rint(pixels_HW3 + weight_HW1 * (color_HW3 - pixels_HW3)).astype(np.uint8))
