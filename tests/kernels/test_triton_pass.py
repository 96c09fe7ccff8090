"""What of the Triton kernel its interpreter cannot show: that it compiles for real GPUs, and how it runs on one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels import Filter, Plan, Ragged, one_pass, triton_pass

TYPES = {
    "out": "*bf16",
    "table": "*i64",
    "noise_seed": "*i64",
    "partner": "*i64",
    **dict.fromkeys(["border", "color_op", "rect", "rect_fill", "box"], "*i32"),
    **dict.fromkeys(["matrix", "border_color", "color_arg", "means", "rect_color", "weight"], "*fp32"),
    **dict.fromkeys(["mean_r", "mean_g", "mean_b", "scale_r", "scale_g", "scale_b"], "fp32"),
    **dict.fromkeys(["steps", "rects", "batch", "height", "width"], "i32"),
}
OPTIONAL = ["border", "border_color", "color_op", "color_arg", "means", "rect", "rect_fill", "rect_color"]
OPTIONAL += ["noise_seed", "partner", "weight", "box"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        ("_pass_kernel", {"FILTER": Filter.BILINEAR, "ANTIALIAS": True, "TILE_X": 64, "TILE_Y": 4}),
        ("_pass_kernel", {"FILTER": Filter.BICUBIC, "ANTIALIAS": False, "TILE_X": 64, "TILE_Y": 4}),
        ("_pass_kernel", {"FILTER": Filter.NEAREST, "ANTIALIAS": True, "TILE_X": 64, "TILE_Y": 4}),
        (
            "_pass_kernel",
            {"FILTER": Filter.BILINEAR, "ANTIALIAS": True, "TILE_X": 64, "TILE_Y": 4, **dict.fromkeys(OPTIONAL)},
        ),
        ("_look_kernel", {"FILTER": Filter.BILINEAR}),
    ],
    ids=["bilinear", "bicubic", "nearest", "bare", "look"],
)
def test_the_kernels_compile_for_gpus_without_one_and_never_use_float64(
    kernel: str, constants: dict[str, int | bool | None], capability: int
) -> None:
    function = getattr(triton_pass, kernel)
    signature = {name: "constexpr" if name in constants else TYPES[name] for name in function.arg_names}
    source = ASTSource(function, signature, constexprs=constants)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), {"enable_fp_fusion": True})
    assert compiled.asm["cubin"]
    assert ".f64" not in compiled.asm["ptx"]


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
