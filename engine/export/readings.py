"""How photos are read in deployments, other than by the pass: what other decoders, resizes and normalisations make of a
file. Each is what people write, in the libraries they write it with, so that it can be recognised by its answers.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine.augment.views import view_plan
from engine.export.proof import Shown
from engine.kernels import Filter, Plan, Ragged
from engine.kernels.dispatch import one_pass

Pixels = NDArray[np.uint8]  # (H, W, 3), RGB
Array = NDArray[np.float32]  # (3, h, w), normalised
Decoding = Callable[[bytes], Pixels]
Reading = Callable[[Pixels, Shown], Array]

HOST = torch.device("cpu")
BILINEAR, BICUBIC, LANCZOS, BOX, NEAREST = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
    Image.Resampling.NEAREST,
)

# --- from a file to pixels -------------------------------------------------------------------------------------------


def as_stored(content: bytes) -> Pixels:
    """Without what EXIF says of orientation."""
    return _rgb(Image.open(io.BytesIO(content)))


def upright(content: bytes) -> Pixels:
    return _rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))


def turned_wrongly(content: bytes) -> Pixels:
    """Turned the other way round: EXIF's rotation taken for the one that has happened."""
    image = Image.open(io.BytesIO(content))
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = turns.get(image.getexif().get(0x0112, 1))
    return _rgb(image if turn is None else image.transpose(turn))


def bgr(content: bytes) -> Pixels:
    """As OpenCV decodes."""
    return np.ascontiguousarray(upright(content)[:, :, ::-1])


def gray(content: bytes) -> Pixels:
    return _rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L"))


def mirrored(content: bytes) -> Pixels:
    return np.ascontiguousarray(upright(content)[:, ::-1])


def upside_down(content: bytes) -> Pixels:
    return np.ascontiguousarray(upright(content)[::-1])


def transposed(content: bytes) -> Pixels:
    """Rows taken for columns."""
    return np.ascontiguousarray(upright(content).transpose(1, 0, 2))


def compressed_again(content: bytes) -> Pixels:
    """Saved as a JPEG with Pillow's own settings on the way."""
    out = io.BytesIO()
    Image.fromarray(upright(content)).save(out, "JPEG")
    return _rgb(Image.open(io.BytesIO(out.getvalue())))


def stretched_before(size: tuple[int, int], filter: Image.Resampling) -> Decoding:
    """Pulled to the (height, width) that networks are shown, before the file resizes it."""
    return lambda content: np.asarray(Image.fromarray(upright(content)).resize(size[::-1], filter))


def made_small_before(size: tuple[int, int], filter: Image.Resampling) -> Decoding:
    """Its shorter side made as small as what networks are shown, before the file resizes it."""

    def decoded(content: bytes) -> Pixels:
        image = Image.fromarray(upright(content))
        share = max(size[0] / image.height, size[1] / image.width)
        return np.asarray(image.resize((round(image.width * share), round(image.height * share)), filter))

    return decoded


def _rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


# --- from pixels to what networks are shown --------------------------------------------------------------------------


def by_the_pass(pixels_HW3: Pixels, shown: Shown, change: Callable[[Plan], Plan] = lambda plan: plan) -> Array:
    """What the pass makes of a photo, by a plan that is changed."""
    photo = torch.from_numpy(np.array(pixels_HW3))
    plan = view_plan(shown.view, shown.contract, torch.tensor([photo.shape[:2]]), HOST)
    return np.asarray(one_pass(Ragged([photo]), change(plan))[0].contiguous())


def not_antialiased(filter: Filter) -> Reading:
    """As OpenCV and torch's interpolate read where nothing else is asked for."""
    return lambda pixels, shown: by_the_pass(
        pixels, shown, lambda plan: dataclasses.replace(plan, filter=filter, antialias=False)
    )


def by_filter(filter: Filter) -> Reading:
    return lambda pixels, shown: by_the_pass(pixels, shown, lambda plan: dataclasses.replace(plan, filter=filter))


