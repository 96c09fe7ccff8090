"""The pieces of a network: Triton's against their references, forward and backward, and that they compile for GPUs.

Without a GPU Triton's interpreter runs the kernels, in a process of its own. An answer in bf16 may be off by its last
place: the interpreter cuts off where a GPU rounds.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels import network

Work = Callable[..., list[Tensor]]
SHAPES = {"even": (2, 4, 8, 32), "odd": (1, 3, 9, 37), "row": (2, 1, 2, 5)}  # (B, H, W, C)


@pytest.mark.parametrize("value", ["", "0", "1", "off", "On", "true", "yes", "Y", "False"])
def test_the_interpreter_is_expected_where_triton_uses_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getenv_bool = pytest.importorskip("triton._C.libtriton").getenv_bool
    monkeypatch.setenv("TRITON_INTERPRET", value)
    found = runpy.run_path(network.__file__)["runs_on"](torch.device("cpu"))
    assert found == getenv_bool("TRITON_INTERPRET", False)


def work(name: str, inputs: tuple[Any, ...], gradient: Tensor) -> list[Tensor]:
    """A function of `network`, by name: its answer, and the gradients of those inputs that have some."""
    inputs = tuple(one.detach().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one for one in inputs)
    answer = getattr(network, name)(*inputs)
    learnt = [one for one in inputs if isinstance(one, Tensor) and one.requires_grad]
    return [answer.detach(), *torch.autograd.grad(answer, learnt, gradient.to(answer))]


def checked_by_torch(name: str, inputs: tuple[Any, ...]) -> str:
    """torch's own look at an operator: its schema, its fake, and that autograd and the compiler's tracing agree."""
    from engine.kernels import triton_depthwise, triton_norm

    operator = getattr(triton_depthwise if name == "depthwise" else triton_norm, name)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    return str(set(torch.library.opcheck(operator, inputs, test_utils=checks).values()))


def inputs_of(name: str, shape: tuple[int, ...], low: torch.dtype) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Arguments of a function, its maps in `low`, and the shape of its answer."""
    random = torch.Generator().manual_seed(sum(shape))
    channels = shape[-1]

    def drawn(*size: int, dtype: torch.dtype = torch.float32, learns: bool = True) -> Tensor:
        return torch.randn(*size, generator=random).to(dtype).requires_grad_(learns)

    maps = drawn(*shape, dtype=low)
    if name == "depthwise":
        images_BCHW = maps.detach().permute(0, 3, 1, 2).requires_grad_()
        return (images_BCHW, drawn(channels, 1, 7, 7), drawn(channels), low), images_BCHW.shape
    if name == "layer_norm":
        return (maps, drawn(channels), drawn(channels), 1e-6, low), shape
    if name == "bias_gelu":
        return (maps, drawn(channels)), shape
    keep_B = torch.rand(shape[0], generator=random) if shape[0] > 1 else None
    return (maps, drawn(channels), drawn(channels), keep_B, drawn(*shape), torch.float32), shape


FUNCTIONS = ["depthwise", "layer_norm", "bias_gelu", "scale_add"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_float32_answers_and_gradients_are_the_references(
    interpreter: Callable[..., Any], name: str, shape: tuple[int, ...]
) -> None:
    inputs, answered = inputs_of(name, shape, torch.float32)
    gradient = torch.randn(answered, generator=torch.Generator().manual_seed(1))
    found = interpreter(work, name, inputs, gradient)
    expected = work(f"{name}_reference", inputs, gradient)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_bf16_nothing_is_lost_but_a_rounding(interpreter: Callable[..., Any], name: str) -> None:
    inputs, answered = inputs_of(name, SHAPES["odd"], torch.bfloat16)
    gradient = torch.randn(answered, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = work(f"{name}_reference", tuple(_raised(one) for one in inputs), gradient.float())
    found = interpreter(work, name, inputs, gradient)
    expected = work(f"{name}_reference", inputs, gradient)
    for one, other, true in zip(found, expected, exact, strict=True):
        assert one.dtype == other.dtype
        last_place = 2**-7 if one.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(one.float(), true, rtol=last_place, atol=1e-5 * float(true.abs().max()))


def _raised(value: Any) -> Any:
    """The same numbers in float32."""
    if isinstance(value, Tensor):
        return value.detach().float().requires_grad_(value.requires_grad)
    return torch.float32 if isinstance(value, torch.dtype) else value


def test_images_of_any_memory_format_are_taken(interpreter: Callable[..., Any]) -> None:
    (images_BCHW, *rest), answered = inputs_of("depthwise", (1, 2, 3, 5), torch.float32)
    gradient = torch.randn(answered)
    plain = images_BCHW.detach().contiguous().requires_grad_()
    assert plain.stride() != images_BCHW.stride()
    found = [interpreter(work, "depthwise", (images, *rest), gradient) for images in (images_BCHW, plain)]
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_does_not_learn_costs_no_gradient(interpreter: Callable[..., Any]) -> None:
    (images_BCHW, *rest), answered = inputs_of("depthwise", SHAPES["row"], torch.float32)
    frozen = [one.detach() if isinstance(one, Tensor) else one for one in rest]
    found = interpreter(work, "depthwise", (images_BCHW, *frozen), torch.ones(answered))
    assert len(found) == 2


@pytest.mark.parametrize("name", ["depthwise", "bias_gelu", "scale_add"])
def test_torch_finds_the_operators_well_made(interpreter: Callable[..., Any], name: str) -> None:
    inputs, _ = inputs_of(name, SHAPES["row"], torch.float32)
    assert interpreter(checked_by_torch, name, inputs) == "{'SUCCESS'}"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 64, 64, 128), (3, 14, 14, 384), (2, 7, 7, 1024)])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_on_a_gpu_answers_and_gradients_are_the_references(name: str, shape: tuple[int, ...], low: torch.dtype) -> None:
    inputs, answered = inputs_of(name, shape, low)
    inputs = tuple(
        one.detach().cuda().requires_grad_(one.requires_grad) if isinstance(one, Tensor) else one for one in inputs
    )
    gradient = torch.randn(answered, device="cuda").to(low)
    with torch.backends.cudnn.flags(allow_tf32=False):
        found, expected = work(name, inputs, gradient), work(f"{name}_reference", inputs, gradient)
    for one, other in zip(found, expected, strict=True):
        scale = float(other.abs().max())
        tolerance = 2**-7 if one.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * scale / 4)
