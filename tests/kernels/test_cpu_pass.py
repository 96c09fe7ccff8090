"""What is particular to the compiled kernel: its levels and threads agree, it stays inside the images' memory, takes
nothing from the system once warm, and says why where it cannot run. What it computes is in test_executors.py."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.machinery
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.kernels import Border, Color, Fill, Filter, Plan, Ragged, cpu_pass, dispatch, one_pass
from engine.kernels.reference import reference_pass

LEVEL = "ENGINE_CPU_SIMD"
needs_kernel = pytest.mark.skipif(not cpu_pass.available(), reason=f"no compiled kernel: {cpu_pass.why_not()}")
BEST = cpu_pass.LEVELS.index(cpu_pass.simd_level()) if cpu_pass.available() else 0
LEVELS = cpu_pass.LEVELS[: BEST + 1]
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def random_images(sizes: list[tuple[int, int]], seed: int = 0) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


def centred(image: Tensor, size: tuple[int, int], degrees: float, scale: float, perspective: float = 0) -> Tensor:
    """Output centre to source centre, turned; `scale` source pixels an output pixel."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if degrees == 0:
        linear = np.diag([-scale, scale])  # a flip, so that columns run backwards
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array(image.shape[1::-1]) / 2 - linear @ (np.array(size[::-1]) / 2)
    matrix[2, :2] = perspective
    return torch.from_numpy(matrix).float()


def make_plan(images: list[Tensor], size: tuple[int, int] = (45, 83), seed: int = 0, **changes: object) -> Plan:
    """Every reader of the kernel in one batch: a turn, an upright shrink, a large one, a perspective, in that order."""
    rng = np.random.default_rng(seed)
    kinds = [(20, 0.8, 0), (0, 1.7, 0), (-110, 5.0, 0), (33, 1.6, 2e-3), (0, 0.6, 0), (70, 1.4, 0)]
    batch = len(images)
    matrices = [centred(image, size, *kinds[i % len(kinds)]) for i, image in enumerate(images)]
    ops = [Color.BRIGHTNESS, Color.CONTRAST, Color.SATURATION, Color.HUE, Color.GAMMA]
    args = [1.3, 0.7, 1.4, 0.07, 0.8]
    orders = [rng.permutation(len(ops)) for _ in range(batch)]
    plan = Plan(
        height=size[0],
        width=size[1],
        matrix_B33=torch.stack(matrices),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        border_B=torch.arange(batch, dtype=torch.int32) % 3,
        border_color_B3=torch.from_numpy(rng.random((batch, 3), dtype=np.float32)),
        color_op_BK=torch.tensor([[ops[k] for k in order] for order in orders], dtype=torch.int32),
        color_arg_BK=torch.tensor([[args[k] for k in order] for order in orders]),
        rect_BR4=torch.tensor([[[3, 4, 20, 11]]] * batch, dtype=torch.int32),
        rect_fill_BR=torch.full((batch, 1), int(Fill.NOISE), dtype=torch.int32),
        noise_seed_B=torch.arange(batch),
    )
    return dataclasses.replace(plan, **changes)


def mixing(batch: int) -> dict[str, Tensor]:
    return {
        "partner_B": torch.arange(batch).roll(1),
        "weight_B": torch.linspace(0.1, 1, batch),
        "box_B4": torch.tensor([[5, 6, 30, 20], [0, 0, 0, 0]] * batch, dtype=torch.int32)[:batch],
    }


