"""What C++ draws is what torch draws, number by number."""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.augment import program
from engine.augment.auto import Geometry
from engine.augment.color import Form
from engine.augment.mix import mixed_labels, reference_labels
from engine.augment.policy import Policy
from engine.augment.regions import fit_to_regions, needed_regions_B5, reference_fit, reference_regions_B5
from engine.kernels import Border, Fill, Filter, Plan, draws
from engine.recipe.sections.augment import AugmentSection, MixSection

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BATCH = 60
KEYS = torch.randint(-(2**63), 2**63 - 1, (BATCH,), generator=torch.Generator().manual_seed(1))
SIZES = torch.randint(1, 4000, (BATCH, 2), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
LABELS = torch.arange(BATCH) % 7
MIX = MixSection(mixup=0.2, cutmix=1.0, p=0.7)
SECTION = AugmentSection.model_validate(
    {
        "quarter_turn": 0.5,
        "crop": {"letterbox_p": 0.3, "half_p": 0.3},
        "affine": {"p": 0.5, "shear": 10},
        "perspective": {"p": 0.5},
        "policy": {"kind": "randaugment"},
        "color": {"p": 0.7},
        "tone": {"gray": 0.3, "posterize": 0.3},
        "erase": {"p": 0.5},
        "random_erasing": {"p": 0.5, "fill": "noise"},
        "extras": {"most": 2, "blur": 0.5, "noise": 0.5, "jpeg": 0.5},
    }
)

compiled = pytest.mark.skipif(not draws.available(), reason=f"no compiled draws: {draws.why_not()}")


def pairs(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    """Ranges within these limits."""
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda two: (min(two), max(two)))


def whole_pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda two: (min(two), max(two)))


def chance() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


def filled(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    shares = st.floats(0, 1)
    fills = st.sampled_from(["mean", "constant", "noise"])
    return st.fixed_dictionaries({"p": chance(), "fill": fills, "color": st.tuples(shares, shares, shares), **keys})


SECTIONS = st.fixed_dictionaries(
    {
        "border": st.sampled_from(["constant", "edge", "reflect"]),
        "filter": st.sampled_from(["nearest", "bilinear", "bicubic"]),
        "flip": chance(),
        "vertical_flip": chance(),
        "quarter_turn": chance(),
        "crop": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["random_resized", "random_resized", "center", "letterbox", "stretch"]),
                "scale": pairs(0.01, 1),
                "ratio": pairs(0.1, 10),
                "letterbox_p": chance(),
                "half_p": chance(),
            }
        ),
        "affine": st.fixed_dictionaries(
            {
                "p": chance(),
                "shift": st.floats(0, 1),
                "scale": st.floats(0, 0.9),
                "rotate": st.floats(0, 180),
                "shear": st.floats(0, 70),
            }
        ),
        "perspective": st.fixed_dictionaries({"p": chance(), "distortion": st.floats(0, 0.45)}),
        "policy": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["none", "autoaugment", "randaugment", "trivialaugment"]),
                "operations": st.integers(1, 8),
                "magnitude": st.integers(0, 30),
            }
        ),
        "color": st.fixed_dictionaries(
            {
                "p": chance(),
                **dict.fromkeys(["brightness", "contrast", "saturation"], chance()),
                "hue": st.floats(0, 0.5),
            }
        ),
        "tone": st.fixed_dictionaries(
            {
                **dict.fromkeys(["gamma", "gray", "shuffle", "invert", "solarize", "posterize"], chance()),
                "gamma_range": pairs(0.01, 9),
                "solarize_range": pairs(0.01, 1),
                "posterize_bits": whole_pairs(1, 8),
            }
        ),
        "erase": filled(count=whole_pairs(1, 9), size=pairs(0.01, 1)),
        "random_erasing": filled(area=pairs(0.01, 1), ratio=pairs(0.1, 9)),
        "cutout": filled(size=st.floats(0.01, 2)),
        "corner": filled(size=pairs(0.01, 1)),
        "extras": st.fixed_dictionaries(
            {
                "most": st.integers(1, 7),
                **dict.fromkeys(["blur", "motion", "noise", "jpeg", "clahe", "equalize", "elastic"], chance()),
                "blur_sigma": pairs(0.1, 15),
            }
        ),
    }
)
ALPHAS = st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0, 3.0, 64.0])
MIXES = st.none() | st.builds(
    MixSection, mixup=ALPHAS, cutmix=ALPHAS, p=chance(), cutmix_share=chance(), per=st.sampled_from(["sample", "batch"])
)
SIDES = st.integers(8, 600)


