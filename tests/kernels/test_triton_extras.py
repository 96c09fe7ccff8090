"""The extras' Triton kernels against their definition, and what they are for real GPUs.

Both are rounded to 8 bits: an error of a hundredth of a level makes about one value in a hundred another one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from engine.augment.extras import Extra, Extras
from engine.kernels import triton_extras
from engine.kernels.extras import STAGES, jobs_of
from engine.loader.neighbourhood import changed

Run = Callable[[Extras, Tensor], Tensor]

# Operation: its arguments, the size, and the share of 8-bit values that may be another, by one level. A value a
# thousandth of a level from a half may be rounded either way.
CASES = [
    (Extra.BLUR, (0.5, 2.0), (21, 26), 0.001),
    (Extra.MOTION, (3.0, 9.0), (12, 17), 0.001),
    (Extra.NOISE, (0.01, 0.06), (21, 26), 0.001),
    (Extra.JPEG, (20.0, 90.0), (21, 37), 0.002),
    (Extra.CLAHE, (1.0, 4.0), (9, 7), 0.001),  # 4 x 3 tiles of 3 x 3 pixels, filled up
    (Extra.CLAHE, (1.0, 4.0), (8, 12), 0.001),
    (Extra.EQUALIZE, (0.0,), (13, 42), 0.0),
    (Extra.ELASTIC, (0.05,), (16, 13), 0.001),
    (Extra.SHARPNESS, (0.1, 1.9), (21, 26), 0.001),
    (Extra.AUTO_CONTRAST, (0.0,), (9, 7), 0.001),
]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    """Extras on images (N, 3, height, width): on the GPU where there is one, else through Triton's interpreter."""
    on_gpu = torch.cuda.is_available()
    interpreter = None if on_gpu else request.getfixturevalue("interpreter")

    def run(extras: Extras, images_NCHW: Tensor) -> Tensor:
        count, _, height, width = images_NCHW.shape
        jobs = jobs_of(extras.op_BE, extras.arg_BE, extras.seed_B, height, width)
        places = torch.full((jobs.places, height, width, 3), torch.nan)
        places[:count] = images_NCHW.permute(0, 2, 3, 1)
        pixels_NHW3 = torch.empty((count, height, width, 3), dtype=torch.uint8)
        if interpreter is not None:
            return interpreter(triton_extras.triton_extras, jobs, jobs.tensors, places, pixels_NHW3)
        tables = [table.cuda() for table in jobs.tensors]
        return triton_extras.triton_extras(jobs, tables, places.cuda(), pixels_NHW3.cuda()).cpu()

    return run


def images(count: int, size: tuple[int, int], make_photo: Callable[..., Tensor]) -> Tensor:
    """Photos between the 8-bit levels, as warped ones are: whose level would hang on the last bit otherwise."""
    photos_NHW3 = torch.stack([make_photo(*size, seed) for seed in range(count)])
    between = torch.rand(photos_NHW3.shape, generator=torch.Generator().manual_seed(1))
    return ((0.9 * photos_NHW3 + 10 + between) / 255).permute(0, 3, 1, 2).contiguous()


def differences(got: Tensor, expected: Tensor) -> tuple[int, float]:
    """The largest, in levels, and the share of values that differ."""
    apart = (got.int() - expected.int()).abs()
    return int(apart.max()), (apart > 0).float().mean().item()


