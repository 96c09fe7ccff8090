"""How a device is used: what `auto` means, what is done without a compiler, and that a checkpoint goes on answering in
the format it was scored in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.errors import RecipeError
from engine.model.build import Classifier, build_model
from engine.model.runtime import Runtime, check_compiler
from engine.recipe.sections import ModelSection, TrainSection

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_auto_does_without_and_on_is_refused() -> None:
    for device, language in ((CPU, r"C\+\+"), (GPU, "C")):
        with pytest.raises(RecipeError, match=rf'train.compile = "on" needs a {language} compiler, .* install g'):
            check_compiler(TrainSection(compile="on"), device)
        assert not Runtime.of(TrainSection(compile="auto"), device).compile
        assert check_compiler(TrainSection(compile="off"), device) == ""
    assert "not compiled, and slower: install gcc" in check_compiler(TrainSection(), GPU)
    assert check_compiler(TrainSection(), CPU) == ""


def test_with_a_compiler_a_gpu_compiles(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/bin/sh")
    assert Runtime.of(TrainSection(), GPU).compile and not Runtime.of(TrainSection(), CPU).compile
    assert check_compiler(TrainSection(compile="on"), GPU) == ""


def runtime(**train: object) -> Runtime:
    return Runtime.of(TrainSection.model_validate(train), CPU)


def built() -> Classifier:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build_model(ModelSection(backbone="test_efficientnet", pretrained=False), 3, (32, 32))


def kernel(model: nn.Module) -> Tensor:
    """The first convolution's: with three channels and 3 x 3 of them its two formats differ."""
    return next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight


@pytest.mark.parametrize(("switch", "expected"), [("auto", True), ("on", True), ("off", False)])
def test_weights_are_channels_last_unless_that_is_switched_off(switch: str, expected: bool) -> None:
    placed = runtime(channels_last=switch).place(built())
    assert kernel(placed).is_contiguous(memory_format=torch.channels_last) == expected


def test_on_the_cpu_nothing_else_is_on_by_itself() -> None:
    assert (runtime().bf16, runtime().compile) == (False, False)


def test_a_batch_is_taken_as_it_comes_out_of_the_pass_and_stays_channels_last() -> None:
    model = runtime().place(built()).eval()
    taken: list[Tensor] = []
    made: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
            module.register_forward_hook(lambda _, __, output: made.append(output))
    images_BCHW = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        model(images_BCHW)
    assert taken[0].data_ptr() == images_BCHW.data_ptr()
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in made)


def test_both_formats_give_the_same_answers_but_for_rounding() -> None:
    images_BCHW = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
    answers = [runtime(channels_last=switch).place(built()).eval()(images_BCHW) for switch in ("on", "off")]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("switch", "kept"), [("auto", "on"), ("on", "on"), ("off", "off")])
def test_a_checkpoint_keeps_what_was_decided(switch: str, kept: str) -> None:
    written = TrainSection.model_validate({"channels_last": switch, "ema": 0.9})
    saved = Runtime.of(written, CPU).settled(written)
    assert saved == written.model_copy(update={"channels_last": kept})
    assert Runtime.of_checkpoint(saved, CPU) == Runtime.of(written, CPU)


def test_a_checkpoint_from_before_it_was_kept_answers_as_it_was_scored() -> None:
    """`auto` meant: on a GPU."""
    old = TrainSection(precision="fp32")
    assert not Runtime.of_checkpoint(old, CPU).channels_last
    assert Runtime.of_checkpoint(old, GPU).channels_last
