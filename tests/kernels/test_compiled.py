"""What the interpreter cannot show of the pass: that it compiles for real GPUs within its limits, and that the machine
code, followed instruction by instruction (`benchmarks/sass.py`), makes the reference's pixels."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from engine.bench.envelope import read
from engine.kernels import Filter, Plan, Ragged, triton_pass
from engine.kernels.reference import reference_pass

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import count_instructions
import pass_variants
import sass


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def on_machine_code(images: Ragged, plan: Plan, capability: int) -> torch.Tensor:
    shape = (len(images), 3, plan.height, plan.width)
    out = torch.full(shape, torch.nan, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    for launch in count_instructions.launches(partial(triton_pass.triton_pass, images, plan, out)):
        count_instructions.run(launch, capability, images.tensors)
    return out


@pytest.mark.parametrize(
    ("taps", "turned", "perspective"),
    [(2, 7.0, 0.0), (3, 7.0, 0.002), (4, 40.0, 0.0)],
    ids=["inside", "inside, in perspective", "with borders"],
)
def test_the_machine_code_makes_the_references_pixels(taps: int, turned: float, perspective: float) -> None:
    images, plan = pass_variants.drawn(taps, True, 16, turned)
    plan = dataclasses.replace(plan, rect_BR4=torch.tensor([[[2, 3, 9, 6]], [[0, 0, 5, 9]]], dtype=torch.int32))
    plan.matrix_B33[:, 2, 0] = perspective
    got, want = on_machine_code(images, plan, 90), reference_pass(images, plan)
    torch.testing.assert_close(got.float(), want, atol=2e-4, rtol=2**-8)


def test_the_pass_keeps_its_limits() -> None:
    (variant,) = (v for v in pass_variants.counted_variants() if v.name == "2 taps, mixed")
    row = count_instructions.counted(variant, 90)
    assert count_instructions.beyond(variant, row) == []


@pytest.mark.parametrize(("filter", "capability"), [(Filter.NEAREST, 80), (Filter.BICUBIC, 89)])
def test_the_pass_compiles_for_gpus_without_one(filter: Filter, capability: int) -> None:
    images, plan = pass_variants.drawn(2, False)
    _, launch = pass_variants.passed(images, dataclasses.replace(plan, filter=filter))
    program, _, _ = count_instructions.compiled(launch, capability)
    assert program.registers <= pass_variants.REGISTERS
    assert program.stack_bytes == 0
    assert {one.name for one in program.instructions}.isdisjoint({"DADD", "DMUL", "DFMA", "DSETP"})


def test_the_pass_says_what_was_counted() -> None:
    result = read(count_instructions.frame.RESULTS / "instructions.json")
    says = " ".join((triton_pass.__doc__ or "").split())
    assert pass_variants.sentence(result) in says, "the docstring of kernels/triton_pass.py: see pass_variants.sentence"


@triton.jit
def _beyond(source, to, COUNT: tl.constexpr):
    lane = tl.arange(0, 32)
    tl.store(to + lane, tl.load(source + lane * COUNT))


def test_an_address_that_is_no_tensors_is_found() -> None:
    source, to = torch.arange(32.0), torch.zeros(32)
    (launch,) = count_instructions.launches(lambda: _beyond[(1,)](source, to, COUNT=1, num_warps=1))
    count_instructions.run(launch, 90)
    assert torch.equal(source, to)
    (launch,) = count_instructions.launches(lambda: _beyond[(1,)](source, to, COUNT=2, num_warps=1))
    with pytest.raises(sass.IllegalAddress, match="none of the kernel's tensors, in 'LDG"):
        count_instructions.run(launch, 90)