@pytest.mark.parametrize(("op", "args", "size", "share"), CASES, ids=[op.name.lower() for op, *_ in CASES])
def test_each_operation_is_as_defined(
    op: Extra, args: tuple[float, ...], size: tuple[int, int], share: float, run: Run, make_photo: Callable[..., Tensor]
) -> None:
    count = len(args)
    images_NCHW = images(count, size, make_photo)
    seeds = torch.arange(count) * 77_777_777_777 - 5
    extras = Extras(torch.full((count, 1), op, dtype=torch.int32), torch.tensor(args)[:, None], seeds)
    expected = changed(extras, images_NCHW)
    largest, differing = differences(run(extras, images_NCHW), expected)
    assert largest <= 1 and differing <= share
    plain = (images_NCHW * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
    assert differences(expected, plain)[1] > 0.2  # there was something to get wrong


def test_a_flat_image_stays_what_it_is(run: Run) -> None:
    """No level to equalise by, no contrast to stretch: division by nothing."""
    flat_NCHW = torch.full((2, 3, 8, 7), 0.4)
    extras = Extras(
        torch.tensor([[Extra.EQUALIZE], [Extra.AUTO_CONTRAST]]).int(), torch.zeros(2, 1), torch.zeros(2).long()
    )
    assert run(extras, flat_NCHW).unique().tolist() == [102]


def test_images_go_through_their_own_operations_in_their_own_order(run: Run, make_photo: Callable[..., Tensor]) -> None:
    """Three operations each or fewer, images that skip a slot: nobody reads what another has written."""
    ops = [
        [Extra.BLUR, Extra.NOISE, Extra.NONE],
        [Extra.NONE, Extra.ELASTIC, Extra.SHARPNESS],
        [Extra.JPEG, Extra.BLUR, Extra.ELASTIC],
        [Extra.NOISE, Extra.NONE, Extra.JPEG],
        [Extra.NONE, Extra.NONE, Extra.MOTION],
    ]
    args = [[0.7, 0.03, 9.0], [9.0, 0.03, 1.5], [60.0, 1.0, 0.02], [0.05, 9.0, 40.0], [9.0, 9.0, 3.0]]
    extras = Extras(torch.tensor(ops, dtype=torch.int32), torch.tensor(args), torch.arange(5) * 1234567)
    images_NCHW = images(5, (12, 11), make_photo)
    largest, differing = differences(run(extras, images_NCHW), changed(extras, images_NCHW))
    assert largest <= 1 and differing < 0.003


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([(64, 48), (3, 5), (1, 1)]))
def test_jobs_lead_each_image_through_its_operations(n: int, e: int, seed: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    op_NE = torch.from_numpy(random.integers(0, len(Extra), (n, e)).astype(np.int32))
    op_NE[:, -1] = Extra.NOISE  # each image has one
    jobs = jobs_of(op_NE, torch.full((n, e), 2.0), torch.arange(n), *size)
    at = list(range(n))
    done: list[list[int]] = [[] for _ in range(n)]
    for slot in jobs.slots:
        codes = jobs.job_J8[slot.all.first : slot.all.first + slot.all.count, 1].tolist()
        taken = [slot.jpeg.count, codes.count(Extra.BLUR), slot.changed.count]  # each job ends in one of these
        assert sum(taken) == slot.all.count
        for span, kinds in (
            (slot.elastic, {Extra.ELASTIC}),
            (slot.smoothed, {Extra.BLUR, Extra.ELASTIC}),
            (slot.looked_at, {Extra.CLAHE, Extra.EQUALIZE, Extra.AUTO_CONTRAST}),
            (slot.jpeg, {Extra.JPEG}),
        ):
            chosen = jobs.job_J8[span.first : span.first + span.count, 1].tolist()
            assert set(chosen) <= kinds and len(chosen) == sum(code in kinds for code in codes)
    owners: dict[int, int] = {place: place for place in range(n)}
    wide = -(-(-(-size[0] // 16) * 16 * (-(-size[1] // 16) * 16) // 2) // (3 * size[0] * size[1]))
    for image, op, source, spare, scratch, last, _, _ in jobs.job_J8.tolist():
        assert source == at[image]
        written = [] if last else [spare]
        written += [spare] if op == Extra.ELASTIC else []
        written += range(scratch, scratch + wide) if op in (Extra.BLUR, Extra.ELASTIC, Extra.JPEG) else []
        assert source not in written and all(place < jobs.places for place in written)
        assert all(owners.setdefault(place, image) == image for place in written)
        at[image] = spare
        done[image].append(op)
        assert bool(last) == (len(done[image]) == int((op_NE[image] != 0).sum()))
    assert done == [[op for op in ops if op] for ops in op_NE.tolist()]


# --- for real GPUs ----------------------------------------------------------------------------------------------------

TYPES = {
    **dict.fromkeys(["places", "numbers", "levels", "quant", "taps"], "*fp32"),
    **dict.fromkeys(["jobs", "seeds", "counts"], "*i32"),
    "pixels": "*u8",
    **dict.fromkeys(["first", "height", "width", "rows", "columns"], "i32"),
}
TILE = {"TILE_V": triton_extras._TILE_V, "TILE_Y": triton_extras._TILE_Y}
# Kernel: its constants, warps, and the registers that a thread of it may take.
VARIANTS = {
    "count": ("count", {"CHUNK": triton_extras._CHUNK}, 4, 64),
    "table": ("table", {}, 1, 96),
    "shift": ("shift", TILE, 4, 64),
    "across": ("smooth", TILE | {"DOWN": False}, 4, 96),
    "down": ("smooth", TILE | {"DOWN": True}, 4, 96),
    "change": ("change", TILE, 4, 128),
    "chroma": ("chroma", {}, 1, 160),
    "block": ("block", {}, 1, 160),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@pytest.mark.parametrize(
    ("variant", "capability"), [*((name, 90) for name in VARIANTS), ("change", 80), ("block", 89), ("down", 80)]
)
def test_the_kernels_compile_for_gpus_without_one_and_spill_nothing(
    variant: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing is compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    name, constants, warps, registers = VARIANTS[variant]
    function = getattr(triton_extras, f"_{name}_kernel")
    signature = {arg: "constexpr" if arg in constants else TYPES[arg] for arg in function.arg_names}
    source = ASTSource(function, signature, constexprs=constants)
    options = {"num_warps": warps, **triton_extras._LAUNCH}
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    assert ".f64" not in compiled.asm["ptx"]
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run([CUOBJDUMP, "--dump-resource-usage", binary], capture_output=True, text=True, check=True)
    used, stack, local = (int(re.search(rf"{key}:(\d+)", usage.stdout)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    assert used <= registers
    assert (stack, local) == (0, 0)  # registers spilled to memory, or arrays there


def test_a_slot_has_no_more_stages_than_it_says() -> None:
    """Every kernel runs once a slot, but for the Gaussian: along each axis."""
    kernels = [name for name in vars(triton_extras) if name.endswith("_kernel")]
    assert len(kernels) + 1 == STAGES
