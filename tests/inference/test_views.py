"""Every view really is shown to the model: one that says what it sees is held to what PIL makes of the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine.augment.contract import Contract
from engine.augment.views import VIEWS, View, crop_views, tta_views, view_named
from engine.errors import RecipeError
from engine.inference.ask import check_views
from engine.inference.member import Member
from engine.inference.members import Members
from engine.kernels import Ragged
from engine.model.runtime import Runtime
from engine.recipe.sections import ModelSection

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.25), (0.2, 0.25, 0.3)
CELLS = FINE = 4
ZOOM = {"zoom_in": 1.15, "zoom_out": 0.87, "closer": 1.3, "farther": 0.75}
CORNER = {
    "center": (0.5, 0.5),
    "upper_left": (0, 0),
    "upper_right": (1, 0),
    "lower_left": (0, 1),
    "lower_right": (1, 1),
}
TURN = {"turn_90": Image.Transpose.ROTATE_90, "turn_180": Image.Transpose.ROTATE_180}
TURN |= {"turn_270": Image.Transpose.ROTATE_270}


class Witness(nn.Module):
    """Answers with the height and width that it is shown, and the mean colours of 4 x 4 cells, as they were before
    normalisation."""

    head = nn.Identity()

    def features(self, images_BCHW: Tensor) -> Tensor:
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        seen = nn.functional.adaptive_avg_pool2d(images_BCHW * std_C11 + mean_C11, CELLS).flatten(1)
        size = torch.tensor(images_BCHW.shape[2:]).float().expand(len(images_BCHW), 2)
        return torch.cat([size, seen], 1)


def photo_of_places(height: int, width: int) -> np.ndarray:
    """Red says how far to the right a pixel is, green how far down; blue is the same everywhere."""
    y_H1, x_1W = (np.arange(height) + 0.5)[:, None] / height, (np.arange(width) + 0.5)[None] / width
    red, green = np.broadcast_to(x_1W, (height, width)), np.broadcast_to(y_H1, (height, width))
    return (np.stack([red, green, np.ones((height, width))], 2) * 255).round().astype(np.uint8)


def said_of(views: list[View], contract: Contract, photo: np.ndarray) -> Tensor:
    """What the witness says of the views, (V, 2 + 3 * 4 * 4)."""
    runtime = Runtime(CPU, bf16=False, channels_last=True, compile=False)
    member = Member(Witness(), contract, runtime, ("a", "b"))  # type: ignore[arg-type]
    return Members([member], views).logits(Ragged([torch.from_numpy(photo)]))[0][:, 0]


def box_by_hand(fit: str, crop: float, photo: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the part of a photo (width, height) that is shown in images of a size (width, height)."""
    if fit == "stretch":
        return photo
    across, down = photo[0] / size[0], photo[1] / size[1]
    step = max(across, down) if fit == "letterbox" else min(across, down) * crop
    return step * size[0], step * size[1]


def by_pil(name: str, contract: Contract, photo: np.ndarray) -> np.ndarray:
    """The view of the photo as PIL makes it, 4 times as fine: (4 height, 4 width, 3) in 0 to 1."""
    base, image = name.removesuffix("_flip"), Image.fromarray(photo)
    scale = float(base.removeprefix("scale_")) if base.startswith("scale_") else 1.0
    size = (round(contract.width * scale), round(contract.height * scale))
    fit, crop = (base.removeprefix("fit_"), 1.0) if base.startswith("fit_") else (contract.fit, contract.crop)
    width, height = box_by_hand(fit, crop, image.size, size)
    if base in TURN:
        image = image.transpose(TURN[base])
        if base != "turn_180":  # what lay is to stand, all of it, in images that still lie
            whole = (height, width) if fit == "center" else image.size
            width, height = box_by_hand("stretch" if fit == "stretch" else "letterbox", 1, whole, size)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    zoom, (right, down) = ZOOM.get(base, 256 / 224 if base in CORNER else 1.0), CORNER.get(base, (0.5, 0.5))
    left, top = left + right * width * (1 - 1 / zoom), top + down * height * (1 - 1 / zoom)
    box = (left, top, left + width / zoom, top + height / zoom)
    size = (FINE * size[0], FINE * size[1])
    ground = Image.new("RGB", size, tuple(round(255 * mean) for mean in MEAN))
    bilinear = Image.Resampling.BILINEAR
    seen, where = (
        one.transform(size, Image.Transform.EXTENT, box, bilinear) for one in (image, Image.new("L", image.size, 255))
    )
    ground.paste(seen, mask=where.point(lambda inside: 255 if inside else 0))
    seen_HW3 = np.asarray(ground) / 255
    return seen_HW3[:, ::-1] if name.endswith("_flip") else seen_HW3


