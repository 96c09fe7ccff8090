"""How much memory this process has held at most."""

from __future__ import annotations

import re
import resource
from pathlib import Path


def peak_host_bytes() -> int:
    """Bytes of main memory that this process has held at most, libraries and all.

    Read from /proc where there is one: elsewhere (and in getrusage) a process begins with the figure of the one that
    started it.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s+(\d+) kB", status.read_text("utf-8"), re.MULTILINE)):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
