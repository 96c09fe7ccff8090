"""Weights from files: a backbone is taken whole or refused, heads may differ, nothing is unpickled."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from engine.errors import RecipeError
from engine.model.build import build_model, check_weights
from engine.model.weights import read_weights
from engine.recipe.sections import ModelSection

SIZE = (64, 64)


def section(**keys: object) -> ModelSection:
    return ModelSection(**{"backbone": "test_convnext", "pretrained": True, **keys})


def same_backbone(model: nn.Module, plain: nn.Module) -> bool:
    theirs = plain.state_dict()
    return all(torch.equal(t, theirs[n]) for n, t in model.get_submodule("backbone").state_dict().items())


@pytest.fixture
def plain() -> nn.Module:
    """timm's model with its thousand-class head."""
    return timm.create_model("test_convnext")


def write(plain: nn.Module, path: Path) -> Path:
    state = plain.state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.stem == "wrapped":
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "wrapped.pt"])
@pytest.mark.parametrize("pooling", ["avg", "gem2"])
def test_a_plain_timm_file_gives_the_backbone_and_its_head_is_reported(
    tmp_path: Path, plain: nn.Module, name: str, pooling: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(plain, tmp_path / name)
    with caplog.at_level(logging.INFO, "engine"):
        model = build_model(section(weights=str(path), pooling=pooling), num_classes=3, size=SIZE)
    assert same_backbone(model, plain)
    assert "head.fc.weight" in caplog.text


def test_a_file_beats_the_hub(tmp_path: Path, plain: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    model = build_model(section(weights=str(write(plain, tmp_path / "w.pth"))), num_classes=3, size=SIZE)
    assert same_backbone(model, plain)


def test_our_own_weights_come_back_whole(tmp_path: Path) -> None:
    first = build_model(section(pretrained=False, pooling="gem2", head="arcface"), num_classes=3, size=SIZE)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(first.state_dict(), path)
    second = build_model(section(weights=str(path), pooling="gem2", head="arcface"), num_classes=3, size=SIZE)
    assert all(torch.equal(t, second.state_dict()[n]) for n, t in first.state_dict().items())


def test_our_own_weights_serve_another_number_of_classes_with_a_fresh_head(tmp_path: Path) -> None:
    first = build_model(section(pretrained=False), num_classes=3, size=SIZE)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(first.state_dict(), path)
    second = build_model(section(weights=str(path)), num_classes=5, size=SIZE)
    assert same_backbone(second, first.backbone)
    assert second.head.linear.weight.shape[0] == 5


def test_a_vit_file_of_another_grid_is_interpolated(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=96).state_dict()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(state, path)
    model = build_model(section(backbone="test_vit", weights=str(path)), num_classes=2, size=SIZE)
    assert torch.equal(model.backbone.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    assert not torch.equal(model.backbone.pos_embed, torch.zeros_like(model.backbone.pos_embed))


def test_the_file_of_another_backbone_is_refused_and_what_did_not_fit_is_listed(tmp_path: Path) -> None:
    path = write(timm.create_model("test_convnext2"), tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match=r"does not fit.*of another shape: backbone\.stem\.0\.weight \(file \[32"):
        build_model(section(weights=str(path)), num_classes=3, size=SIZE)


def test_the_file_of_another_family_is_refused(tmp_path: Path) -> None:
    path = write(timm.create_model("test_resnet"), tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"not in the file: backbone\.stem.*and \d+ more.*only in the file"):
        build_model(section(weights=str(path)), num_classes=3, size=SIZE)


def test_the_file_of_a_deeper_sister_is_refused_not_cut_down(tmp_path: Path, plain: nn.Module) -> None:
    state = dict(plain.state_dict())
    state["stages.3.blocks.9.conv_dw.bias"] = torch.zeros(64)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match=r"only in the file: backbone\.stages\.3\.blocks\.9"):
        build_model(section(weights=str(tmp_path / "w.pth")), num_classes=3, size=SIZE)


class Payload:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.path,))


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path, plain: nn.Module) -> None:
    trace = tmp_path / "trace"
    torch.save({"state_dict": plain.state_dict(), "more": Payload(trace)}, tmp_path / "w.pth")
    with pytest.raises(RecipeError, match="plain tensors"):
        read_weights(tmp_path / "w.pth")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"no tensors in here", b"PK\x03\x04 cut short"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=name):
        read_weights(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        read_weights(tmp_path / "nothing.pth")
    with pytest.raises(RecipeError, match=r"weights\.safetensors"):
        read_weights(tmp_path)


# --- what tools put around a state dict ------------------------------------------------------------------------------


def saved(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


PREFIXES = """
    model. module. backbone. _orig_mod. encoder. net. student. teacher. timm_model. a.tool.of.tomorrow.
    module._orig_mod.model. model._orig_mod.module. _orig_mod.module.backbone.
"""


@pytest.mark.parametrize("prefix", PREFIXES.split())
def test_whatever_stands_before_the_names_is_taken_off_and_told(tmp_path: Path, plain: nn.Module, prefix: str) -> None:
    path = saved(prefixed(plain.state_dict(), prefix), tmp_path / "w.pt")
    assert same_backbone(build_model(section(weights=path), num_classes=3, size=SIZE), plain)
    said = check_weights(section(weights=path), 3, SIZE)
    assert "tensors of the backbone fit" in said and "head.fc.weight" in said
    bare = prefix.replace("_orig_mod.", "")
    assert (f'"{bare}" taken off' in said) == (bare not in ("", "backbone."))


@pytest.mark.parametrize(
    "keys", ["state_dict", "model", "ema", "model_ema", "state_dict_ema", "params", "weights", "module", "ema.module"]
)
def test_a_state_dict_is_found_under_any_key(tmp_path: Path, plain: nn.Module, keys: str) -> None:
    content: object = prefixed(plain.state_dict(), "module.")
    for key in reversed(keys.split(".")):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    path = saved(content, tmp_path / "w.ckpt")
    assert same_backbone(build_model(section(weights=path), num_classes=3, size=SIZE), plain)
    assert f'found under "{keys}"' in check_weights(section(weights=path), 3, SIZE)


@pytest.mark.parametrize(
    "together",
    [
        lambda raw, average: {"state_dict": raw, "state_dict_ema": average},
        lambda raw, average: {"model": raw, "ema": {"module": average}},
        lambda raw, average: {"state_dict": prefixed(raw, "model.") | prefixed(average, "ema_model.")},
        lambda raw, average: prefixed(raw, "student.backbone.") | prefixed(average, "teacher.backbone."),
    ],
)
def test_of_two_sets_of_weights_the_averaged_one_is_taken(
    tmp_path: Path, plain: nn.Module, together: Callable[..., object]
) -> None:
    raw = {name: torch.zeros_like(tensor) for name, tensor in plain.state_dict().items()}
    path = saved(together(raw, plain.state_dict()), tmp_path / "w.pt")
    assert same_backbone(build_model(section(weights=path), num_classes=3, size=SIZE), plain)


def test_other_parts_of_a_tools_model_are_named_and_left(tmp_path: Path, plain: nn.Module) -> None:
    whole = prefixed(plain.state_dict(), "model.") | {"criterion.weight": torch.ones(3), "head.1.bias": torch.ones(3)}
    said = check_weights(section(weights=saved({"state_dict": whole}, tmp_path / "w.ckpt")), 3, SIZE)
    assert "criterion.weight" in said and "head.1.bias" in said


def test_our_own_weights_are_found_in_a_wrapper_too(tmp_path: Path) -> None:
    first = build_model(section(pretrained=False, pooling="gem2"), num_classes=3, size=SIZE)
    path = saved({"model": prefixed(first.state_dict(), "_orig_mod.module.")}, tmp_path / "w.pt")
    second = build_model(section(weights=path, pooling="gem2"), num_classes=3, size=SIZE)
    assert all(torch.equal(t, second.state_dict()[n]) for n, t in first.state_dict().items())


def test_a_wrapped_vit_of_another_grid_is_interpolated(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", img_size=96).state_dict()
    path = saved({"state_dict": prefixed(state, "model.")}, tmp_path / "w.ckpt")
    model = build_model(section(backbone="test_vit", weights=path), num_classes=2, size=SIZE)
    assert torch.equal(model.backbone.patch_embed.proj.weight, state["patch_embed.proj.weight"])


def renamed(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of another implementation: other names, the same tensors in the same order."""
    kinds = [(name.rpartition(".")[2], tensor) for name, tensor in model.state_dict().items()]
    return {f"layer{i}.{kind}": tensor for i, (kind, tensor) in enumerate(kinds) if kind != "num_batches_tracked"}


@pytest.mark.parametrize("pooling", ["avg", "gem2"])
def test_another_implementations_file_is_taken_by_its_order_and_told(tmp_path: Path, pooling: str) -> None:
    theirs = timm.create_model("test_efficientnet")
    made = section(backbone="test_efficientnet", pooling=pooling, weights=saved(renamed(theirs), tmp_path / "w.pth"))
    model = build_model(made, num_classes=3, size=SIZE)
    own = model.get_submodule("backbone").state_dict()
    expected = theirs.state_dict()
    assert own and all(torch.equal(t, expected[n]) for n, t in own.items() if "num_batches" not in n)
    assert "taken by their order" in check_weights(made, 3, SIZE)


def test_order_alone_is_not_trusted(tmp_path: Path) -> None:
    theirs = renamed(timm.create_model("test_efficientnet"))
    made = section(backbone="test_efficientnet")
    names = list(theirs)
    swapped = {n: theirs[n] for n in [names[2], names[1], names[0], *names[3:]]}
    other_kinds = {n.replace("running_mean", "mean"): t for n, t in theirs.items()}
    for number, content in enumerate((swapped, other_kinds, dict(list(theirs.items())[:-6]))):
        path = saved(content, tmp_path / f"{number}.pth")
        with pytest.raises(RecipeError, match=r"0 of 1?[0-9]+ tensors fit"):
            check_weights(made.model_copy(update={"weights": path}), 3, SIZE)
    sorted_file = tmp_path / "w.safetensors"  # a format that keeps no order
    safetensors.torch.save_file(theirs, sorted_file)
    with pytest.raises(RecipeError, match="tensors fit"):
        check_weights(made.model_copy(update={"weights": str(sorted_file)}), 3, SIZE)


def test_what_fits_and_what_does_not_is_counted(tmp_path: Path, plain: nn.Module) -> None:
    state = prefixed(plain.state_dict(), "model.")
    total = sum(not name.startswith("model.head.fc") for name in state)
    state["model.stem.0.weight"] = torch.zeros(1)
    del state["model.stem.0.bias"]
    path = saved({"state_dict": state}, tmp_path / "w.ckpt")
    expected = rf"{total - 2} of {total} tensors fit .*not in the file: backbone\.stem\.0\.bias; of another shape: "
    with pytest.raises(RecipeError, match=expected):
        build_model(section(weights=path), num_classes=3, size=SIZE)


def test_plain_settings_beside_the_weights_do_no_harm(tmp_path: Path, plain: nn.Module) -> None:
    """timm and torchvision save their command line as a Namespace, of which nothing has to be run."""
    content = {"state_dict": plain.state_dict(), "args": argparse.Namespace(lr=0.1, out=Path("runs"))}
    model = build_model(section(weights=saved(content, tmp_path / "w.pth.tar")), num_classes=3, size=SIZE)
    assert same_backbone(model, plain)


def test_a_refused_object_is_named(tmp_path: Path, plain: nn.Module) -> None:
    torch.save(plain, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=r"holds an object of timm\.models\.convnext\.ConvNeXt.*state dict alone"):
        read_weights(tmp_path / "w.pt")
