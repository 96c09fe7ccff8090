"""Where a model looked: the place that was looked at is hot, whatever the backbone, and nobody's answers change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import captum.attr
import numpy as np
import pytest
import timm
import torch
from torch import Generator, Tensor, nn

from engine.augment.contract import Contract
from engine.augment.views import PLAIN, View, tta_views, view_named
from engine.inference.heatmaps import class_map, heatmap
from engine.inference.member import Member
from engine.inference.members import Members
from engine.kernels import Ragged
from engine.model.build import Classifier, build_model
from engine.model.heads import LinearHead
from engine.model.runtime import Runtime
from engine.recipe.load import parse_recipe
from engine.store.checkpoint import Checkpoint

CPU = torch.device("cpu")


def built(backbone: str, size: tuple[int, int] = (64, 64), **model: Any) -> Classifier:
    """A model of random weights, in evaluation mode."""
    recipe = parse_recipe(
        {
            "model": {"backbone": backbone, "pretrained": False, **model},
            "stage": [{"size": [*size], "batch": 4, "epochs": 1, "lr": 1e-3}],
        }
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        return build_model(recipe.model, 5, size).eval()


def noise(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def scaled(map_HW: Tensor) -> Tensor:
    positive = map_HW.clamp(min=0)
    return positive / positive.max()


@pytest.mark.parametrize(
    ("backbone", "layer", "head"),
    [("resnet10t", "layer4", "linear"), ("test_efficientnet", "bn2", "linear"), ("test_convnext", "stages", "arcface")],
)
def test_behind_an_average_it_is_grad_cam(backbone: str, layer: str, head: str) -> None:
    model, image = built(backbone, (128, 128), head=head), noise(128, 128)
    oracle = captum.attr.LayerGradCam(model, getattr(model.backbone, layer)).attribute(image, target=2)[0, 0].detach()
    torch.testing.assert_close(scaled(class_map(model, image, 2)), scaled(oracle), atol=1e-4, rtol=1e-3)


def test_behind_a_generalised_mean_places_count_for_what_was_taken_from_them() -> None:
    model, image = built("resnet10t", (128, 128), pooling="gem"), noise(128, 128)
    taken = captum.attr.LayerGradientXActivation(model, model.backbone.layer4).attribute(image, target=1)
    torch.testing.assert_close(class_map(model, image, 1), 16 * taken.detach()[0].sum(0), atol=1e-6, rtol=1e-3)


def test_of_two_maps_each_counts_for_what_was_pooled_of_it() -> None:
    """Behind norms, what is taken in one place lacks in another: both maps together come to nothing."""
    model, image = built("resnet10t", (128, 128), pooling="gem2"), noise(128, 128)
    map_HW = class_map(model, image, 1)
    assert map_HW.shape == (8, 8)
    assert abs(map_HW.mean()) < 1e-2 * map_HW.abs().mean()


def test_tokens_that_a_class_token_asks_count_for_what_it_takes() -> None:
    model, image = built("test_vit"), noise()
    taken = captum.attr.LayerGradientXActivation(model, model.backbone.blocks[-1].norm1).attribute(image, target=1)
    expected = 16 * taken.detach()[0, 1:].sum(1).view(4, 4)
    torch.testing.assert_close(class_map(model, image, 1), expected, atol=1e-6, rtol=1e-3)


FAMILIES: dict[str, tuple[tuple[int, int], int, dict[str, Any]]] = {
    "test_resnet": ((2, 2), 64, {}),
    "test_byobnet": ((2, 2), 64, {}),
    "test_nfnet": ((2, 2), 64, {}),
    "mobilenetv3_small_050": ((2, 2), 64, {}),
    "densenet121": ((2, 2), 64, {"block_config": (1, 1, 1, 1)}),
    "test_convnext2": ((2, 2), 64, {}),
    "test_mambaout": ((2, 2), 64, {}),  # channels last
    "swin_tiny_patch4_window7_224": (
        (2, 2),
        64,
        {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 2, 2)},
    ),
    "hiera_tiny_224": ((2, 2), 64, {"img_size": 64, "embed_dim": 24, "stages": (1, 1, 1, 1)}),
    "test_coatnet": ((4, 4), 128, {"img_size": 128}),  # convolutions, then attention
    "vit_tiny_r_s16_p8_224": ((2, 2), 64, {"img_size": 64, "depth": 2}),
    "levit_128s": ((4, 4), 224, {"depth": (1, 1, 1)}),  # tokens, averaged
    "test_vit": ((4, 4), 64, {"img_size": 64}),  # tokens, and one that asks them
    "test_vit4": ((4, 4), 64, {"img_size": 64}),  # and registers
    "deit_tiny_distilled_patch16_224": ((4, 4), 64, {"img_size": 64, "depth": 2, "embed_dim": 48}),
    "beit_base_patch16_224": ((4, 4), 64, {"img_size": 64, "depth": 2, "embed_dim": 48}),
    "cait_xxs24_224": ((4, 4), 64, {"img_size": 64, "depth": 1}),
    "xcit_nano_12_p16_224": ((4, 4), 64, {"img_size": 64, "depth": 1}),
    "pit_ti_224": ((7, 7), 224, {"depth": (1, 1, 1)}),
    "crossvit_9_240": ((20, 20), 240, {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))}),  # two lots of tokens
}
"""The map that tells where, the images' size, and what makes the backbone a small one of its kind."""


