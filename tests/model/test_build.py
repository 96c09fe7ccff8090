"""Any timm backbone becomes a classifier; what cannot is refused with the key, the reason and what would work."""

from __future__ import annotations

import copy
import urllib.error
from collections.abc import Iterator
from typing import get_args

import pytest
import timm
import torch
from torch._dynamo.testing import CompileCounter

from engine.errors import RecipeError
from engine.model.build import Classifier, backbone_config, build_model, build_shapes, check_sizes, set_drop_path
from engine.recipe.sections import ModelSection
from engine.recipe.sections.augment import ValidSection

SIZE = (64, 64)


def section(**keys: object) -> ModelSection:
    return ModelSection(**{"backbone": "test_convnext", "pretrained": False, **keys})


def images(batch: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def drop_rates(model: torch.nn.Module) -> list[float]:
    return [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]


@pytest.mark.parametrize("backbone", ["test_convnext", "test_convnext2", "test_vit", "test_resnet"])
@pytest.mark.parametrize("pooling", get_args(ModelSection.model_fields["pooling"].annotation))
@pytest.mark.parametrize("head", get_args(ModelSection.model_fields["head"].annotation))
def test_every_kind_of_backbone_pooling_and_head_gives_logits_and_trains_whole(
    backbone: str, pooling: str, head: str
) -> None:
    model = build_model(section(backbone=backbone, pooling=pooling, head=head), num_classes=7, size=SIZE)
    logits = model(images())
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == [], "a parameter that takes no part would stall distributed training"


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("swin_tiny_patch4_window7_224", (64, 96)), ("hiera_tiny_224", (64, 64)), ("mobilenetv3_small_100", (64, 64))],
)
def test_channels_last_maps_tokens_and_heads_that_convolve_after_pooling_are_understood(
    backbone: str, size: tuple[int, int]
) -> None:
    model = build_model(section(backbone=backbone, pooling="gem2"), num_classes=3, size=size)
    assert model.eval()(images(1, *size)).shape == (1, 3)


@pytest.mark.parametrize("backbone", ["levit_128s", "efficientvim_m1"])
def test_a_backbone_that_keeps_something_between_calls_or_freezes_a_parameter_is_understood(backbone: str) -> None:
    """LeViT keeps its attention biases, with their graph; EfficientViM's weights of stages belong to its own head."""
    first = build_shapes(section(backbone=backbone, pooling="avg"), 3, (224, 224))
    assert first(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 3)
    if backbone.startswith("levit"):  # the other gives out no map
        again = build_shapes(section(backbone=backbone, pooling="gem"), 3, (224, 224))
        assert dict(again.named_parameters()).keys() >= {
            name for name, _ in first.backbone.named_parameters("backbone")
        }


def test_average_pooling_is_the_backbones_own_so_pretrained_features_are_unchanged() -> None:
    model = build_model(section(), num_classes=3, size=SIZE).eval()
    plain = timm.create_model("test_convnext", num_classes=0).eval()
    plain.load_state_dict(model.backbone.state_dict())
    torch.testing.assert_close(model.features(images()), plain(images()))


def test_two_map_pooling_joins_the_last_two_maps() -> None:
    model = build_model(section(pooling="gem2"), num_classes=3, size=SIZE).eval()
    assert model.features(images()).shape == (2, 48 + 64)
    one = build_model(section(pooling="gem"), num_classes=3, size=SIZE).eval()
    assert one.features(images()).shape == (2, 64)


def test_head_and_backbone_parameters_split_the_model() -> None:
    model = build_model(section(pooling="gem2", head="arcface"), num_classes=3, size=SIZE)
    head, backbone = set(model.head_parameters()), set(model.backbone_parameters())
    assert not head & backbone
    assert head | backbone == set(model.parameters())
    assert model.head.centers in head
    assert model.pool.pools[0].p in head


def test_it_runs_under_bf16_autocast_in_channels_last_and_trains() -> None:
    model = build_model(section(pooling="gem2", head="arcface"), num_classes=3, size=SIZE)
    reference = model(images())
    model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images().to(memory_format=torch.channels_last))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, reference, rtol=0, atol=0.05 * 30)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("pooling", ["avg", "gem2"])
def test_it_compiles_without_a_graph_break(pooling: str) -> None:
    torch._dynamo.reset()
    model = build_model(section(pooling=pooling, head="arcface"), num_classes=3, size=SIZE).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()))
    assert counter.frame_count == 1


def test_drop_path_rises_over_the_blocks_as_timm_spreads_it() -> None:
    model = build_model(section(), num_classes=3, size=SIZE)
    assert set(drop_rates(model)) == {0.0}
    set_drop_path(model, 0.3)
    assert drop_rates(model) == pytest.approx(drop_rates(timm.create_model("test_convnext", drop_path_rate=0.3)))
    assert max(drop_rates(model)) == pytest.approx(0.3)
    set_drop_path(model, 0.0)
    assert set(drop_rates(model)) == {0.0}


