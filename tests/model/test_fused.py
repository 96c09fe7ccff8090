"""Kernels of our own in a backbone: nothing changes but who computes, and only where the kernels run.

Here Triton's interpreter runs them, in a process of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from engine.errors import RecipeError
from engine.model.build import build_model, check_kernels, set_drop_path
from engine.model.fused import FusedBlock, FusedDepthwise, FusedNorm, FusedNorm2d, fuse, slower_without_gpu
from engine.recipe.sections import ModelSection

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {"linear": {}, "convolutions": {"conv_mlp": True}, "v2": {"use_grn": True}}
OURS = (FusedBlock, FusedNorm, FusedNorm2d, FusedDepthwise)


def small(**options: Any) -> ConvNeXt:
    """A ConvNeXt as timm makes it, of four blocks, with weights that are no round numbers."""
    torch.manual_seed(0)
    scale = None if options.get("use_grn") else 0.5
    model = ConvNeXt(
        num_classes=0, depths=(1, 1, 1, 1), dims=(8, 8, 16, 24), drop_path_rate=0.3, ls_init_value=scale, **options
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def shown(model: nn.Module, low: bool = False) -> list[Tensor]:
    """What it answers in training about two images, and its gradients."""
    images_BCHW = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # which blocks stochastic depth drops
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        answer = model.train()(images_BCHW.to(memory_format=torch.channels_last)).float()
    return [answer.detach(), *torch.autograd.grad(answer.square().sum(), list(model.parameters()))]


def fused_and_shown(options: dict[str, Any], what: Any, low: bool = False) -> list[Tensor]:
    torch.set_num_threads(1)
    model = small(**options)
    fuse(model, what)
    return shown(model, low)


def graphs_of_a_fused_model(images_BCHW: Tensor) -> tuple[int, Tensor]:
    """How many graphs the compiler makes of one with all kernels, and its answer."""
    torch.set_num_threads(1)
    model = small().eval()
    fuse(model, "all")
    counter = CompileCounterWithBackend("eager")
    with torch.no_grad():
        answer = torch.compile(model, backend=counter, fullgraph=True)(images_BCHW)
    return counter.frame_count, answer


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_gradients_are_timms(interpreter: Callable[..., Any], kind: str) -> None:
    found = interpreter(fused_and_shown, KINDS[kind], "norm")
    for one, other in zip(found, shown(small(**KINDS[kind])), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_under_autocast_they_are_no_further_off_than_timms(interpreter: Callable[..., Any]) -> None:
    exact, found, theirs = shown(small()), interpreter(fused_and_shown, {}, "norm", True), shown(small(), low=True)
    errors = [
        sum((a - b).norm().item() / b.norm().item() for a, b in zip(one, exact, strict=True)) for one in (found, theirs)
    ]
    assert 0 < errors[0] <= 1.5 * errors[1]


def test_the_compiler_makes_one_graph_of_it_that_answers_as_timms(interpreter: Callable[..., Any]) -> None:
    images_BCHW = torch.randn(1, 3, 32, 32)
    graphs, answer = interpreter(graphs_of_a_fused_model, images_BCHW)
    assert graphs == 1
    torch.testing.assert_close(answer, small().eval()(images_BCHW), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_where_kernels_do_not_run_no_bit_changes(kind: str) -> None:
    model = small(**KINDS[kind])
    fused = copy.deepcopy(model)
    assert fuse(fused, "all") > 8
    assert all(torch.equal(one, other) for one, other in zip(shown(fused), shown(model), strict=True))


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("norm", {FusedBlock: 9, FusedNorm: 9, FusedNorm2d: 3, FusedDepthwise: 0}),
        ("depthwise", {FusedBlock: 0, FusedNorm: 0, FusedNorm2d: 0, FusedDepthwise: 9}),
        ("all", {FusedBlock: 9, FusedNorm: 9, FusedNorm2d: 3, FusedDepthwise: 9}),
        ("off", dict.fromkeys(OURS, 0)),
    ],
)
def test_what_is_asked_for_is_fused_and_names_stay(what: Any, kinds: dict[type[nn.Module], int]) -> None:
    model = timm.create_model("test_convnext", num_classes=0)
    names = list(model.state_dict())
    assert fuse(model, what) == sum(kinds.values())
    assert {kind: sum(type(m) is kind for m in model.modules()) for kind in OURS} == kinds
    assert list(model.state_dict()) == names
    timm.create_model("test_convnext", num_classes=0).load_state_dict(model.state_dict())


def test_other_backbones_have_their_norms_fused_where_a_product_follows() -> None:
    model = timm.create_model("test_vit", num_classes=0)
    assert fuse(model, "norm") == 2 * len(model.blocks)
    assert type(model.blocks[0].norm1) is FusedNorm and type(model.fc_norm) is not FusedNorm
    assert type(model.norm) is not FusedNorm


def test_what_is_not_quite_the_same_is_left_alone() -> None:
    """A strided convolution, one with another padding, a norm without weights: each would be another function."""
    backbone = nn.ModuleDict(
        {
            "strided": nn.Conv2d(8, 8, 7, stride=2, padding=3, groups=8),
            "padded": nn.Conv2d(8, 8, 7, padding=3, groups=8, padding_mode="reflect"),
            "valid": nn.Conv2d(8, 8, 7, groups=8),
            "grouped": nn.Conv2d(8, 8, 7, padding=3, groups=4),
            "small": nn.Conv2d(8, 8, 3, padding=1, groups=8),
            "blocks": nn.ModuleList([timm.layers.LayerNorm(8, affine=False), nn.LayerNorm(8)]),
        }
    )
    assert fuse(backbone, "all") == 0


def test_a_classifier_is_built_so_and_its_weights_are_a_plain_ones() -> None:
    section = ModelSection(backbone="test_convnext", pretrained=False, fused="all")
    model = build_model(section, 3, (32, 32))
    plain = build_model(section.model_copy(update={"fused": "off"}), 3, (32, 32))
    plain.load_state_dict(model.state_dict())
    set_drop_path(model, 0.1)
    assert any(module.drop_prob for module in model.modules() if isinstance(module, timm.layers.DropPath))
    images_BCHW = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images_BCHW), plain.eval()(images_BCHW))


def test_a_backbone_without_use_for_it_is_refused_and_a_cpu_is_told() -> None:
    for what, words in (("norm", "no LayerNorms that"), ("all", "LayerNorms or depthwise 7 x 7 convolutions")):
        section = ModelSection(backbone="test_efficientnet", pretrained=False, fused=what)  # type: ignore[arg-type]
        with pytest.raises(RecipeError, match=rf'model.fused = "{what}": test_efficientnet has .*{words}'):
            check_kernels(section, (32, 32))
        check_kernels(section.model_copy(update={"backbone": "test_convnext"}), (32, 32))
    assert slower_without_gpu("off", CPU) == "" == slower_without_gpu("all", torch.device("cuda"))
    assert "changes nothing on the CPU" in slower_without_gpu("norm", CPU)
