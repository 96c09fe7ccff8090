"""The machine and the installation, as far as results and messages name them. Knows no torch: it is asked before that
is imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

GIB = 2**30

_CGROUPS = (  # control groups of versions 2 and 1: the folder, and the files of limit and usage in it
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_LIBRARIES = ("torch", "timm", "torchvision", "kornia", "nvidia-dali-cuda130", "numpy", "pyarrow", "safetensors")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """What the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text("utf-8"), re.MULTILINE)):
        return found[1].strip()
    return platform.processor() or "unknown"


def cache_folder() -> Path:
    """The user's own folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "engine"


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