@pytest.mark.parametrize("backbone", FAMILIES)
def test_any_backbone_tells_where_and_answers_as_before(backbone: str) -> None:
    shape, size, options = FAMILIES[backbone]
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        network = timm.create_model(backbone, num_classes=0, **options)
        model, image = Classifier(network, None, LinearHead(_width(network, size), 5)), noise(size, size)
    with torch.no_grad():
        before = model.eval()(image)
    model.train()
    map_HW = class_map(model, image, 4)
    assert map_HW.shape == shape and map_HW.abs().max() > 0 and map_HW.isfinite().all()
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model.eval()(image), before)


def _width(network: nn.Module, size: int) -> int:
    """Of the vector that it answers."""
    with torch.no_grad():
        return int(network.eval()(torch.zeros(1, 3, size, size)).shape[1])


def test_where_the_last_map_has_one_place_an_earlier_one_tells() -> None:
    map_HW = class_map(built("test_convnext", (32, 32)), noise(32, 32), 0)
    assert map_HW.shape == (2, 2) and map_HW.abs().max() > 0


def test_a_model_that_learnt_to_find_a_spot_is_seen_to_look_at_it() -> None:
    """Red spots are of one class and blue ones of the other, wherever they are."""
    model, random = built("test_resnet").train(), torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.3  # few steps are taken
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        images_BCHW, colors_B, _ = spots(8, random)
        loss = nn.functional.cross_entropy(model(images_BCHW), colors_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images_BCHW, colors_B, corners_B2 = spots(12, random)
    for image, color, (y, x) in zip(images_BCHW, colors_B.tolist(), corners_B2.tolist(), strict=True):
        map_HW = class_map(model, image[None], color)
        assert map_HW.shape == (2, 2) and int(map_HW.argmax()) == 2 * y + x


def spots(count: int, random: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a red (0) or blue (1) spot in one of its four corners, (y, x) of 0 or 1."""
    images_BCHW = 0.5 * torch.randn(count, 3, 64, 64, generator=random)
    colors_B = torch.randint(0, 2, (count,), generator=random)
    corners_B2 = torch.randint(0, 2, (count, 2), generator=random)
    for image, color, (y, x) in zip(images_BCHW, colors_B.tolist(), corners_B2.tolist(), strict=True):
        image[2 * color, 32 * y + 8 : 32 * y + 24, 32 * x + 8 : 32 * x + 24] += 3
    return images_BCHW, colors_B, corners_B2


class Redness(nn.Module):
    """A backbone whose one channel is how red each place is."""

    num_features = 1

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images_BCHW[:, :1] - images_BCHW[:, 1:2], 4)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.forward_features(images_BCHW).mean((2, 3))


def looking_for_red(views: Sequence[View] = (PLAIN,), **contract: Any) -> Members:
    head = LinearHead(1, 2)
    nn.init.constant_(head.linear.weight, 1.0)
    runtime = Runtime(CPU, bf16=False, channels_last=True, compile=False)
    own = Contract(**{"height": 64, "width": 64, "mean": (0.0,) * 3, "std": (1.0,) * 3} | contract)
    return Members([Member(Classifier(Redness(), None, head), own, runtime, ("red", "as red"))], views)


def red_at(x: int, y: int, height: int = 120, width: int = 200) -> Ragged:
    """A gray photo with a red square of 24 pixels at these."""
    pixels_HW3 = torch.full((height, width, 3), 100, dtype=torch.uint8)
    pixels_HW3[y : y + 24, x : x + 24] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    return Ragged([pixels_HW3])


def middle(heat_HW: np.ndarray) -> tuple[float, float]:
    """The centre (x, y) of what is hot, in the heatmap's pixels."""
    y, x = np.mgrid[: heat_HW.shape[0], : heat_HW.shape[1]] + 0.5
    return float((x * heat_HW).sum() / heat_HW.sum()), float((y * heat_HW).sum() / heat_HW.sum())


@pytest.mark.parametrize("fit", ["letterbox", "center", "stretch"])
@pytest.mark.parametrize("view", ["plain", "flip", "turn_90", "zoom_in", "farther", "scale_1.5"])
def test_heat_is_where_the_photo_has_it(fit: str, view: str) -> None:
    """However the contract fits a photo, and whatever its views turn and mirror."""
    members = looking_for_red([view_named("plain_flip" if view == "flip" else view)], fit=fit)
    heat_HW = heatmap([members], red_at(110, 30), "red")
    assert heat_HW.shape == (120, 200) and heat_HW.dtype == np.float32 and heat_HW.max() == 1 and heat_HW.min() == 0
    x, y = middle(heat_HW)
    assert abs(x - 122) < 3 and abs(y - 42) < 3


def test_what_the_contract_does_not_look_at_is_cold() -> None:
    (ground,) = red_at(110, 30).tensors
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand_as(ground).contiguous()
    heat_HW = heatmap([looking_for_red(fit="center")], Ragged([red]), "red")
    assert (heat_HW[:, :40] == 0).all() and (heat_HW[:, 160:] == 0).all()
    np.testing.assert_allclose(heat_HW[:, 40:160], 1, atol=0.05)  # at the photo's edge the ground is mixed in
    two_HW = heatmap([looking_for_red([PLAIN, view_named("fit_stretch")], fit="center")], Ragged([red]), "red")
    np.testing.assert_allclose(two_HW[:, 80], 1, atol=0.05)
    np.testing.assert_allclose(two_HW[:, :40], 0.5, atol=0.05)  # one of two views looks there


def test_a_large_photo_has_a_heatmap_of_its_shape_and_256_pixels() -> None:
    heat_HW = heatmap([looking_for_red()], red_at(600, 100, 300, 1000), "red")
    assert heat_HW.shape == (77, 256)
    x, y = middle(heat_HW)
    assert abs(x - 612 * 0.256) < 8 and abs(y - 112 * 77 / 300) < 8  # a place of the map is 16 wide
    assert heatmap([looking_for_red()], red_at(0, 0, 24, 2000), "red").shape == (3, 256)


def test_where_nothing_speaks_for_a_class_all_is_cold() -> None:
    gray = Ragged([torch.full((40, 60, 3), 90, dtype=torch.uint8)])
    assert not heatmap([looking_for_red()], gray, "red").any()


def test_heatmaps_are_made_while_others_answer_and_no_bit_changes(fold: Callable[..., Checkpoint]) -> None:
    members = Members.restored([fold(0), fold(1)], CPU, views=tta_views(2))
    photos = [Ragged([torch.randint(0, 256, (50, 40 + 4 * n, 3), dtype=torch.uint8)]) for n in range(2)]
    expected = [members.logits(photo) for photo in photos]
    alone = [heatmap([members], photo, "모자") for photo in photos]
    different: list[int] = []

    def ask() -> None:
        for number, photo in enumerate(photos):
            heat_HW = heatmap([members], photo, "모자")
            if not np.array_equal(heat_HW, alone[number]):
                different.append(number)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for photo, logits in zip(photos, expected, strict=True):
            assert all(map(torch.equal, members.logits(photo), logits))
    for thread in threads:
        thread.join()
    assert not different