def cells(seen_HW3: np.ndarray) -> np.ndarray:
    """Mean colours of 4 x 4 cells."""
    pooled = nn.functional.adaptive_avg_pool2d(torch.from_numpy(seen_HW3.copy()).permute(2, 0, 1), CELLS)
    return pooled.flatten().numpy()


@pytest.mark.parametrize(("fit", "crop"), [("letterbox", 1.0), ("center", 0.875), ("center", 1.0), ("stretch", 1.0)])
@pytest.mark.parametrize("shape", [(240, 400), (300, 200)])
@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_every_view_is_what_its_name_says(fit: str, crop: float, shape: tuple[int, int], size: tuple[int, int]) -> None:
    contract = Contract(height=size[0], width=size[1], mean=MEAN, std=STD, fit=fit, crop=crop)
    photo = photo_of_places(*shape)
    said = said_of([*VIEWS.values()], contract, photo).numpy()
    for name, says in zip(VIEWS, said, strict=True):
        expected_HW3 = by_pil(name, contract, photo)
        assert tuple(FINE * says[:2]) == expected_HW3.shape[:2], name
        np.testing.assert_allclose(says[2:], cells(expected_HW3), atol=0.02, err_msg=name)


def test_no_two_views_show_the_same() -> None:
    """But for the fit that the contract has anyway."""
    contract = Contract(height=64, width=96, mean=MEAN, std=STD, fit="center", crop=0.8)
    said = said_of([*VIEWS.values()], contract, photo_of_places(240, 400))
    distances_VV = (said[:, None] - said[None]).norm(dim=2) + torch.eye(len(said))
    assert distances_VV.min() > 0.004  # zoom_in and center are near each other


def test_a_turned_view_shows_all_that_the_contract_shows() -> None:
    """A dot in each corner of the contract's image is found in the turned one, also where that is not square."""
    for fit in ("center", "letterbox", "stretch"):
        contract = Contract(height=64, width=96, mean=MEAN, std=STD, fit=fit)
        photo = np.zeros((400, 300, 3), np.uint8)
        photo[110:290, 10:290] = 100  # within the largest part of 3 by 2: rows 100 to 300
        photo[110:125, 10:25], photo[110:125, 275:290], photo[275:290, 10:25] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        for name in ("turn_90", "turn_180", "turn_270"):
            seen = by_members(name, contract, photo)
            assert all((seen[..., c] > 0.3).any() and seen[..., c].argmax() for c in range(3)), (fit, name)


def by_members(name: str, contract: Contract, photo: np.ndarray) -> np.ndarray:
    """The view's pixels as a model is shown them, in 0 to 1 for colours above the grey of the test."""
    seen: list[Tensor] = []

    class Camera(nn.Module):
        head = nn.Identity()

        def features(self, images_BCHW: Tensor) -> Tensor:
            seen.append(images_BCHW.clone())
            return images_BCHW.new_zeros(len(images_BCHW), 2)

    runtime = Runtime(CPU, bf16=False, channels_last=True, compile=False)
    member = Member(Camera(), contract, runtime, ("a", "b"))  # type: ignore[arg-type]
    Members([member], [view_named(name)]).logits(Ragged([torch.from_numpy(photo)]))
    pixels_BCHW = seen[-1]  # before that, noise: whether all places of a batch are alike
    pixels_HW3 = pixels_BCHW[0].permute(1, 2, 0).numpy() * np.array(STD) + np.array(MEAN)
    others_HW3 = np.stack([np.delete(pixels_HW3, c, 2).max(2) for c in range(3)], 2)
    return pixels_HW3 - others_HW3


def test_sizes_are_those_that_networks_divide() -> None:
    sizes = {side: [VIEWS[f"scale_{scale}"].size(side, side)[0] for scale in (0.75, 1.25, 1.5)] for side in (32, 224)}
    assert sizes == {32: [24, 40, 48], 224: [168, 280, 336]}
    assert VIEWS["scale_1.25"].size(384, 300) == (480, 376)
    assert VIEWS["scale_1.5"].cost(64, 96) == 2.25 and VIEWS["closer"].cost(64, 96) == 1


def test_a_model_that_cannot_take_another_size_is_refused_by_the_views_name() -> None:
    fixed = ModelSection(backbone="mixer_s32_224", pretrained=False)
    check_views(
        [*tta_views(10), *crop_views(10), *(VIEWS[f"turn_{turn}"] for turn in (90, 180))], fixed, (224, 224), (224, 224)
    )
    with pytest.raises(RecipeError, match=r"view scale_1\.25 .*280 x 280.*mixer_s32_224.*Leave it out"):
        check_views([VIEWS["plain"], VIEWS["scale_1.25"]], fixed, (224, 224), (224, 224))
    free = ModelSection(backbone="test_convnext", pretrained=False)
    check_views([*VIEWS.values()], free, (64, 64), (64, 64))
