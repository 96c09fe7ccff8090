"""How photos are read in deployments, other than by the pass: what other decoders, resizes and normalisations make of a
file. Each is what people write, in the libraries they write it with, so that it can be recognised by its answers.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from engine import pictures
from engine.augment.contract import Contract
from engine.augment.views import view_plan
from engine.export.proof import Shown
from engine.kernels import Plan, Ragged
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


def by_fast_dct(content: bytes) -> Pixels:
    """By libjpeg's quick and rough transform, which TensorFlow asks for where nothing else is said."""
    if not content.startswith(b"\xff\xd8"):
        return upright(content)
    stored = simplejpeg.decode_jpeg(content, fastdct=True, fastupsample=True)
    orientation = Image.open(io.BytesIO(content)).getexif().get(0x0112, 1)
    return np.ascontiguousarray(pictures.upright(stored, orientation))


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


Resize = Callable[[NDArray[np.float32], tuple[int, int]], NDArray[np.float32]]
"""Shares of light (H, W, 3) to (height, width)."""


def pillow(filter: Image.Resampling) -> Resize:
    """In 8 bits, antialiased but for the nearest."""

    def resize(photo_HW3: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        image = Image.fromarray(np.rint(photo_HW3 * 255).astype(np.uint8)).resize(size[::-1], filter)
        return np.asarray(np.asarray(image, dtype=np.float32) / 255, dtype=np.float32)

    return resize


def interpolated(mode: str) -> Resize:
    """By torch without antialiasing, and so nearly by OpenCV: "bilinear" or "bicubic"."""

    def resize(photo_HW3: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        photo_13HW = torch.from_numpy(photo_HW3).permute(2, 0, 1)[None]
        found = torch.nn.functional.interpolate(photo_13HW, size, mode=mode, align_corners=False)
        return np.asarray(found[0].permute(1, 2, 0).clamp(0, 1))

    return resize


def in_whole_pixels(resize: Resize, in_8_bits: bool = False) -> Reading:
    """As the contract fits photos, in whole pixels, by another resize; `in_8_bits`: the ground of a letterbox, too."""

    def read(pixels_HW3: Pixels, shown: Shown) -> Array:
        contract = shown.view.contract(shown.contract)
        photo_HW3 = np.rot90(pixels_HW3, shown.view.turns).astype(np.float32) / 255
        fitted_HW3 = _fitted(np.ascontiguousarray(photo_HW3), contract, resize, shown.view.zoom, shown.view.anchor)
        if in_8_bits:
            fitted_HW3 = np.asarray(np.rint(fitted_HW3 * 255) / 255, dtype=np.float32)
        if shown.view.flip:
            fitted_HW3 = fitted_HW3[:, ::-1]
        return normalised(fitted_HW3, contract.mean, contract.std)

    return read


def _fitted(
    photo_HW3: NDArray[np.float32], contract: Contract, resize: Resize, zoom: float, anchor: tuple[float, float]
) -> NDArray[np.float32]:
    """The part of the contract's image that a view shows, of which `zoom` is larger than a side: resized, then cut out
    or set upon the contract's mean."""
    size, photo = np.array([contract.height, contract.width]), np.array(photo_HW3.shape[:2])
    shares = size / photo
    if contract.fit != "stretch":
        shares[:] = shares.min() if contract.fit == "letterbox" else shares.max() / contract.crop
    whole = np.maximum(1, np.rint(photo * shares * zoom)).astype(int)
    resized_HW3 = resize(photo_HW3, (int(whole[0]), int(whole[1])))
    # Where the view begins in the resized photo: the middle of both is the same, moved by the anchor.
    spare = size * zoom - size
    begin = np.trunc((whole - size * zoom) / 2 + spare * np.array(anchor[::-1])).astype(int)
    made_HW3 = np.empty((*size, 3), np.float32)
    made_HW3[:] = np.array(contract.mean, np.float32)
    low, high = np.maximum(begin, 0), np.minimum(begin + size, whole)
    to, until = low - begin, high - begin
    made_HW3[to[0] : until[0], to[1] : until[1]] = resized_HW3[low[0] : high[0], low[1] : high[1]]
    return made_HW3


# --- normalisation ---------------------------------------------------------------------------------------------------


def normalised(shares_HW3: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Shares of light, 0 to 1, as networks are shown them."""
    made_HW3 = (shares_HW3 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(made_HW3.transpose(2, 0, 1), dtype=np.float32)


def shares(shown_3HW: Array, shown: Shown) -> Array:
    """Back from what networks are shown to shares of light, (h, w, 3)."""
    mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (shown.contract.mean, shown.contract.std))
    return np.ascontiguousarray((shown_3HW * std + mean).transpose(1, 2, 0))
