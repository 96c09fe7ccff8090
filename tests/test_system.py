"""What is said about the machine: memory of this process alone, a cache folder that the user may move, versions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.system import cache_folder, cores, cpu_name, library_versions

CHILD = "from engine.system import peak_host_bytes as peak; a = peak(); b = b'1' * 2**26; print(a, peak())"
PARENT = (
    f"import subprocess, sys; ballast = b'1' * 2**28; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
)


def test_peak_memory_is_that_of_the_process_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert 2**20 < before < 2**27
    assert 0.95 * 2**26 < after - before < 1.2 * 2**26


def test_the_cache_folder_is_where_the_system_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "engine"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "engine"


def test_machine_and_versions_have_values() -> None:
    assert cores() >= 1 and cpu_name()
    assert {"python", "numpy", "torch"} <= library_versions().keys()


def test_it_is_asked_before_torch_is_imported() -> None:
    code = "import sys, engine.system, engine.text; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
