"""Weights from files: a backbone is taken whole or refused, heads may differ, nothing is unpickled."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from engine.errors import RecipeError
from engine.model.build import build_model
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
