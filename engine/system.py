"""The machine and the installation, as far as results and messages name them. Knows no torch: it is asked before that
is imported."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import platform
import pwd
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from engine.errors import EngineError

GIB = 2**30

_CGROUPS = (  # control groups of versions 2 and 1: the folder, and the files of limit and usage in it
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_LIBRARIES = ("torch", "timm", "torchvision", "kornia", "nvidia-dali-cuda130", "numpy", "pyarrow", "safetensors")


def cores() -> int:
    """How many cores this process may use: those it may run on, and no more than its container's share of time."""
    quota = cpu_quota()
    allowed = _cores_to_run_on()
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


def _cores_to_run_on() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups of this process allow (Linux); None without a limit."""
    groups, quotas = root / "sys/fs/cgroup", []
    for place in _groups_of_this_process(root):
        for folder in (place, *place.parents):
            for limits in ((groups / folder / "cpu.max",), *_of_version_1(groups, folder)):
                with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                    quota, period = " ".join(file.read_text("ascii") for file in limits).split()
                    if quota != "max" and int(quota) > 0:
                        quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _groups_of_this_process(root: Path) -> Iterator[Path]:
    """Its control groups, from the root of their hierarchy, which is all that a container sees of it."""
    yield Path()
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text("utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
                yield Path(path.lstrip("/"))


def _of_version_1(groups: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    for name in ("cpu", "cpu,cpuacct"):
        yield groups / name / folder / "cpu.cfs_quota_us", groups / name / folder / "cpu.cfs_period_us"


def compiler(language: Literal["C", "C++"]) -> str | None:
    """The compiler that torch and Triton find: the one that CC or CXX names, else a usual one; None for none."""
    asked, usual = {"C": ("CC", ("cc", "gcc", "clang")), "C++": ("CXX", ("g++", "clang++", "c++"))}[language]
    names = (os.environ.get(asked), *usual)
    return next((path for name in names if name and (path := shutil.which(name))), None)


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text("utf-8"), re.MULTILINE)):
        return found[1].strip()
    return platform.processor() or "unknown"


def cache_folder() -> Path:
    """The user's own folder for what can be made again; one for temporary files where there is no home folder."""
    asked, home = os.environ.get("XDG_CACHE_HOME", ""), _home()
    if os.path.isabs(asked):  # others are to be passed over, says the standard  # noqa: PTH117
        return Path(asked) / "engine"
    return home / ".cache" / "engine" if home else _own_temporary()


def settle_environment() -> None:
    """Give libraries what this process's environment may lack: a name for the user, a temporary folder, and folders
    that can be written for what they keep. What is set and works stays as it is.

    In containers users have numbers without an entry, a home folder that is not theirs or none, and disks that are
    read-only or from which no program may be run; torch's compiler, Triton, matplotlib and the hub each end a run over
    that in words of their own. Raises EngineError when no temporary folder can be written.
    """
    if cores() < _cores_to_run_on():  # torch would start a thread for each of them
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")) and not _has_entry():
        os.environ["USER"] = f"uid{os.getuid()}"
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:
        temporary = cache_folder() / "tmp" if _home() else Path()
        if not _takes_files(temporary):
            raise EngineError(
                "no folder for temporary files can be written (/tmp, /var/tmp, this folder): set TMPDIR to one that can"
            ) from None
        temporary.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(temporary)
    if os.environ.get("TMPDIR") and not _takes_files(Path(os.environ["TMPDIR"]), made=True):
        os.environ["TMPDIR"] = str(temporary)  # Python passes over it, others do not
    kept = cache_folder() if _takes_files(cache_folder()) else _own_temporary()
    if _runs_no_programs(temporary):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept / "inductor"))
    home = _home() or Path("/dev/null")  # where nothing can be made
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    for variable, usual in (
        ("TRITON_CACHE_DIR", home / ".triton" / "cache"),
        ("MPLCONFIGDIR", home / ".config" / "matplotlib"),
        ("HF_HOME", caches / "huggingface"),
        ("TORCH_HOME", caches / "torch"),
    ):
        if variable not in os.environ and not _takes_files(usual):
            os.environ[variable] = str(kept / variable.partition("_")[0].lower())


def _home() -> Path | None:
    home = os.path.expanduser("~")  # noqa: PTH111  Path.home raises where there is none
    return Path(home) if os.path.isabs(home) else None  # noqa: PTH117


def _has_entry() -> bool:
    try:
        return bool(pwd.getpwuid(os.getuid()))
    except KeyError:
        return False


def _own_temporary() -> Path:
    """A folder for temporary files that is this user's alone: programs are kept there."""
    folder = Path(tempfile.gettempdir()) / f"engine-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return Path(tempfile.mkdtemp(prefix="engine-"))


def _takes_files(folder: Path, made: bool = False) -> bool:
    """Whether files can be put into the folder, which is made where it is missing, unless it must be `made` already."""
    there = folder if made else next((one for one in (folder, *folder.absolute().parents) if one.exists()), folder)
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _runs_no_programs(folder: Path) -> bool:
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_NOEXEC)
    except (OSError, AttributeError):
        return False


def peak_host_bytes() -> int:
    """Bytes of main memory that this process has held at most, libraries and all.

    Read from /proc where there is one: elsewhere (and in getrusage) a process begins with the figure of the one that
    started it.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text("utf-8"), re.MULTILINE)):
        return int(found[1]) * 1024
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def host_bytes() -> int:
    """Bytes of main memory that this process holds now, libraries and all."""
    status = Path("/proc/self/status")
    found = re.search(r"^VmRSS:\s+(\d+) kB", status.read_text("utf-8"), re.MULTILINE) if status.is_file() else None
    return int(found[1]) * 1024 if found else peak_host_bytes()


def reset_peak() -> None:
    """Let `peak_host_bytes` begin again from what is held now, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def available_host_bytes() -> int | None:
    """Bytes of main memory that this process can still take without swapping, within its control group's limit; None
    where the system does not say."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s+(\d+) kB", info.read_text("utf-8"), re.MULTILINE) if info.is_file() else None
    free = [int(found[1]) * 1024] if found else []
    for folder, limit, used in _CGROUPS:
        try:
            # Files that nobody uses count as used, and give way.
            stat = (folder / "memory.stat").read_text("utf-8")
            spare = sum(int(n) for n in re.findall(r"^inactive_file (\d+)$", stat, re.MULTILINE))
            free.append(max(0, int((folder / limit).read_text()) - int((folder / used).read_text()) + spare))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(free, default=None)


def total_host_bytes() -> int | None:
    """Bytes of main memory that this machine, or this process's control group, has; None where nobody says."""
    info = Path("/proc/meminfo")
    found = re.search(r"^MemTotal:\s+(\d+) kB", info.read_text("utf-8"), re.MULTILINE) if info.is_file() else None
    total = [int(found[1]) * 1024] if found else []
    for folder, limit, _ in _CGROUPS:
        try:
            total.append(int((folder / limit).read_text()))
        except (OSError, ValueError):
            continue
    return min(total, default=None)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
