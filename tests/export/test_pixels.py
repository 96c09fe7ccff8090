"""The graph's reading of photos answers to the reference of the one pass, for every view, fit, filter and shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.augment.contract import Contract
from engine.augment.views import VIEWS, view_plan
from engine.export.pixels import prepared
from engine.kernels import Ragged
from engine.kernels.reference import reference_pass
from tests.conftest import smooth_picture

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def difference(image_HW3: torch.Tensor, view: str, contract: Contract) -> float:
    """The highest, of values in [0, 1]."""
    photos = Ragged([image_HW3])
    expected = reference_pass(photos, view_plan(VIEWS[view], contract, photos.sizes_B2, torch.device("cpu")))
    found = prepared(image_HW3[None], VIEWS[view], contract, {})
    assert found.shape == expected.shape and found.dtype == torch.float32
    return float(((found - expected).abs() * torch.tensor(STD).view(3, 1, 1)).max())


SIZES = [(1, 1), (1, 90), (70, 1), (7, 5), (97, 131), (300, 40), (20, 24)]


@pytest.mark.parametrize("fit", ["center", "letterbox", "stretch"])
@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic"])
def test_every_view_is_that_of_the_reference(fit: str, filter: str) -> None:
    contract = Contract(12, 20, MEAN, STD, fit, 0.875 if fit == "center" else 1.0, filter)
    for number, view in enumerate(VIEWS):
        picture = smooth_picture(*SIZES[number % len(SIZES)], seed=1)
        assert difference(picture, view, contract) < 1e-5, (view, picture.shape)


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    shown=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    crop=st.floats(0.05, 1.0),
    view=st.sampled_from([*VIEWS]),
    filter=st.sampled_from(["bilinear", "bicubic"]),
)
def test_of_a_photo_all_that_is_looked_at_is_kept(
    size: tuple[int, int], shown: tuple[int, int], crop: float, view: str, filter: str
) -> None:
    contract = Contract(*shown, MEAN, STD, "center", crop, filter)
    assert difference(smooth_picture(*size, seed=2), view, contract) < 1e-5


def test_a_photo_that_is_shrunk_more_than_the_widest_footprint_is_read_as_by_the_reference() -> None:
    contract = Contract(4, 4, MEAN, STD, "stretch", filter="bicubic")
    assert difference(smooth_picture(400, 700, seed=3), "plain", contract) < 2e-5


def test_mirrored_views_share_what_is_read_of_the_rows() -> None:
    read: dict = {}
    contract = Contract(8, 8, MEAN, STD)
    for name in ("plain", "plain_flip", "turn_180_flip"):
        prepared(smooth_picture(20, 30, seed=4)[None], VIEWS[name], contract, read)
    assert len(read) == 2  # one from above, one from below
