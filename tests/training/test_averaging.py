"""The average of the weights along training, against arithmetic."""

from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3

from engine.model.build import build_model
from engine.recipe.sections import ModelSection
from engine.training.averaging import Average, build_average

MODEL = ModelSection(backbone="test_convnext", pretrained=False)


def moved(model: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def value(average: Average) -> float:
    values = {parameter.flatten()[0].item() for parameter in average.model.parameters()}
    assert len(values) == 1
    return values.pop()


def test_the_average_follows_its_formula() -> None:
    model = build_model(MODEL, 3, (32, 32))
    moved(model, 0.0)
    average = Average(model, decay=0.6)
    expected = 0.0
    for step in range(1, 9):
        moved(model, float(step))
        average.update()
        decay = min(0.6, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * step
        assert value(average) == pytest.approx(expected, rel=1e-5)


def test_the_average_goes_on_from_its_state_and_begins_again_when_restarted() -> None:
    model = build_model(MODEL, 3, (32, 32))
    one, other = Average(model, 0.6), Average(model, 0.6)
    for step in range(4):
        moved(model, float(step))
        one.update()
    other.load_state_dict(one.state_dict())
    moved(model, 9.0)
    one.update()
    other.update()
    assert value(one) == value(other) != 9.0
    one.restart()
    assert value(one) == 9.0
    moved(model, 1.0)
    one.update()
    assert value(one) == 1.0  # the first step counts in full
    moved(model, 2.0)
    one.update()
    assert value(one) == pytest.approx(1 + 2 ** (-2 / 3), rel=1e-5)


def test_it_is_timms_average_to_the_bit_and_asks_for_no_state_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(
        ModelSection(backbone="test_resnet", pretrained=False), 3, (32, 32)
    )  # with batch norms' counters
    average, timms = Average(model, 0.9), ModelEmaV3(model, decay=0.9, use_warmup=True)
    for step in range(1, 12):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape) * 100 * step)
        timms.update(model, step=step)
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.Module, "state_dict", None)
            average.update()
    expected = timms.module.state_dict()
    for name, tensor in average.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_averaged_model_is_not_the_model_and_never_in_training_mode() -> None:
    model = build_model(MODEL, 3, (32, 32)).train()
    average = build_average(model, 0.5)
    assert average is not None and not average.model.training
    assert model.training
    moved(model, 3.0)
    assert value_of_first(average.model) != 3.0


def value_of_first(model: torch.nn.Module) -> float:
    return next(model.parameters()).flatten()[0].item()


def test_no_decay_is_no_average() -> None:
    assert build_average(build_model(MODEL, 3, (32, 32)), 0.0) is None