def test_drop_path_makes_training_passes_differ_and_leaves_evaluation_alone() -> None:
    model = build_model(section(), num_classes=3, size=SIZE)
    set_drop_path(model, 0.9)
    with torch.no_grad():
        for block in model.backbone.modules():
            if hasattr(block, "gamma"):
                block.gamma.fill_(1.0)  # layer scale starts near 0 and would hide the blocks
    x = images(16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_drop_path_of_a_copy_is_its_own() -> None:
    model = build_model(section(), num_classes=3, size=SIZE)
    twin = copy.deepcopy(model)
    set_drop_path(twin, 0.4)
    assert max(drop_rates(twin)) == pytest.approx(0.4)
    assert max(drop_rates(model)) == 0


def test_drop_path_on_a_backbone_without_it_is_refused() -> None:
    model = build_model(section(backbone="dla46x_c"), num_classes=2, size=SIZE)
    set_drop_path(model, 0.0)
    with pytest.raises(RecipeError, match="drop_path"):
        set_drop_path(model, 0.1)


def test_an_unknown_backbone_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(RecipeError, match=r'model.backbone = "convnext_bse".*convnext_base'):
        backbone_config("convnext_bse")
    with pytest.raises(RecipeError, match=r"convnext_base\.fb_in1k"):
        backbone_config("convnext_base.fb_in1")


def test_the_config_is_that_of_the_pretrained_tag() -> None:
    clip = backbone_config("convnext_base.clip_laion2b_augreg_ft_in12k_in1k_384")
    assert (clip.height, clip.width, clip.interpolation, clip.fixed_size) == (384, 384, "bicubic", False)
    assert clip.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    assert clip.std == pytest.approx((0.2686, 0.2613, 0.2758), abs=1e-4)
    assert backbone_config("convnext_base").mean == pytest.approx((0.485, 0.456, 0.406))
    assert backbone_config("test_vit").fixed_size


def test_how_images_were_fitted_is_said_in_the_words_of_a_recipe() -> None:
    lite = backbone_config("tf_efficientnet_lite0")
    assert (lite.interpolation, lite.fit, lite.crop_pct) == ("bicubic", "center", 0.875)
    squashed = backbone_config("convnext_base.fb_in22k_ft_in1k_384")
    assert (squashed.fit, squashed.crop_pct) == ("stretch", 1.0)
    for name in (lite, squashed):
        ValidSection.model_validate({"fit": name.fit, "crop": name.crop_pct})


def test_rising_and_rectangular_sizes_pass_where_the_backbone_takes_them() -> None:
    check_sizes(section(), [(32, 32), (50, 70), (440, 610)])
    check_sizes(section(backbone="test_vit"), [(64, 64), (160, 96)])
    model = build_model(section(backbone="test_vit"), num_classes=2, size=(64, 64)).eval()
    assert model(images(1, 160, 96)).shape == (1, 2)


def test_a_size_that_does_not_fit_is_refused_with_its_key_and_one_that_does() -> None:
    with pytest.raises(RecipeError, match=r"stage\.1\.size = \[16, 16\].*\[32, 32\] works"):
        check_sizes(section(), [(64, 64), (16, 16)])
    with pytest.raises(RecipeError, match=r"stage\.0\.size = \[50, 50\].*\[64, 64\] works"):
        check_sizes(section(backbone="test_vit"), [(50, 50)])
    with pytest.raises(RecipeError, match="first one's size"):
        check_sizes(section(backbone="maxvit_tiny_tf_224"), [(256, 256), (320, 320)])


def test_a_suggested_size_does_work() -> None:
    with pytest.raises(RecipeError, match=r"\[52, 104\] works|\[56, 104\] works|\[64, 112\] works"):
        check_sizes(section(backbone="test_vit"), [(50, 100)])
    check_sizes(section(backbone="test_vit"), [(64, 112)])


@pytest.fixture
def broken_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", fail)
    yield


def test_without_a_network_the_error_names_both_ways_out(broken_network: None) -> None:
    with pytest.raises(RecipeError, match=r"Network is unreachable.*model\.weights = .*model\.pretrained = false"):
        build_model(section(pretrained=True), num_classes=2, size=SIZE)


def test_a_backbone_without_pretrained_weights_says_so() -> None:
    name = "mnasnet_050"
    assert not timm.get_pretrained_cfg(name).has_weights
    with pytest.raises(RecipeError, match=r"no pretrained weights.*model\.pretrained = false"):
        build_model(section(backbone=name, pretrained=True), num_classes=2, size=SIZE)


def test_the_same_generator_state_gives_the_same_fresh_model() -> None:
    def fresh() -> Classifier:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return build_model(section(pooling="gem", head="arcface"), num_classes=3, size=SIZE)

    first, second = fresh().state_dict(), fresh().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
