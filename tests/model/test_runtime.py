"""Where there is no compiler: what insists on one is refused, what can do without it does."""

from __future__ import annotations

import pytest
import torch

from engine.errors import RecipeError
from engine.model.runtime import Runtime, check_compiler
from engine.recipe.sections import TrainSection

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
