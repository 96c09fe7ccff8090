"""The contract survives being saved, and refuses what it does not understand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.augment.contract import Contract
from engine.recipe.sections.augment import AugmentSection, ValidSection

shares = st.floats(0.01, 1)
triples = st.tuples(shares, shares, shares)
contracts = st.builds(
    Contract,
    height=st.integers(1, 4096),
    width=st.integers(1, 4096),
    mean=triples,
    std=triples,
    fit=st.sampled_from(["center", "letterbox", "stretch"]),
    crop=shares,
    filter=st.sampled_from(["nearest", "bilinear", "bicubic"]),
)
PLAIN = Contract(height=32, width=48, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


@given(contracts)
def test_it_comes_back_from_json_as_it_was(contract: Contract) -> None:
    assert Contract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


def test_it_is_built_from_the_recipe() -> None:
    section = AugmentSection(filter="bicubic", valid=ValidSection(fit="center", crop=0.9))
    contract = Contract.of(section, (64, 96), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    expected = {
        "version": 1,
        "height": 64,
        "width": 96,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "fit": "center",
        "crop": 0.9,
        "filter": "bicubic",
        "orientation": "upright",
    }
    assert contract.to_dict() == expected


@pytest.mark.parametrize(
    ("interpolation", "saved"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("lanczos", "bicubic")]
)
def test_a_filter_that_is_not_chosen_is_the_backbones_and_saved_by_name(interpolation: str, saved: str) -> None:
    contract = Contract.of(AugmentSection(), (64, 96), PLAIN.mean, PLAIN.std, interpolation)
    assert contract.to_dict()["filter"] == saved
    chosen = Contract.of(AugmentSection(filter="nearest"), (64, 96), PLAIN.mean, PLAIN.std, interpolation)
    assert chosen.filter == "nearest"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "version 2"),
        ({"version": None}, "version None"),
        ({"colour": "RGB"}, "colour"),
        ({"fit": "fill"}, "'fill'"),
        ({"filter": "lanczos"}, "'lanczos'"),
        ({"orientation": "as stored"}, "'as stored'"),
        ({"height": 0}, "0 x 48"),
        ({"std": [0.2, 0.0, 0.2]}, "std"),
        ({"mean": [0.2, 0.3]}, "mean"),
        ({"crop": 1.5}, "crop 1.5"),
    ],
)
def test_a_changed_record_is_refused_with_the_reason(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Contract.from_dict(PLAIN.to_dict() | change)


def test_a_missing_key_is_refused_by_name() -> None:
    saved = PLAIN.to_dict()
    del saved["crop"]
    with pytest.raises(ValueError, match=r"missing keys.*crop"):
        Contract.from_dict(saved)
