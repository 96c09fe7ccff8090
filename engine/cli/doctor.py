"""`engine doctor`: does this machine have what the engine needs, and if not, what would mend it.

Every check tries the thing itself where that takes no more than seconds: a decoder that imports may still not decode.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import click

from engine.cli.common import console_for
from engine.errors import EngineError
from engine.system import GIB, cache_folder, compiler, cores, cpu_quota

REINSTALL = "install engine again: pip install --force-reinstall . in the folder of its source"
LEAST_DISK, COMFORTABLE_DISK = 1 * GIB, 10 * GIB
LEAST_SHARED_MEMORY = 64 * 2**20


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` is given unless all is well."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def _packages() -> Finding:
    versions, missing = [], []
    try:
        wanted = importlib.metadata.requires("engine") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("fail", "engine itself is not installed, only found", REINSTALL)
    for requirement in wanted:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if "extra ==" in requirement:  # of an option, such as engine[track]
            continue
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("fail", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Finding("ok", f"Python {platform.python_version()}, {', '.join(versions)}")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        remedy = "for a GPU: an NVIDIA driver that serves the CUDA of this torch; see nvidia-smi"
        return Finding("warn", f"none visible, everything runs on the CPU (torch {torch.__version__})", remedy)
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    text = f"{'; '.join(found)}; driver {_driver()}; CUDA {torch.version.cuda}; bf16 {'yes' if bf16 else 'no'}"
    if bf16:
        return Finding("ok", text)
    return Finding("warn", text, "without bf16, training runs in fp32 and is slower (train.precision)")


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split("Module", 1)[1].split()[0]
    except (OSError, IndexError):
        return "unknown"


def _decode(device: str) -> Finding:
    """Decode a small JPEG with one colour in each half and look at the pixels."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    from engine.decode.dali import DaliDecoder
    from engine.quarantine import Fault

    if device == "cuda" and not torch.cuda.is_available():
        return Finding("ok", "no GPU, nothing to check")
    pixels_HWC = np.zeros((48, 64, 3), np.uint8)
    pixels_HWC[:, :32, 0] = pixels_HWC[:, 32:, 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels_HWC).save(file, "JPEG", quality=95, subsampling=0)
    decoder = DaliDecoder(torch.device("cuda:0" if device == "cuda" else "cpu"), threads=1)
    (opened,) = decoder.open([file.getvalue()])
    decoded = None if isinstance(opened, Fault) else decoder.jpegs([opened])[0]
    if decoded is None:
        return Finding("fail", "DALI refuses a sound JPEG", REINSTALL)
    difference = np.abs(decoded.pixels_HW3.cpu().numpy().astype(int) - pixels_HWC).mean()
    if difference > 3:
        return Finding("fail", f"decoded pixels are off by {difference:.1f} of 255 on average", REINSTALL)
    return Finding("ok", f"a JPEG decodes to the right pixels on the {'GPU' if device == 'cuda' else 'CPU'}")


def _cpu_kernel() -> Finding:
    from engine.kernels import cpu_pass

    if cpu_pass.available():
        return Finding("ok", f"the compiled kernel, {cpu_pass.simd_level()}")
    remedy = "install g++ or clang++, and then engine again, which builds it"
    return Finding("warn", f"plain torch instead, many times slower: {cpu_pass.why_not()}", remedy)


def _draws() -> Finding:
    from engine.kernels import draws

    if draws.available():
        return Finding("ok", "what is done to a batch is drawn by compiled code")
    remedy = "install g++ or clang++, and then engine again, which builds it"
    return Finding("warn", f"plain torch instead, some twenty times slower: {draws.why_not()}", remedy)


def _files() -> Finding:
    from engine.kernels import files

    if files.available():
        return Finding("ok", "many at once, by compiled code")
    remedy = "install g++ or clang++, and then engine again, which builds it"
    return Finding("warn", f"one by one in Python instead: {files.why_not()}", remedy)


def _jpeg() -> Finding:
    from engine.kernels import jpeg

    if jpeg.available():
        return Finding("ok", "libjpeg-turbo, only what a training image shows")
    remedy = "install g++ or clang++ and libjpeg-dev or libjpeg-turbo-devel, and then engine again, which builds it"
    return Finding("warn", f"DALI instead, whole photos, up to three times slower: {jpeg.why_not()}", remedy)


