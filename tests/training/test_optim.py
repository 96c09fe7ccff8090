"""Parameter groups and optimisers: who learns how fast, and what decays."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from engine.errors import RecipeError
from engine.model.build import Classifier, build_model
from engine.recipe.sections import ModelSection, TrainSection
from engine.training.optim import backbone_layers, build_optimizer, check_optimizer, parameter_groups, set_rate

GEM = ModelSection(backbone="test_convnext", pretrained=False, pooling="gem")


@pytest.fixture(scope="module")
def model() -> Classifier:
    return build_model(GEM, 3, (32, 32))


def settings_of(model: Classifier, section: TrainSection) -> dict[str, tuple[float, float]]:
    """(scale, weight decay) of each parameter by name; every parameter is in exactly one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in parameter_groups(model, section):
        for parameter in group["params"]:  # type: ignore[attr-defined]
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["scale"], group["weight_decay"])  # type: ignore[assignment]
    assert found.keys() == set(names.values())
    return found


def test_the_head_learns_faster_and_vectors_do_not_decay(model: Classifier) -> None:
    found = settings_of(model, TrainSection(head_lr_multiplier=5.0, weight_decay=0.1))
    for name, parameter in model.named_parameters():
        scale, decay = found[name]
        assert scale == (1.0 if name.startswith("backbone.") else 5.0)
        assert decay == (0.1 if parameter.ndim > 1 else 0.0)
    assert {found["head.linear.weight"], found["head.linear.bias"]} == {(5.0, 0.1), (5.0, 0.0)}
    assert any(name.startswith("pool.") and scale == 5.0 for name, (scale, _) in found.items())


@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit", "test_resnet", "test_efficientnet"])
def test_layers_learn_slower_towards_the_input_as_in_timm(backbone: str) -> None:
    ours = build_model(ModelSection(backbone=backbone, pretrained=False), 3, (160, 160))
    found = settings_of(ours, TrainSection(layer_decay=0.7))
    plain = timm.create_model(backbone, num_classes=3)
    names = {id(p): name for name, p in plain.named_parameters()}
    groups = param_groups_layer_decay(plain, layer_decay=0.7)
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    shared = {name for name in expected if f"backbone.{name}" in found}
    assert len(shared) > 10 and len({expected[name] for name in shared}) > 3
    for name in shared:
        assert found[f"backbone.{name}"][0] == pytest.approx(expected[name]), name
    assert found["head.linear.weight"][0] == 1.0


def test_layers_go_from_the_input_to_the_output(model: Classifier) -> None:
    layers = backbone_layers(model)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    assert all(names[id(p)].startswith("stem") for p in layers[0])
    assert all(names[id(p)].startswith("stages.3") for p in layers[-2])
    assert sum(map(len, layers)) == len(list(model.backbone.parameters()))


def test_rates_are_the_stage_s_times_the_scale(model: Classifier) -> None:
    optimizer = build_optimizer(model, TrainSection(head_lr_multiplier=4.0))
    set_rate(optimizer, 0.01)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.04}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD), ("lion", timm.optim.Lion)],
)
def test_optimisers_come_by_name(model: Classifier, name: str, kind: type) -> None:
    optimizer = build_optimizer(model, TrainSection(optimizer=name, momentum=0.8))
    assert isinstance(optimizer, kind)
    if name == "sgd":
        assert optimizer.defaults["momentum"] == 0.8 and optimizer.defaults["nesterov"]


@pytest.mark.parametrize(
    "name", ["adamw", "sgd", "adam", "lion", "nadamw", "rmsproptf", "lookahead_adamw", "adafactor"]
)
def test_an_optimiser_lowers_a_loss_and_goes_on_from_its_state(name: str) -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return build_model(ModelSection(backbone="test_convnext", pretrained=False), 2, (32, 32))

    one, other = model(), model()
    section = TrainSection(optimizer=name, weight_decay=0.01)
    optimizers = [build_optimizer(one, section), build_optimizer(other, section)]  # type: ignore[arg-type]

    def step(which: int) -> float:
        network = (one, other)[which]
        set_rate(optimizers[which], 1e-3)
        loss = (
            network.head(torch.ones(4, 64) * torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]))[:, 0].sub(3).square().mean()
        )
        loss.backward()
        optimizers[which].step()
        optimizers[which].zero_grad()
        return loss.item()

    losses = [step(0) for _ in range(4)]
    assert losses[-1] < losses[0]
    other.load_state_dict(one.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    assert [step(0) for _ in range(3)] == [step(1) for _ in range(3)]


def test_an_optimiser_that_cannot_be_used_is_refused_with_the_key() -> None:
    check_optimizer(TrainSection(optimizer="adamw"))
    for name, words in (
        ("adamww", "nearest: adamw"),
        ("adahessian", "second derivatives"),
        ("bnbadam", "cannot be used"),
    ):
        with pytest.raises(RecipeError, match=rf'train\.optimizer = "{name}".*{words}'):
            check_optimizer(TrainSection(optimizer=name))