def assert_close(name: str, found: Tensor, expected: Tensor) -> None:
    """Whole numbers, hashes, uniform numbers and what float32 makes of them: the same. Matrices and mixing's weights:
    the same float32 or the next one, for the C library's exp, sin, cos, tan and pow may round a float64 otherwise than
    torch's; where such numbers cancel, what is left of them differs by less than a billionth of what they were."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    if name in ("matrix_B33", "weight_B", "share_B"):
        next_to = (found.view(torch.int32).long() - expected.view(torch.int32).long()).abs() <= 1
        size = expected.abs().flatten(1).amax(1) if expected.ndim > 1 else expected.abs()
        cancelled = (found - expected).abs() <= 1e-9 * size.reshape(-1, *[1] * (expected.ndim - 1))
        assert (next_to | cancelled).all(), name
    else:
        assert torch.equal(found, expected), name


@compiled
@settings(max_examples=120)
@given(SECTIONS, MIXES, SIDES, SIDES, st.integers(0, 2**31), st.integers(0, 500))
@example({"erase": {"p": 1.0, "size": (0.01, 0.02)}}, None, 8, 8, 0, 0)  # no rectangle is less than a pixel
@example({}, MixSection(cutmix=0.2, p=0.5), 8, 8, 1, 0)  # a root that float32 rounds either way
def test_any_recipe_is_drawn_as_torch_draws_it(
    keys: dict[str, Any], mix: MixSection | None, height: int, width: int, seed: int, epoch: int
) -> None:
    policy = Policy(AugmentSection.model_validate(keys), MEAN, STD)
    drawn = policy.draw(KEYS, SIZES, height, width, seed, epoch, mix)
    expected = policy.reference_draw(KEYS, SIZES, height, width, seed, epoch, mix)
    assert list(drawn.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_close(name, drawn.tensors[name], tensor)
    assert drawn.filter is expected.filter
    labels, (own_B, partner_B, share_B) = mixed_labels(drawn, LABELS), reference_labels(expected, LABELS)
    assert torch.equal(labels.own_B, own_B) and torch.equal(labels.partner_B, partner_B)
    assert_close("share_B", labels.share_B, share_B)
    extras, expected_extras = policy.extras(KEYS, seed, epoch), policy.reference_extras(KEYS, seed, epoch)
    assert (extras is None) == (expected_extras is None)
    if extras is not None and expected_extras is not None:
        for name in ("op_BE", "arg_BE", "seed_B"):
            assert torch.equal(getattr(extras, name), getattr(expected_extras, name)), name


@compiled
@settings(max_examples=60)
@given(SECTIONS, SIDES, SIDES, st.booleans(), st.booleans())
def test_the_regions_of_any_plan_are_torchs(
    keys: dict[str, Any], height: int, width: int, reduce: bool, antialias: bool
) -> None:
    policy = Policy(AugmentSection.model_validate({**keys, "policy": {}}), MEAN, STD)
    drawn = policy.draw(KEYS, SIZES, height, width, 0, 0)
    plan = Plan(**{**vars(drawn), "antialias": antialias})
    assert np.array_equal(needed_regions_B5(plan, SIZES, reduce), reference_regions_B5(plan, SIZES, reduce))


@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0, 0], [0, 1, 0], [-0.05, 0, 1]],  # some of it lies behind the horizon
        [[1, 0, 2.0**21], [0, 1, 0], [0, 0, 1]],
        [[1, 0, float("nan")], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 5], [0, 0, 5], [0, 0, 1]],
        [[2, 0, -100], [0, 2, 4000], [0, 0, 1]],
    ],
)
@pytest.mark.parametrize("border", [None, *Border])
def test_the_regions_of_odd_plans_are_torchs(matrix: list[list[float]], border: Border | None) -> None:
    border_B = None if border is None else torch.tensor([border], dtype=torch.int32)
    plan = Plan(60, 80, torch.tensor([matrix], dtype=torch.float32), MEAN, STD, border_B=border_B)
    size = torch.tensor([[120, 160]])
    assert np.array_equal(needed_regions_B5(plan, size, True), reference_regions_B5(plan, size, True))


def tensors_of(policy: Policy, count: int = BATCH, epoch: int = 4) -> list[Tensor]:
    """All that is drawn for the first `count` photos."""
    plan, extras = (
        policy.draw(KEYS[:count], SIZES[:count], 96, 128, 3, epoch, MIX),
        policy.extras(KEYS[:count], 3, epoch),
    )
    assert extras is not None
    return [*plan.tensors.values(), *vars(extras).values(), *mixed_labels(plan, LABELS[:count])]


@compiled
def test_a_plan_is_fitted_to_what_was_decoded_as_torch_fits_it() -> None:
    plan = Policy(SECTION, MEAN, STD).draw(KEYS, SIZES, 96, 128, 3, 4)
    frame_B5 = torch.randint(0, 300, (BATCH, 5), dtype=torch.int32, generator=torch.Generator().manual_seed(3))
    frame_B5[:, 4] = 2 ** (torch.arange(BATCH) % 4)
    before = plan.matrix_B33.clone()
    assert torch.equal(fit_to_regions(plan, frame_B5).matrix_B33, reference_fit(plan, frame_B5).matrix_B33)
    assert torch.equal(plan.matrix_B33, before)
    with pytest.raises(ValueError, match=r"expected int32 \(60, 5\)"):
        fit_to_regions(plan, frame_B5[:7])


def test_sizes_of_other_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="59 sizes for a batch of 60"):
        Policy(SECTION, MEAN, STD).draw(KEYS, SIZES[1:], 96, 128, 3, 4)


def test_a_batch_of_none_and_of_one(drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    for count in (0, 1):
        tensors = tensors_of(policy, count)
        assert all(len(tensor) == count for tensor in tensors)
        own_B, partner_B, _ = tensors[-3:]
        assert torch.equal(own_B, partner_B)


@compiled
def test_batches_are_drawn_at_once_by_several_threads() -> None:
    policy = Policy(SECTION, MEAN, STD)
    alone = [tensors_of(policy, epoch=epoch) for epoch in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tensors_of, policy, epoch=i % 8) for i in range(160)]
        for i, job in enumerate(jobs):
            assert all(map(torch.equal, job.result(), alone[i % 8]))


def test_a_policy_that_was_pickled_draws_the_same(drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    assert all(map(torch.equal, tensors_of(pickle.loads(pickle.dumps(policy))), tensors_of(policy)))


def codes(enum: str, file: str) -> list[str]:
    """The names of an enum of the C++ sources."""
    text = (ROOT / "kernels" / file).read_text("utf-8")
    found = re.search(rf"enum {enum} : int32_t {{([^}}]*)}}", text)
    assert found, f"kernels/{file} has no enum {enum}"
    return [name.split("=")[0].strip().lower() for name in found.group(1).split(",")]


def names(enum: type[IntEnum]) -> list[str]:
    return [code.name.lower() for code in enum]


def test_codes_are_those_of_the_sources() -> None:
    assert codes("Border", "draws.cpp") == names(Border)
    assert codes("Filter", "draws.cpp") == names(Filter)
    assert codes("Geometry", "draws.cpp") == names(Geometry)
    assert codes("Form", "draws.h") == names(Form)
    assert codes("Shape", "draws.h") == list(program.SHAPES)
    assert codes("Crop", "draws.h") == list(program.CROPS)
    assert codes("Kind", "draws.h") == ["no_policy", *program.POLICIES[1:]]
    assert Fill.NONE == 0, "of what is not drawn"