def _triton() -> Finding:
    import torch

    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        status: Literal["warn", "fail"] = "fail" if torch.cuda.is_available() else "warn"
        return Finding(status, "not installed; the GPU kernels need it", "pip install triton")
    if not torch.cuda.is_available():
        return Finding("ok", f"{version}; used on a GPU only")
    if compiler("C") is None:
        return Finding("fail", f"{version}, but no C compiler, which its launcher needs", "install gcc")
    return Finding("ok", version)


def _compile() -> Finding:
    found = compiler("C++")
    if found is None:
        return Finding("warn", "no C++ compiler", 'install g++, or keep train.compile = "off"')
    return Finding("ok", f"torch.compile has its C++ compiler, {found}")


def _exported() -> Finding:
    """Run a graph of one node."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.UINT8, [2]) for name in ("in", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "same", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"in": np.array([3, 200], np.uint8)})
    if found.tolist() != [3, 200]:
        return Finding("fail", f"onnxruntime {onnxruntime.__version__} answers wrongly", REINSTALL)
    return Finding("ok", f"onnxruntime {onnxruntime.__version__} runs a graph")


def _cores() -> Finding:
    usable = cores()
    text = f"{usable} usable of {os.cpu_count()}"
    quota = cpu_quota()
    if quota is not None and quota < len(os.sched_getaffinity(0)):
        return Finding("warn", f"{text}, but limited to the time of {quota:g}", "raise the container's CPU limit")
    return Finding("ok", text)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("ok", "no /dev/shm on this system")
    size = shutil.disk_usage(folder).total
    if size < LEAST_SHARED_MEMORY:
        return Finding(
            "warn", f"{size / 2**20:.0f} MiB", "training on several GPUs needs more: docker run --shm-size=8g"
        )
    return Finding("ok", f"{size / GIB:.1f} GiB")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / GIB:.1f} GiB free in {Path.cwd()}"
    if free < LEAST_DISK:
        return Finding("fail", text, "free some space, or set the recipe's output to another disk")
    return Finding("ok", text) if free >= COMFORTABLE_DISK else Finding("warn", text, "a few large models fill this")


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Finding("ok", f"{folder} can be written")
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that can be written"
        return Finding("fail", f"{folder} cannot be written: {error.strerror}", remedy)


CHECKS: dict[str, Callable[[], Finding]] = {
    "packages": _packages,
    "GPU": _gpu,
    "decoding on the CPU": partial(_decode, "cpu"),
    "decoding on the GPU": partial(_decode, "cuda"),
    "reading files": _files,
    "fast JPEGs on the CPU": _jpeg,
    "augmentation on the CPU": _cpu_kernel,
    "draws": _draws,
    "Triton": _triton,
    "torch.compile": _compile,
    "exported files": _exported,
    "cores": _cores,
    "shared memory": _shared_memory,
    "disk": _disk,
    "cache folder": _cache,
}


def examine(checks: dict[str, Callable[[], Finding]] = CHECKS) -> Iterator[tuple[str, Finding]]:
    """Run the checks one by one. One that breaks is a failure of its own and does not stop the others."""
    for name, check in checks.items():
        try:
            yield name, check()
        except Exception as error:
            yield name, Finding("fail", f"{type(error).__name__}: {str(error).strip() or 'no message'}", REINSTALL)


@click.command(
    epilog="""\b
Examples:
  engine doctor

\b
Exit codes:
  0  nothing failed (warnings do not count)
  1  something needed is missing
"""
)
def doctor() -> None:
    """Check this machine and the installation."""
    from rich.table import Table
    from rich.text import Text

    console = console_for()
    shown = Table("", "check", "found")
    colors = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    failed = []
    with console.status("Checking ..."):
        for name, finding in examine():
            found = Text(finding.text, overflow="fold")
            if finding.remedy:
                found.append(f"\n-> {finding.remedy}", "bold")
            shown.add_row(Text(finding.status, colors[finding.status]), Text(name), found)
            failed += [name] if finding.status == "fail" else []
    console.print(shown)
    if failed:
        raise EngineError(f"failed: {', '.join(failed)}")
