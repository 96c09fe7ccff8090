"""The door to the pass: which executor runs, what it refuses, and that buffers are filled in place."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from engine.kernels import Plan, Ragged, cpu_pass, dispatch, one_pass

IMAGES = Ragged([torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(2, 2, 3, dtype=torch.uint8)])
PLAN = Plan(6, 7, torch.eye(3).repeat(2, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def buffer(**how: Any) -> torch.Tensor:
    return torch.empty((2, 3, 6, 7), **{"memory_format": torch.channels_last, **how})


def test_the_buffer_given_is_the_batch_returned() -> None:
    out = buffer(dtype=torch.bfloat16)
    assert one_pass(IMAGES, PLAN, out) is out
    assert (out == -1).all()


def test_without_a_buffer_a_float32_channels_last_batch_is_made() -> None:
    batch = one_pass(IMAGES, PLAN)
    assert batch.shape == (2, 3, 6, 7)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_auto_on_the_host_is_the_compiled_kernel_where_there_is_one_else_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = torch.device("cpu")
    monkeypatch.setattr(cpu_pass, "available", lambda: True)
    assert dispatch.fastest(host) == "cpu"
    monkeypatch.setattr(cpu_pass, "available", lambda: False)
    with pytest.warns(RuntimeWarning, match="many times slower"):
        assert dispatch.fastest(host) == "reference"
    assert dispatch.fastest(torch.device("cuda")) == "triton"


def test_asking_for_the_compiled_kernel_where_there_is_none_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_pass, "available", lambda: False)
    monkeypatch.setattr(cpu_pass, "why_not", lambda: "no compiler found")
    with pytest.raises(RuntimeError, match="no compiler found"):
        one_pass(IMAGES, PLAN, executor="cpu")


def test_asking_for_triton_on_the_host_says_what_it_needs() -> None:
    with pytest.raises(RuntimeError, match="needs a CUDA device"):
        one_pass(IMAGES, PLAN, executor="triton")


def test_an_unknown_executor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'cuda': expected one of auto, reference, cpu, triton"):
        one_pass(IMAGES, PLAN, executor="cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty((2, 3, 7, 6), memory_format=torch.channels_last), r"shape \(2, 3, 6, 7\)"),
        (buffer(dtype=torch.float64), "float64"),
        (buffer(memory_format=torch.contiguous_format), "channels-last"),
        (buffer(device="meta"), "meta"),
    ],
)
def test_a_buffer_that_does_not_fit_is_refused(out: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_pass(IMAGES, PLAN, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "at least 1 x 1, got 0 x 7"),
        ({"matrix_B33": torch.eye(3).repeat(3, 1, 1)}, r"matrix_B33: expected torch.float32 \(2, 3, 3\)"),
        ({"matrix_B33": torch.eye(3).double().repeat(2, 1, 1)}, "got torch.float64"),
        ({"border_B": torch.zeros(2)}, "border_B: expected torch.int32"),
        ({"color_op_BK": torch.zeros(2, 1, dtype=torch.int32)}, "color_op_BK and plan.color_arg_BK belong together"),
        (
            {"color_op_BK": torch.zeros(2, 1, dtype=torch.int32), "color_arg_BK": torch.zeros(2, 2)},
            r"color_arg_BK: expected torch.float32 \(2, 1\)",
        ),
        ({"rect_BR4": torch.zeros(2, 1, 4, dtype=torch.int32)}, "rect_BR4 and plan.rect_fill_BR belong together"),
        ({"partner_B": torch.tensor([0, 2])}, r"indices 0..1 into the batch, got \[0, 2\]"),
        ({"box_B4": torch.zeros(2, 4)}, "box_B4: expected torch.int32"),
    ],
)
def test_a_plan_that_does_not_fit_the_batch_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_pass(IMAGES, dataclasses.replace(PLAN, **change))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 4, 3), "contiguous uint8"),
        (torch.zeros(4, 4, dtype=torch.uint8), "contiguous uint8"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8).permute(1, 2, 0), "contiguous uint8"),
        (torch.zeros(0, 4, 3, dtype=torch.uint8), "no pixels"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8, device="meta"), "use one device"),
    ],
)
def test_an_image_the_pass_cannot_read_is_refused_by_its_place(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"image 1.*{message}"):
        Ragged([IMAGES.tensors[0], image])


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        one_pass(Ragged([]), dataclasses.replace(PLAN, matrix_B33=torch.zeros(0, 3, 3)))


def test_plan_tensors_may_be_views() -> None:
    images = Ragged([torch.full((4, 4, 3), v, dtype=torch.uint8) for v in (10, 200)])
    plan = dataclasses.replace(PLAN, matrix_B33=torch.eye(3).expand(2, 3, 3), partner_B=torch.arange(4)[1::2] // 2)
    assert torch.equal(one_pass(images, plan), one_pass(images, plan.to("cpu")))
    assert plan.to("cpu").matrix_B33.is_contiguous()