def run(images: list[Tensor], plan: Plan, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.empty((len(images), 3, plan.height, plan.width), dtype=dtype, memory_format=torch.channels_last).fill_(
        torch.nan
    )
    cpu_pass.cpu_pass(Ragged(images), plan, out)
    return out


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`cpu_pass.set_threads`, undone at the end."""
    yield cpu_pass.set_threads
    cpu_pass.set_threads()


SIZES = [(60, 90), (150, 200), (240, 180), (70, 70), (30, 41), (5, 300), (1, 1)]


# --- levels -----------------------------------------------------------------------------------------------------------


@needs_kernel
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("filter", list(Filter), ids=lambda f: f.name.lower())
@pytest.mark.parametrize("antialias", [True, False], ids=["antialiased", "plain"])
def test_every_level_answers_as_the_reference_does(
    level: str, filter: Filter, antialias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(SIZES)
    plan = make_plan(images, filter=filter, antialias=antialias, **mixing(len(images)))
    monkeypatch.setenv(LEVEL, level)
    assert cpu_pass.simd_level() == level
    # NEAREST takes another pixel where float64 rounds a point to the other side of an edge; in float32 both agree.
    exact = reference_pass(Ragged(images), plan, torch.float32 if filter == Filter.NEAREST else torch.float64)
    error = (run(images, plan) - exact).abs() * STD
    assert error.max() < 1e-3
    assert error.mean() < 1e-4


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_levels_differ_by_rounding_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(SIZES)
    plan = make_plan(images)
    batches = []
    for level in LEVELS:
        monkeypatch.setenv(LEVEL, level)
        batches.append(run(images, plan, dtype).float())
    step = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]  # at values of 1 to 2
    for batch in batches[1:]:
        torch.testing.assert_close(batch, batches[0], atol=1e-3 + step, rtol=step)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_half_precision_is_float32_rounded_to_nearest(
    level: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEVEL, level)
    images = random_images(SIZES)
    plan = make_plan(images, std=(1e-5, 1.0, 3e3))  # results from 1e5, beyond float16, to 1e-8, below its normal range
    assert torch.equal(run(images, plan, dtype), run(images, plan).to(dtype))


@needs_kernel
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0, 40.0])
@pytest.mark.parametrize("degrees", [0, 17])
def test_a_single_color_stays_exactly_that_color(
    level: str, scale: float, degrees: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed-point weights sum to one, whatever their rounding."""
    monkeypatch.setenv(LEVEL, level)
    image = torch.tensor([255, 128, 1], dtype=torch.uint8).expand(90, 80, 3).contiguous()
    plan = Plan(
        height=33,
        width=50,
        matrix_B33=centred(image, (33, 50), degrees, scale).unsqueeze(0),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        border_B=torch.tensor([int(Border.REFLECT)], dtype=torch.int32),
    )
    want = torch.tensor([255, 128, 1]).view(1, 3, 1, 1) / 255
    torch.testing.assert_close(run([image], plan), want.expand(1, 3, 33, 50), atol=1e-5, rtol=0)


# --- threads ----------------------------------------------------------------------------------------------------------


@needs_kernel
@pytest.mark.parametrize("batch", [1, 3, 14])
@pytest.mark.parametrize("mixes", [False, True], ids=["plain", "mixing"])
def test_any_number_of_threads_gives_the_same_batch(batch: int, mixes: bool, threads: Callable[[int], None]) -> None:
    images = random_images((SIZES * 2)[:batch])
    plan = make_plan(images, **(mixing(batch) if mixes else {}))
    threads(1)
    want = run(images, plan)
    for count in (2, 3, 8):
        threads(count)
        assert torch.equal(run(images, plan), want)


@needs_kernel
def test_a_samples_pixels_do_not_depend_on_its_batch() -> None:
    """A batch this large is written around the caches, a single sample through them."""
    images = random_images([(200, 160)] * 6)
    plan = make_plan(images, size=(256, 272))
    together = run(images, plan)
    for i, image in enumerate(images):
        alone = dataclasses.replace(
            plan,
            **{
                f.name: value[i : i + 1]
                for f in dataclasses.fields(plan)
                if isinstance(value := getattr(plan, f.name), Tensor)
            },
        )
        assert torch.equal(run([image], alone)[0], together[i])


@needs_kernel
def test_calls_from_several_python_threads_do_not_meddle(threads: Callable[[int], None]) -> None:
    threads(3)
    jobs = [(random_images(SIZES, seed), seed) for seed in range(8)]
    plans = [make_plan(images, seed=seed) for images, seed in jobs]
    want = [run(images, plan) for (images, _), plan in zip(jobs, plans, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: run(jobs[i][0], plans[i]), list(range(8)) * 3))
    for i, batch in enumerate(got):
        assert torch.equal(batch, want[i % 8])


def exit_code_of_child(work: Callable[[], bool]) -> int:
    """Run `work` in a forked process: 0 when it returns True, negative when a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@needs_kernel
def test_a_forked_process_makes_threads_of_its_own(threads: Callable[[int], None]) -> None:
    threads(3)
    images = random_images(SIZES)
    plan = make_plan(images)
    want = run(images, plan)
    assert exit_code_of_child(lambda: torch.equal(run(images, plan), want)) == 0


@needs_kernel
def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        cpu_pass.set_threads(0)


# --- memory -----------------------------------------------------------------------------------------------------------


def fenced(image: Tensor, at_end: bool) -> Tensor:
    """A copy of `image` that ends (or begins) where memory may not be touched: one byte further is a fault."""
    page, size = mmap.PAGESIZE, image.numel()
    pages = -(-size // page)
    area = mmap.mmap(-1, (pages + 2) * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for forbidden in (address, address + (pages + 1) * page):
        assert protect(forbidden, page, 0) == 0, os.strerror(ctypes.get_errno())
    first = (pages + 1) * page - size if at_end else page
    copy = torch.frombuffer(area, dtype=torch.uint8, count=size, offset=first).view(image.shape)
    return copy.copy_(image)


@needs_kernel
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a fault would end the tests")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])
def test_no_byte_outside_an_image_is_read(level: str, at_end: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL, level)
    sizes = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 5), (7, 6), (40, 33), (33, 40), (9, 300), (300, 9), (64, 64)]
    images = random_images([size for size in sizes for _ in range(6)])  # each size with each kind of matrix
    fences = [fenced(image, at_end) for image in images]

    def same_everywhere() -> bool:
        for filter in Filter:
            for antialias in (True, False):
                # Zoomed in on the corners and edges too: the outermost pixels are where loads are widest.
                plan = make_plan(images, (24, 37), filter=filter, antialias=antialias)
                if not torch.equal(run(fences, plan), run(images, plan)):
                    return False
        return True

    assert exit_code_of_child(same_everywhere) == 0


@needs_kernel
@pytest.mark.parametrize("mixes", [False, True], ids=["plain", "mixing"])
def test_after_the_first_batch_nothing_is_taken_from_the_system(mixes: bool) -> None:
    images = random_images([(300, 400)] * 12)
    plan = make_plan(images, (256, 256), **(mixing(12) if mixes else {}))
    ragged = Ragged(images)
    out = torch.empty((12, 3, 256, 256), memory_format=torch.channels_last)

    def faults_of(batches: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(batches):
            cpu_pass.cpu_pass(ragged, plan, out)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults_of(2)
    # One fresh buffer of the batch's size would be 2,300 pages, one row of scratch for each sample 9.
    assert faults_of(20) < 20 * 3


@needs_kernel
def test_an_image_too_large_to_address_is_refused_by_its_place() -> None:
    images = Ragged(random_images([(4, 4), (4, 4)]))
    images.__dict__["sizes_B2"] = torch.tensor([[4, 4], [30_000, 30_000]], dtype=torch.int32)
    plan = make_plan(list(images.tensors))
    out = torch.empty((2, 3, plan.height, plan.width), memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="image 1 is 30000 x 30000 pixels"):
        cpu_pass.cpu_pass(images, plan, out)


# --- absence ----------------------------------------------------------------------------------------------------------


def test_where_it_cannot_run_auto_falls_back_to_the_reference_with_one_line_of_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(LEVEL, "off")
    images = random_images([(20, 30), (9, 9)])
    plan = make_plan(images)
    assert not cpu_pass.available()
    with pytest.warns(RuntimeWarning, match="not available .ENGINE_CPU_SIMD=off.*many times slower") as caught:
        assert dispatch.fastest(torch.device("cpu")) == "reference"
    assert "\n" not in str(caught[0].message)
    with pytest.warns(RuntimeWarning):
        assert torch.equal(one_pass(Ragged(images), plan), reference_pass(Ragged(images), plan))
    with pytest.raises(RuntimeError, match="not available: ENGINE_CPU_SIMD=off"):
        cpu_pass.simd_level()


def test_an_install_without_a_compiler_says_how_to_get_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEVEL, raising=False)
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [])
    cpu_pass._load.cache_clear()
    try:
        assert not cpu_pass.available()
        assert "was not built" in cpu_pass.why_not() and "compiler" in cpu_pass.why_not()
    finally:
        cpu_pass._load.cache_clear()


@needs_kernel
def test_a_library_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_pass, "_VERSION", -1)
    cpu_pass._load.cache_clear()
    try:
        assert "other sources" in cpu_pass.why_not()
    finally:
        cpu_pass._load.cache_clear()


@needs_kernel
def test_a_level_that_does_not_exist_or_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL, "avx1024")
    with pytest.raises(ValueError, match="ENGINE_CPU_SIMD=avx1024: expected off, generic, avx2, avx512"):
        cpu_pass.available()
    library = cpu_pass._load()
    assert isinstance(library, cpu_pass._Library)
    monkeypatch.setattr(cpu_pass, "_load", lambda: library._replace(best_level=0))
    monkeypatch.setenv(LEVEL, "avx2")
    assert cpu_pass.why_not() == "ENGINE_CPU_SIMD=avx2, but this processor has generic at best"
