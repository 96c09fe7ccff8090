"""AutoAugment, RandAugment and TrivialAugment draw the papers' operations at the papers' strengths."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from scipy import stats
from torchvision.transforms import AutoAugment, RandAugment, TrivialAugmentWide

from engine.augment.auto import BINS, Chosen, Geometry, choose, policy_streams
from engine.augment.extras import Extra
from engine.augment.rng import uniforms
from engine.kernels import Color
from engine.recipe.sections.augment import PolicySection

COUNT = 5000
# torchvision's names, what they are here, and how its magnitudes become our arguments (for the sign +).
SAME = {
    "ShearX": (Geometry.SHEAR_X, lambda m: m),
    "ShearY": (Geometry.SHEAR_Y, lambda m: m),
    "TranslateX": (Geometry.SHIFT_X, lambda m: m / 224),
    "TranslateY": (Geometry.SHIFT_Y, lambda m: m / 224),
    "Rotate": (Geometry.ROTATE, lambda m: m),
    "Brightness": (Color.BRIGHTNESS, lambda m: 1 + m),
    "Color": (Color.SATURATION, lambda m: 1 + m),
    "Contrast": (Color.CONTRAST, lambda m: 1 + m),
    "Sharpness": (Extra.SHARPNESS, lambda m: 1 + m),
    "Posterize": (Color.POSTERIZE, lambda m: m),
    "Solarize": (Color.SOLARIZE, lambda m: m / 255),
    "AutoContrast": (Extra.AUTO_CONTRAST, None),
    "Equalize": (Extra.EQUALIZE, None),
    "Invert": (Color.INVERT, None),
    "Identity": (Geometry.NONE, None),
}
KINDS = {Geometry: "geometry_BS", Color: "color_BS", Extra: "extra_BS"}


def _choose(section: PolicySection, count: int = COUNT) -> Chosen:
    chosen = choose(section, uniforms(5, 0, torch.arange(count) * 7919, policy_streams(section)))
    assert chosen is not None
    return chosen


def _drew(chosen: Chosen, what: Geometry | Color | Extra) -> torch.Tensor:
    if what == Geometry.NONE:
        return (chosen.geometry_BS == 0) & (chosen.color_BS == 0) & (chosen.extra_BS == 0)
    return getattr(chosen, KINDS[type(what)]) == int(what)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_randaugment_draws_torchvisions_operations_equally_at_its_magnitudes(magnitude: int) -> None:
    chosen = _choose(PolicySection(kind="randaugment", operations=3, magnitude=magnitude))
    assert chosen.arg_BS.shape == (COUNT, 3)
    theirs = RandAugment()._augmentation_space(BINS, (224, 224))
    counts = []
    for name, (magnitudes, signed) in theirs.items():
        what, arg = SAME[name]
        drew = _drew(chosen, what)
        counts.append(int(drew.sum()))
        if arg is not None:
            middle = arg(0.0) if signed else 0.0
            expected = float(arg(magnitudes[magnitude]))
            sizes = (chosen.arg_BS[drew] - middle).abs()
            assert torch.allclose(sizes, torch.tensor(abs(expected - middle)), atol=1e-5), name
            if signed and magnitude:
                upwards = (chosen.arg_BS[drew] > middle).double().mean().item()
                assert upwards == pytest.approx(0.5, abs=0.06), name
    assert sum(counts) == 3 * COUNT
    assert stats.chisquare(counts).pvalue > 0.01


def test_trivialaugment_draws_one_operation_at_any_of_torchvisions_strengths() -> None:
    chosen = _choose(PolicySection(kind="trivialaugment"), 20_000)
    assert chosen.arg_BS.shape == (20_000, 1)
    counts = []
    for name, (magnitudes, signed) in TrivialAugmentWide()._augmentation_space(BINS).items():
        what, arg = SAME[name]
        args = chosen.arg_BS[_drew(chosen, what)]
        counts.append(len(args))
        if arg is not None:
            up = {round(float(arg(m)), 4) for m in magnitudes}
            down = {round(2 * float(arg(0.0)) - u, 4) for u in up} if signed else set()
            assert {round(a, 4) for a in args.tolist()} == {v + 0.0 for v in up | down}, name
    assert stats.chisquare(counts).pvalue > 0.01


def test_autoaugment_draws_torchvisions_imagenet_policy() -> None:
    """The expected number of times each (operation, absolute argument) pair occurs, from torchvision's own table."""
    chosen = _choose(PolicySection(kind="autoaugment"), 20_000)
    space = AutoAugment()._augmentation_space(10, (224, 224))
    expected: Counter[tuple[str, float]] = Counter()
    for row in AutoAugment().policies:
        for name, chance, step in row:
            what, arg = SAME[name]
            value = 0.0 if step is None or arg is None else float(arg(space[name][0][step]))
            middle = float(arg(0.0)) if arg is not None and space[name][1] else 0.0
            expected[repr(what), round(abs(value - middle), 3)] += chance / 25
    found: Counter[tuple[str, float]] = Counter()
    for name in space:
        what, arg = SAME[name]
        middle = float(arg(0.0)) if arg is not None and space[name][1] else 0.0
        for value in chosen.arg_BS[_drew(chosen, what)].tolist():
            found[repr(what), round(abs(value - middle), 3)] += 1
    assert {pair for pair, share in expected.items() if share > 0} == set(found)
    for pair, share in expected.items():
        assert found[pair] / 20_000 == pytest.approx(share, abs=0.01), pair


def test_the_slots_geometry_composes_in_order() -> None:
    """First a turn by 90 degrees, then a shift by half a width: a point right of the centre ends above it, shifted."""
    chosen = Chosen(
        geometry_BS=torch.tensor([[Geometry.ROTATE, Geometry.SHIFT_X]]),
        color_BS=torch.zeros(1, 2, dtype=torch.int32),
        extra_BS=torch.zeros(1, 2, dtype=torch.int32),
        arg_BS=torch.tensor([[90.0, 0.5]]),
    )
    forward = torch.linalg.inv(chosen.matrix(20, 40)[0])
    assert (forward @ torch.tensor([25.0, 10, 1]).double()).tolist() == pytest.approx([40, 5, 1])


def test_operations_without_geometry_leave_the_matrix_exactly() -> None:
    chosen = _choose(PolicySection(kind="randaugment", operations=1))
    still = chosen.geometry_BS[:, 0] == 0
    assert 0.5 < still.double().mean().item() < 0.8
    matrices = chosen.matrix(37, 53)
    assert torch.equal(matrices[still], torch.eye(3, dtype=torch.float64).expand(int(still.sum()), 3, 3))
    assert math.isclose(torch.linalg.det(matrices).min().item(), 1, abs_tol=1e-9)


def test_no_policy_draws_nothing() -> None:
    assert policy_streams(PolicySection()) == {}
    assert choose(PolicySection(), {}) is None
