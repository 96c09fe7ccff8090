"""What was freed between things that are still there goes back to the system when it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.kernels.memory import give_back


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux")
def test_freed_memory_goes_back() -> None:
    if not give_back():
        pytest.skip("no glibc")
    pieces = [bytes(100_000) for _ in range(1000)]  # too small to be mapped one by one
    kept = pieces[::50]
    full = resident_mib()
    del pieces
    give_back()
    assert resident_mib() < full - 60 and len(kept) == 20
