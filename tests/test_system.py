"""What is said about the machine: memory of this process alone, a cache folder that the user may move, versions."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import system
from engine.errors import EngineError
from engine.system import (
    cache_folder,
    compiler,
    cores,
    cpu_name,
    cpu_quota,
    library_versions,
    settle_environment,
)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a test sets in the environment ends with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


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


# -- what a process may have to do without


def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without an entry, a name or a home folder that can be written, as containers make them."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME", "TMPDIR", *CACHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(system, "_has_entry", lambda: False)
    monkeypatch.setenv("HOME", "/dev/null")  # nobody, root neither, can put a file there
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME", "OMP_NUM_THREADS")


def test_what_libraries_need_is_found_elsewhere_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing(monkeypatch, tmp_path)
    settle_environment()
    assert getpass.getuser() == f"uid{os.getuid()}"
    for name in ("TRITON_CACHE_DIR", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME"):
        assert Path(os.environ[name]).parent == tmp_path / f"engine-{os.getuid()}"
    assert (tmp_path / f"engine-{os.getuid()}").stat().st_mode & 0o777 == 0o700
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ  # in the temporary folder, by the user's name


def test_what_is_set_and_works_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing(monkeypatch, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("HF_HOME", "/somewhere")
    before = dict(os.environ)
    settle_environment()
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_kept_in_a_temporary_folder_that_somebody_else_has_laid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing(monkeypatch, tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"engine-{os.getuid()}").symlink_to(tmp_path / "theirs")
    settle_environment()
    assert not Path(os.environ["HF_HOME"]).is_relative_to(tmp_path / f"engine-{os.getuid()}")
    assert Path(os.environ["HF_HOME"]).parent.name.startswith("engine-")


def test_compiled_programs_are_kept_where_they_may_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing(monkeypatch, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(system, "_runs_no_programs", lambda folder: True)
    settle_environment()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "home" / ".cache" / "engine" / "inductor")


def test_a_temporary_folder_that_is_gone_is_replaced_for_everybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nothing(monkeypatch, tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    settle_environment()
    assert os.environ["TMPDIR"] == str(tmp_path)


def test_no_temporary_folder_at_all_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing(monkeypatch, tmp_path)

    def none() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(EngineError, match="set TMPDIR"):
        settle_environment()
    monkeypatch.setenv("HOME", str(tmp_path))
    settle_environment()
    assert tempfile.tempdir == str(tmp_path / ".cache" / "engine" / "tmp")


def test_without_any_home_the_cache_is_temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing(monkeypatch, tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody knows this user
    assert cache_folder() == tmp_path / f"engine-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / f"engine-{os.getuid()}"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.scope",
                "sys/fs/cgroup/a.slice/cpu.max": "50000 100000",
                "sys/fs/cgroup/a.slice/b.scope/cpu.max": "max 100000",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "12:memory:/docker/c\n4:cpu,cpuacct:/docker/c",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"sys/fs/cgroup/cpu.max": "what"}, None),
        ({}, None),
    ],
)
def test_a_containers_share_of_time_counts_as_cores(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == quota


def test_cores_are_no_more_than_the_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing(monkeypatch, tmp_path)
    monkeypatch.setattr(system, "_cores_to_run_on", lambda: 64)
    monkeypatch.setattr(system, "cpu_quota", lambda: 2.5)
    assert cores() == 3
    settle_environment()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr(system, "cpu_quota", lambda: 0.1)
    assert cores() == 1


def test_a_compiler_is_the_one_that_is_named_or_a_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compiler("C++") is None
    for name in ("c++", "mine"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    assert compiler("C++") == str(tmp_path / "c++")
    monkeypatch.setenv("CXX", "mine")
    assert compiler("C++") == str(tmp_path / "mine")
