"""What of the network's kernels an interpreter cannot show: that they compile for GPUs, in registers, without float64.

The shapes are those of convnext_base: channels of its first and last stage.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.kernels import triton_depthwise, triton_norm

MAPS = ("images", "maps", "out", "gradient", "of_maps", "shortcut")
POINTERS = ("weight", "bias", "scale", "keep", "partial", "means", "scales")
TILE = {"TILE_R": 32, "TILE_C": 64}
STRIP = {"TILE_X": triton_depthwise._TILE_X, "TILE_C": triton_depthwise._TILE_C}
# Kernel, its tile, and the registers it may take. With 168 or fewer there are three blocks on a multiprocessor.
KERNELS: list[tuple[Any, dict[str, int], int]] = [
    (triton_depthwise._depthwise_kernel, STRIP, 168),
    (triton_depthwise._weight_gradient_kernel, STRIP, 168),
    (triton_norm._norm_kernel, triton_norm._whole_rows(128), 64),
    (triton_norm._norm_kernel, triton_norm._whole_rows(1024), 64),
    (triton_norm._norm_backward_kernel, triton_norm._whole_rows(128), 128),
    (triton_norm._norm_backward_kernel, triton_norm._whole_rows(1024), 128),
    (triton_norm._gelu_kernel, TILE, 64),
    (triton_norm._gelu_backward_kernel, TILE, 96),
    (triton_norm._scale_add_kernel, TILE, 64),
    (triton_norm._scale_add_backward_kernel, TILE, 128),
]


def type_of(name: str) -> str:
    if name in MAPS:
        return "*bf16"
    return "*fp32" if name in POINTERS else "fp32" if name == "eps" else "i32"


def used(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers a thread, and bytes of local memory, which hold what did not fit into them."""
    (folder / "kernel.cubin").write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "-res-usage", str(folder / "kernel.cubin")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", said)[0]
    return int(registers), int(stack)


@pytest.mark.parametrize(
    ("kernel", "tile", "registers", "capability"),
    [(*each, 90) for each in KERNELS] + [(*KERNELS[0], 80), (*KERNELS[5], 80), (*KERNELS[9], 89)],
)
def test_they_compile_within_their_registers(
    kernel: Any, tile: dict[str, int], registers: int, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    signature = {name: "constexpr" if name in tile else type_of(name) for name in kernel.arg_names}
    aligned = [(i,) for i, name in enumerate(kernel.arg_names) if signature[name][0] == "*" or name == "channels"]
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(kernel, signature, constexprs=tile, attrs=attributes)
    options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    taken, spilled = used(compiled.asm["cubin"], tmp_path)
    assert (taken <= registers, spilled) == (True, 0), f"{taken} registers, {spilled} bytes spilled"
    assert ".f64" not in compiled.asm["ptx"]
