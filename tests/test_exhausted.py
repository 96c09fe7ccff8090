"""Out of memory is recognised, whoever says it, and told with a remedy."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.errors import EngineError, Exhausted, RecipeError
from engine.exhausted import exhausted, told_when_exhausted

HOST = [
    MemoryError(),
    MemoryError("std::bad_alloc"),
    pa.ArrowMemoryError("malloc of size 9 failed"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:131] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("could not create a memory object"),
    RuntimeError("[/opt/dali/core/mm/malloc_resource.h:47] std::bad_alloc"),
]
DEVICE = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"),
    RuntimeError("Error in thread 0: Can't allocate 120000000 bytes on device 0."),
    EngineError("decoding failed on the device: cudaErrorMemoryAllocation"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    RecipeError("stage.0.batch: expected 1 or more"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", HOST, ids=lambda error: str(error)[:40])
def test_main_memory(error: BaseException) -> None:
    assert exhausted(error) == "main memory"


@pytest.mark.parametrize("error", DEVICE, ids=lambda error: str(error)[:40])
def test_the_devices_memory(error: BaseException) -> None:
    assert exhausted(error) == "the device's memory"


@pytest.mark.parametrize("error", OTHERS, ids=lambda error: str(error)[:40])
def test_other_errors_stay_what_they_are(error: BaseException) -> None:
    assert exhausted(error) is None
    with pytest.raises(type(error)) as caught, told_when_exhausted("trying", lambda where: "no"):
        raise error
    assert caught.value is error


def test_what_really_fails_is_recognised() -> None:
    told = told_when_exhausted("multiplying", lambda where: "Ask for less")
    with pytest.raises(Exhausted, match=r"main memory ran out while multiplying \(.*\)\. Ask for less"), told:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(Exhausted, match="main memory"), told_when_exhausted(lambda: "counting", lambda where: where):
        np.empty(2**60, dtype=np.uint8)


def test_it_is_found_behind_an_error_raised_from_it_and_told_once() -> None:
    outer, inner = told_when_exhausted("all", lambda _: "outer"), told_when_exhausted("a part", lambda _: "inner")
    with pytest.raises(Exhausted) as caught, outer, inner:
        try:
            raise MemoryError
        except MemoryError as error:
            raise EngineError("a batch could not be made") from error
    assert str(caught.value) == "main memory ran out while a part (a batch could not be made). inner"
