"""Views are the contract's image, composed exactly with a part and a mirror image of it."""

from __future__ import annotations

import pytest
import torch

from engine.augment.contract import Contract
from engine.augment.views import PLAIN, View, crop_views, tta_views, view_plan
from engine.kernels import Filter, Ragged
from engine.loader.passes import execute

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")


def _contract(fit: str = "letterbox", height: int = 32, width: int = 48) -> Contract:
    return Contract(height=height, width=width, mean=MEAN, std=STD, fit=fit)


def test_the_first_view_is_validation() -> None:
    sizes = torch.tensor([[30, 70], [80, 20]])
    one, other = (view_plan(view, _contract(), sizes, CPU) for view in (PLAIN, tta_views(5)[0]))
    assert torch.equal(one.matrix_B33, other.matrix_B33)


def test_a_letterbox_puts_the_sources_corners_where_they_belong() -> None:
    """20 x 80 into 32 x 48: scale 0.6, so 12 rows, 10 of padding above and below."""
    plan = view_plan(PLAIN, _contract(), torch.tensor([[20, 80]]), CPU)
    corners = torch.tensor([[0.0, 10, 1], [48, 10, 1], [48, 22, 1], [0, 22, 1]])
    read = corners @ plan.matrix_B33[0].T
    assert torch.allclose(read[:, :2], torch.tensor([[0.0, 0], [80, 0], [80, 20], [0, 20]]), atol=1e-4)


def test_padding_is_zero_after_normalisation(pictures: Ragged) -> None:
    batch = execute("reference", pictures, view_plan(PLAIN, _contract(), pictures.sizes_B2, CPU))
    tall = 3  # 100 x 50 into 32 x 48: 16 columns of picture
    assert batch[tall, :, :, :15].abs().max() < 1e-6
    assert batch[tall, :, :, 33:].abs().max() < 1e-6
    assert batch[tall, :, :, 17:31].abs().mean() > 0.1


@pytest.mark.parametrize("fit", ["letterbox", "center", "stretch"])
def test_a_flipped_view_is_the_view_flipped(pictures: Ragged, fit: str) -> None:
    for view in (PLAIN, *tta_views(10)[2::2], *crop_views(5)):
        plain, flipped = (
            execute("reference", pictures, view_plan(v, _contract(fit), pictures.sizes_B2, CPU))
            for v in (view, view.flipped())
        )
        assert torch.allclose(flipped, plain.flip(3), atol=1e-4)


def test_views_compose_with_the_contract_exactly() -> None:
    sizes = torch.tensor([[333, 777], [50, 3000]])
    base = view_plan(PLAIN, _contract(), sizes, CPU).matrix_B33.double()
    for view in (*tta_views(10), *crop_views(10)):
        expected = base @ view.matrix_33(32, 48)
        assert torch.allclose(view_plan(view, _contract(), sizes, CPU).matrix_B33.double(), expected, rtol=1e-6)


def test_zoom_and_anchor_choose_the_part() -> None:
    corners = torch.tensor([[0.0, 0, 1], [48, 32, 1]], dtype=torch.float64)
    for view, expected in (
        (View("middle", zoom=2), [[12, 8], [36, 24]]),
        (View("upper right", zoom=2, anchor=(1, 0)), [[24, 0], [48, 16]]),
        (View("upper right mirrored", zoom=2, anchor=(1, 0), flip=True), [[48, 0], [24, 16]]),
        (View("all around", zoom=0.5), [[-24, -16], [72, 48]]),
    ):
        assert (corners @ view.matrix_33(32, 48).T)[:, :2].tolist() == expected


def test_more_views_only_add_to_fewer() -> None:
    ten = tta_views(10)
    assert len(set(ten)) == 10 and len({view.name for view in ten}) == 10
    for count in range(1, 11):
        assert tta_views(count) == ten[:count]
    for count in (0, 11):
        with pytest.raises(ValueError, match="1 to 10"):
            tta_views(count)


def test_five_crops_are_the_centre_and_the_corners() -> None:
    """224 of 256 pixels each, as everywhere else."""
    corners = torch.tensor([[0.0, 0, 1], [256, 256, 1]], dtype=torch.float64)
    boxes = [(corners @ view.matrix_33(256, 256).T)[:, :2].flatten().tolist() for view in crop_views(5)]
    assert boxes == [
        pytest.approx(box)
        for box in ([16, 16, 240, 240], [0, 0, 224, 224], [32, 0, 256, 224], [0, 32, 224, 256], [32, 32, 256, 256])
    ]
    assert [view.flip for view in crop_views(10)] == [False, True] * 5
    with pytest.raises(ValueError, match="5 or 10"):
        crop_views(3)


def test_the_plan_carries_the_contracts_normalisation_and_filter() -> None:
    contract = Contract(height=8, width=8, mean=MEAN, std=STD, filter="bicubic")
    plan = view_plan(PLAIN, contract, torch.tensor([[9, 9]]), CPU)
    assert (plan.mean, plan.std, plan.filter) == (MEAN, STD, Filter.BICUBIC)