def on_ground(color: float) -> Reading:
    """A letterbox's ground of this gray, 0 to 1, in place of the contract's mean."""

    def read(pixels_HW3: Pixels, shown: Shown) -> Array:
        ground_13 = torch.full((1, 3), color)
        return by_the_pass(pixels_HW3, shown, lambda plan: dataclasses.replace(plan, border_color_B3=ground_13))

    return read


def by_fit(fit: str, crop: float = 1.0) -> Reading:
    def read(pixels_HW3: Pixels, shown: Shown) -> Array:
        contract = dataclasses.replace(shown.contract, fit=fit, crop=crop)
        return by_the_pass(pixels_HW3, dataclasses.replace(shown, contract=contract))

    return read


def by_pillow(filter: Image.Resampling, fit: str = "", crop: float = 0.0) -> Reading:
    """Resized by Pillow, in whole pixels and 8 bits, fitted as the contract says or otherwise."""

    def read(pixels_HW3: Pixels, shown: Shown) -> Array:
        contract = shown.view.contract(shown.contract)
        image = Image.fromarray(np.rot90(pixels_HW3, shown.view.turns).copy())
        size = (contract.width, contract.height)
        mean = tuple(round(255 * value) for value in contract.mean)
        fitted = _fitted(image, fit or contract.fit, crop or contract.crop, size, filter, mean)
        if shown.view.zoom != 1:
            fitted = _zoomed(image, shown, filter)
        if shown.view.flip:
            fitted = ImageOps.mirror(fitted)
        return normalised(np.asarray(fitted, dtype=np.float32) / 255, contract.mean, contract.std)

    return read


def _fitted(
    image: Image.Image,
    fit: str,
    crop: float,
    size: tuple[int, int],
    filter: Image.Resampling,
    ground: tuple[int, ...],
) -> Image.Image:
    width, height = size
    if fit == "stretch":
        return image.resize(size, filter)
    if fit == "letterbox":
        share = min(width / image.width, height / image.height)
        small = image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), filter)
        made = Image.new("RGB", size, ground)
        made.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
        return made
    share = max(width / crop / image.width, height / crop / image.height)
    large = image.resize((math.ceil(image.width * share - 1e-6), math.ceil(image.height * share - 1e-6)), filter)
    left, top = round((large.width - width) / 2), round((large.height - height) / 2)
    return large.crop((left, top, left + width, top + height))


def _zoomed(image: Image.Image, shown: Shown, filter: Image.Resampling) -> Image.Image:
    """Read by Pillow out of the box that the view looks at; what lies outside the photo has the mean's colour."""
    contract = shown.view.contract(shown.contract)
    plain = dataclasses.replace(shown.view, flip=False, turns=0)
    plan = view_plan(plain, shown.contract, torch.tensor([[image.height, image.width]]), HOST)
    (a, _, c), (_, e, f) = plan.matrix_B33[0, :2].tolist()
    box = (c, f, c + a * contract.width, f + e * contract.height)
    margin = math.ceil(max(0.0, -box[0], -box[1], box[2] - image.width, box[3] - image.height))
    mean = tuple(round(255 * value) for value in contract.mean)
    whole = ImageOps.expand(image, margin, mean) if margin else image
    moved = tuple(value + margin for value in box)
    limits = (0, 0, whole.width, whole.height)
    inside = tuple(
        max(limit, value) if place < 2 else min(limit, value)
        for place, (value, limit) in enumerate(zip(moved, limits, strict=True))
    )
    return whole.resize((contract.width, contract.height), filter, box=inside)  # type: ignore[arg-type]


# --- normalisation ---------------------------------------------------------------------------------------------------


def normalised(shares_HW3: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Shares of light, 0 to 1, as networks are shown them."""
    made_HW3 = (shares_HW3 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(made_HW3.transpose(2, 0, 1), dtype=np.float32)


def shares(shown_3HW: Array, shown: Shown) -> Array:
    """Back from what networks are shown to shares of light, (h, w, 3)."""
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (shown.contract.mean, shown.contract.std))
    return np.ascontiguousarray((shown_3HW * std + mean).transpose(1, 2, 0))
