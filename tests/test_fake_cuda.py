"""The double of a GPU itself: what is planted is found, what is right passes, and numbers come out as on the CPU."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.kernels import Plan, Ragged, one_pass

from .fake_cuda import CudaFault, FakeCuda

CUDA = torch.device("cuda", 0)


def pinned(count: int = 8) -> Tensor:
    memory = torch.empty(count, pin_memory=True)
    memory.fill_(1.0)
    return memory


def test_tensors_say_where_they_are_and_hold_what_they_should() -> None:
    with FakeCuda():
        host = torch.arange(6.0)
        there = host.to(CUDA)
        made = torch.zeros(3, device="cuda") + torch.tensor([1.0, 2.0, 3.0], device=CUDA)
        assert host.device.type == "cpu" and not host.is_cuda
        assert there.device == made.device == CUDA and there[2:4].is_cuda and (there * 2).is_cuda
        assert torch.equal(there.cpu(), host) and there.cpu().device.type == "cpu"
        assert made.tolist() == [1.0, 2.0, 3.0]
        assert host.pin_memory().is_pinned() and not host.is_pinned()
        with pytest.raises(RuntimeError, match="same device"):
            there + host
    assert there.device.type == "cpu"  # outside there is no such thing


def test_uploads_are_told_apart_by_what_blocks() -> None:
    with FakeCuda() as gpu:
        memory = pinned()
        memory.to(CUDA, non_blocking=True)
        assert not gpu.blocking_uploads
        memory.to(CUDA)
        torch.ones(8).to(CUDA, non_blocking=True)  # staged
        assert len(gpu.pageable_uploads) == 1 and len(gpu.blocking_uploads) == 1
        torch.ones(1 << 16).to(CUDA, non_blocking=True)
        torch.tensor([1, 2], device=CUDA)
        torch.zeros(4, device=CUDA)[torch.tensor([1, 2])]  # indices are copied, too
        torch.zeros(8, device=CUDA).copy_(torch.ones(8))
        assert [one.pinned for one in gpu.uploads] == [True, True, False, False, False, False, False]
        assert len(gpu.blocking_uploads) == 5
        assert gpu.uploads[0].bytes == 32


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: float(x[0]),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.current_stream().synchronize(),
        lambda x: torch.cuda.current_stream().record_event().synchronize(),
    ],
)
def test_a_planted_wait_is_counted(wait: object) -> None:
    with FakeCuda() as gpu:
        x = torch.ones(4, device=CUDA) * 2
        assert not gpu.waits
        wait(x)  # type: ignore[operator]
        assert len(gpu.waits) == 1


def test_launches_are_kernels_and_no_views() -> None:
    with FakeCuda() as gpu:
        x = torch.empty(4, 4, device=CUDA)
        assert gpu.launches.total() == 0
        x.fill_(1)
        y = x.view(16)[2:].unsqueeze(0)
        assert gpu.launches.total() == 1
        (y + 1).mul_(2)
        torch._foreach_lerp_([x], [x.clone()], 0.5)
        assert gpu.launches.total() == 5 and not gpu.waits and not gpu.uploads


def test_a_model_learns_on_it_as_on_the_cpu() -> None:
    def learnt(device: torch.device) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        for step in range(3):
            images = torch.linspace(0, step + 1, 20).view(5, 4).to(device)
            nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 0, 1, 0], device=device)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).cpu()

    expected = learnt(torch.device("cpu"))
    with FakeCuda() as gpu:
        assert torch.equal(learnt(CUDA), expected)
        assert len(gpu.waits) == 1  # at the end


def test_pinned_memory_that_is_used_again_too_early_is_found() -> None:
    with pytest.raises(CudaFault, match="overwritten while upload"), FakeCuda():
        memory = pinned()
        memory.to(CUDA, non_blocking=True)
        memory.fill_(2.0)
    with FakeCuda():
        memory = pinned()
        memory.to(CUDA, non_blocking=True)
        torch.cuda.current_stream().record_event().synchronize()
        memory.fill_(2.0)
        memory.to(CUDA, non_blocking=True)
        del memory  # torch keeps it until the copy is done


def test_memory_of_others_that_is_given_back_too_early_is_found() -> None:
    with pytest.raises(CudaFault, match="given back while aten::add"), FakeCuda() as gpu:
        pixels = gpu.lend(torch.ones(4))
        pixels + 1
        del pixels
    with pytest.raises(CudaFault, match="overwritten while aten::add"), FakeCuda() as gpu:
        memory = np.ones(4)
        pixels = gpu.lend(torch.from_numpy(memory))
        pixels + 1
        memory[:] = 3
    with FakeCuda() as gpu:
        pixels = gpu.lend(torch.ones(4))
        pixels + 1
        done = torch.cuda.Event()
        done.record()
        assert not done.query()
        done.synchronize()
        assert done.query()
        del pixels


def test_a_stream_that_does_not_wait_for_another_is_found() -> None:
    def read(waits: bool) -> None:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            there = pinned().to(CUDA, non_blocking=True)
            copied = side.record_event()
        if waits:
            torch.cuda.current_stream().wait_event(copied)
        assert (there + 1).tolist() == [2.0] * 8

    with FakeCuda():
        read(waits=True)
    with pytest.raises(CudaFault, match="races with upload"), FakeCuda():
        read(waits=False)
    with pytest.raises(CudaFault, match="races with upload"), FakeCuda(), contextlib.suppress(CudaFault):
        read(waits=False)


def test_memory_of_another_stream_must_outlive_its_readers() -> None:
    def read_and_let_go(record: bool) -> None:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            there = pinned().to(CUDA, non_blocking=True)
        torch.cuda.current_stream().wait_stream(side)
        there + 1
        if record:
            there.record_stream(torch.cuda.current_stream())

    with pytest.raises(CudaFault, match="given back"), FakeCuda():
        read_and_let_go(record=False)
    with FakeCuda():
        read_and_let_go(record=True)


def test_threads_that_are_started_meanwhile_are_seen() -> None:
    with FakeCuda() as gpu:
        thread = threading.Thread(target=lambda: torch.ones(3).to(CUDA))
        thread.start()
        thread.join()
        assert len(gpu.blocking_uploads) == 1


def test_the_pass_reads_by_address(pictures: Ragged) -> None:
    plan = Plan(16, 24, torch.eye(3).repeat(6, 1, 1), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    expected = one_pass(pictures, plan, executor="reference")
    with FakeCuda() as gpu:
        there = Ragged([image.to(CUDA) for image in pictures.tensors])
        gpu.clear()
        batch = one_pass(there, plan)
        assert gpu.launches["pass"] == 1
        assert (batch.cpu() - expected).abs().mean() < 1e-2
    with pytest.raises(CudaFault, match="given back while pass"), FakeCuda() as gpu:
        lent = Ragged([gpu.lend(image.clone()) for image in pictures.tensors])
        one_pass(lent, plan)
        del lent
