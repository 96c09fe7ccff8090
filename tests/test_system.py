"""What is said of the machine and the process."""

from __future__ import annotations

import subprocess
import sys

CHILD = "from engine.system import peak_host_bytes as peak; a = peak(); b = b'1' * 2**26; print(a, peak())"
PARENT = (
    f"import subprocess, sys; ballast = b'1' * 2**28; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
)


def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 2**20 < before < 2**27
    assert 0.95 * 2**26 < after - before < 1.2 * 2**26
