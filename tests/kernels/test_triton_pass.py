"""How the Triton kernels run on a GPU; `test_compiled.py` has what can be shown of that without one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.kernels import Plan, Ragged, one_pass


@pytest.mark.gpu
def test_the_pass_keeps_no_memory_from_batch_to_batch() -> None:
    images = Ragged([torch.zeros(60 + i, 90 - i, 3, dtype=torch.uint8, device="cuda") for i in range(32)])
    steps = torch.full((32, 2), 2, dtype=torch.int32)
    plan = Plan(64, 64, torch.eye(3).repeat(32, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    plan = dataclasses.replace(plan, color_op_BK=steps, color_arg_BK=torch.ones(32, 2)).to("cuda")
    out = torch.empty((32, 3, 64, 64), device="cuda", dtype=torch.bfloat16, memory_format=torch.channels_last)
    one_pass(images, plan, out)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    for _ in range(20):
        one_pass(images, plan, out)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_reserved(), torch.cuda.memory_allocated()) == before
