"""What C++ draws is what torch draws, number by number; and all of a batch lies in one block, wherever that is."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
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
from engine.augment.drawn import Drawn
from engine.augment.mix import mixed_labels, reference_labels
from engine.augment.policy import Policy
from engine.augment.regions import fit_to_regions, needed_regions_B5, reference_regions_B5
from engine.kernels import Border, Fill, Filter, Plan, draws
from engine.recipe.sections.augment import AugmentSection, MixSection

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BATCH = 60
KEYS = torch.randint(-(2**63), 2**63 - 1, (BATCH,), generator=torch.Generator().manual_seed(1))
SIZES = torch.randint(1, 4000, (BATCH, 2), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
LABELS = np.arange(BATCH) % 7
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
    drawn = policy.draw_batch(KEYS, SIZES, height, width, seed, epoch, mix, labels_B=LABELS)
    expected = policy.reference_draw(KEYS, SIZES, height, width, seed, epoch, mix)
    assert list(drawn.plan.tensors) == list(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert_close(name, drawn.plan.tensors[name], tensor)
    assert drawn.plan.filter is expected.filter and drawn.labels is not None
    own_B, partner_B, share_B = reference_labels(expected, torch.from_numpy(LABELS))
    assert torch.equal(drawn.labels.own_B, own_B) and torch.equal(drawn.labels.partner_B, partner_B)
    assert_close("share_B", drawn.labels.share_B, share_B)
    extras = policy.reference_extras(KEYS, seed, epoch)
    assert (drawn.extras is None) == (extras is None)
    if drawn.extras is not None and extras is not None:
        for name in ("op_BE", "arg_BE", "seed_B"):
            assert torch.equal(getattr(drawn.extras, name), getattr(extras, name)), name


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


@pytest.mark.parametrize("mix", [None, MIX])
def test_a_batch_is_what_is_drawn_one_by_one(mix: MixSection | None, drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    drawn = policy.draw_batch(KEYS.numpy(), SIZES.numpy(), 96, 128, 3, 4, mix, labels_B=LABELS, regions=True)
    plan, extras = policy.draw(KEYS, SIZES, 96, 128, 3, 4, mix), policy.extras(KEYS, 3, 4)
    labels = mixed_labels(plan, torch.from_numpy(LABELS))
    assert list(drawn.plan.tensors) == list(plan.tensors)
    assert all(torch.equal(found, plan.tensors[name]) for name, found in drawn.plan.tensors.items())
    assert drawn.labels is not None and all(map(torch.equal, drawn.labels, labels))
    assert drawn.extras is not None and extras is not None
    assert all(map(torch.equal, vars(drawn.extras).values(), vars(extras).values()))
    assert drawn.regions_B5 is not None
    assert np.array_equal(drawn.regions_B5, needed_regions_B5(plan, SIZES, True))


def tensors_of(drawn: Drawn) -> list[Tensor]:
    assert drawn.labels is not None and drawn.extras is not None
    return [*drawn.plan.tensors.values(), *drawn.labels, *vars(drawn.extras).values()]


def test_all_of_a_batch_lies_in_the_callers_block_in_lines_one_after_the_other(drawn_by: str) -> None:
    asked: list[int] = []

    def memory(count: int) -> Tensor:
        asked.append(count)
        return torch.full((count + 640,), 7, dtype=torch.uint8)

    policy = Policy(SECTION, MEAN, STD)
    drawn = policy.draw_batch(KEYS, SIZES, 96, 128, 3, 4, MIX, labels_B=LABELS, memory=memory, spare=100)
    assert asked == [drawn.used + 100] and len(drawn.block) == asked[0]
    assert (drawn.block[drawn.used :] == 7).all(), "what is spare is the caller's"
    end = drawn.block.data_ptr()
    for tensor in tensors_of(drawn):
        assert tensor.data_ptr() == end and tensor.is_contiguous()
        end += -(-tensor.numel() * tensor.element_size() // 64) * 64
    assert end == drawn.block.data_ptr() + drawn.used


def test_a_copy_of_the_block_holds_the_batch(drawn_by: str) -> None:
    drawn = Policy(SECTION, MEAN, STD).draw_batch(KEYS, SIZES, 96, 128, 3, 4, MIX, labels_B=LABELS, regions=False)
    copied = drawn.at(drawn.block.clone())
    expected = [tensor.clone() for tensor in tensors_of(drawn)]
    drawn.block.zero_()
    assert all(map(torch.equal, tensors_of(copied), expected))
    assert (copied.plan.height, copied.plan.width, copied.plan.std) == (96, 128, STD)
    assert copied.regions_B5 is drawn.regions_B5


def test_a_plan_is_fitted_to_what_was_decoded_in_place(drawn_by: str) -> None:
    drawn = Policy(SECTION, MEAN, STD).draw_batch(KEYS, SIZES, 96, 128, 3, 4)
    frame_B5 = torch.randint(0, 300, (BATCH, 5), dtype=torch.int32, generator=torch.Generator().manual_seed(3))
    frame_B5[:, 4] = 2 ** (torch.arange(BATCH) % 4)
    expected = fit_to_regions(drawn.plan, frame_B5[:, 2:4], frame_B5[:, 4]).matrix_B33
    at = drawn.plan.matrix_B33.data_ptr()
    drawn.fit(frame_B5)
    assert torch.equal(drawn.plan.matrix_B33, expected) and drawn.plan.matrix_B33.data_ptr() == at
    with pytest.raises(ValueError, match=r"expected int32 \(60, 5\)"):
        drawn.fit(frame_B5[:7])


def test_what_does_not_fit_together_is_refused(drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    with pytest.raises(ValueError, match="59 sizes for a batch of 60"):
        policy.draw_batch(KEYS, SIZES[1:], 96, 128, 3, 4)
    with pytest.raises(ValueError, match="59 labels for a batch of 60"):
        policy.draw_batch(KEYS, SIZES, 96, 128, 3, 4, labels_B=LABELS[1:])
    unfit: list[Callable[[int], Tensor]] = [
        lambda count: torch.empty(count - 1, dtype=torch.uint8),
        lambda count: torch.empty(count, dtype=torch.int8),
        lambda count: torch.empty(count + 4, dtype=torch.uint8)[4:],
    ]
    for memory in unfit:
        with pytest.raises(ValueError, match=r"memory for what is drawn: expected \d+ bytes of uint8"):
            policy.draw_batch(KEYS, SIZES, 96, 128, 3, 4, memory=memory)


def test_a_batch_of_none_and_of_one(drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    for count in (0, 1):
        drawn = policy.draw_batch(
            KEYS[:count], SIZES[:count], 96, 128, 3, 4, MIX, labels_B=LABELS[:count], regions=True
        )
        assert all(len(tensor) == count for tensor in tensors_of(drawn))
        assert drawn.labels is not None and torch.equal(drawn.labels.own_B, drawn.labels.partner_B)


@compiled
def test_batches_are_drawn_at_once_by_several_threads() -> None:
    policy = Policy(SECTION, MEAN, STD)
    alone = [policy.draw_batch(KEYS, SIZES, 96, 128, 3, epoch, MIX, labels_B=LABELS) for epoch in range(8)]
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(policy.draw_batch, KEYS, SIZES, 96, 128, 3, i % 8, MIX, labels_B=LABELS) for i in range(160)
        ]
        for i, job in enumerate(jobs):
            assert all(map(torch.equal, tensors_of(job.result()), tensors_of(alone[i % 8])))


def test_a_policy_that_was_pickled_draws_the_same(drawn_by: str) -> None:
    policy = Policy(SECTION, MEAN, STD)
    found = pickle.loads(pickle.dumps(policy)).draw_batch(KEYS, SIZES, 96, 128, 3, 4, MIX, labels_B=LABELS)
    assert all(
        map(
            torch.equal,
            tensors_of(found),
            tensors_of(policy.draw_batch(KEYS, SIZES, 96, 128, 3, 4, MIX, labels_B=LABELS)),
        )
    )


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
