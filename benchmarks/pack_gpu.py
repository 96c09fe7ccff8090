"""All that the GPU suite needs beside torch, for a machine with a GPU and without a network.

    python benchmarks/pack_gpu.py .gpu [--python 3.12] [--arch 90] [--trip-mib 56]

It takes the versions that are installed here, fetches their wheels for the other Python, and leaves what the other
machine has: torch, torchvision, triton and what these bring. Of the libraries it keeps the device code of one
architecture: that of the others is overwritten with zeros, which take no room when packed. Our own C++ travels built,
with libjpeg. All of it comes as folders of at most `--trip-mib`, `.gpu/1`, `.gpu/2`, ..., for machines that take only
so much at once. There, trip by trip, in the root of a checkout:

    mkdir -p ~/site && for part in .gpu/*/*.tar.xz; do tar xJf $part -C ~/site; done && cp ~/site/lib/_*.so kernels/
    PYTHONPATH=~/site:. LD_LIBRARY_PATH=~/site/lib python benchmarks/gpu_suite.py

Some minutes, most of them for packing tightly.
"""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.metadata
import lzma
import mmap
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from engine.system import cores

ROOT = Path(__file__).resolve().parents[1]
THERE = ("torch", "torchvision", "triton")  # and what they bring
OLDER = ("packaging", "typing-extensions")  # brought there, too, but perhaps older than ours want
WANTED = (
    *(
        "nvidia-dali-cuda130",
        "timm",
        "kornia",
        "numpy",
        "pandas",
        "pyarrow",
        "scikit-learn",
        "scipy",
        "simplejpeg",
        "pillow",
    ),
    *("anyascii", "click", "pydantic", "rich", "safetensors", "threadpoolctl", "tomlkit", "pytest", "hypothesis"),
)
# Parts of wheels that nothing of ours opens.
_UNUSED = re.compile(
    r"(/|^)(tests?|include|docs?|examples?)/|lib(arrow_flight|arrow_substrait|parquet_encryption|arrow_python_flight)"
    r"|pyarrow/_(flight|substrait|gcsfs|azurefs|hdfs|s3fs)|\.(pyx|pxd|pyi|lib|a)$"
)
_FATBIN = struct.pack("<I", 0xBA55ED50)
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)),
    *("manylinux2014_x86_64", "manylinux1_x86_64"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="the other machine's")
    parser.add_argument("--arch", type=int, default=90, help="its GPU's compute capability, without the point")
    parser.add_argument("--trip-mib", type=float, default=56.0, help="at most so much in one folder")
    options = parser.parse_args()
    if options.folder.exists():
        shutil.rmtree(options.folder)
    with tempfile.TemporaryDirectory() as temporary:
        site = Path(temporary) / "site"
        for wheel in fetched(wanted(), options.python, Path(temporary) / "wheels"):
            unpacked(wheel, site)
        own_libraries(site)
        for library in site.rglob("*.so*"):
            if library.is_file():
                without_other_architectures(library, options.arch)
        packed = pack(site, Path(temporary) / "packed")
        trips = in_trips(packed, options.trip_mib * 2**20)
        for number, parts in enumerate(trips, 1):
            trip = options.folder / str(number)
            trip.mkdir(parents=True)
            for part in parts:
                shutil.move(part, trip)
            total = sum(part.stat().st_size for part in trip.iterdir())
            print(f"{trip}: {total / 2**20:.1f} MiB, {len(parts)} parts")


def wanted() -> list[str]:
    """NAME==VERSION of all that is to travel, as installed here."""
    bare, own = _closure(THERE) - {*OLDER}, _closure(WANTED)
    return sorted(f"{name}=={importlib.metadata.version(name)}" for name in own - bare)


def _closure(roots: Iterable[str]) -> set[str]:
    """Installed distributions by their canonical names: these and all that they require."""
    found: set[str] = set()
    looked_at: set[tuple[str, str]] = set()  # with "" or an extra that was asked for
    waiting = [(name, "") for name in roots]
    while waiting:
        name, extra = canonicalize_name(waiting[-1][0]), waiting.pop()[1]
        if (name, extra) in looked_at:
            continue
        looked_at.add((name, extra))
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an alternative that is not taken here
        found.add(name)
        for one in map(Requirement, required):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, more) for more in ("", *one.extras)]
    return found


def fetched(names: Iterable[str], python: str, folder: Path) -> list[Path]:
    """Their wheels for that version of Python."""
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *platforms, "--dest", str(folder), *names]
    subprocess.run(command, check=True)
    return sorted(folder.glob("*.whl"))


def unpacked(wheel: Path, site: Path) -> None:
    shutil.unpack_archive(wheel, site, format="zip")
    for path in [*site.rglob("*")]:
        if path.is_file() and _UNUSED.search(path.relative_to(site).as_posix()):
            path.unlink()


def own_libraries(site: Path) -> None:
    """Our C++ as built here, under names that any Python takes (it is opened as a plain library), and libjpeg."""
    folder = site / "lib"
    folder.mkdir(parents=True)
    for built in (ROOT / "kernels").glob("_*.so"):
        shutil.copy(built, folder / f"{built.name.split('.')[0]}.so")
    linked = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    name = ctypes.util.find_library("jpeg")
    for line in linked.splitlines():
        if name is not None and line.split()[0] == name:
            shutil.copy(line.split()[-1], folder / name)
            break


def without_other_architectures(path: Path, arch: int) -> int:
    """Overwrite the device code for all architectures but `arch` with zeros; how many bytes that were.

    A fat binary is a header (magic number, version, its own size, size of what follows) and entries, each with a kind,
    its header's size at byte 4, its size at byte 8 and its architecture at byte 28, as `cuobjdump` reads them.
    """
    zeroed = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at = -1
        while (at := data.find(_FATBIN, at + 1)) >= 0:
            version, header, size = struct.unpack_from("<HHQ", data, at + 4) if at + 16 <= len(data) else (0, 0, 0)
            if version != 1 or header != 16 or at + header + size > len(data):
                continue
            entry, end = at + header, at + header + size
            while entry + 64 <= end:
                begin, length = struct.unpack_from("<IQ", data, entry + 4)
                (for_arch,) = struct.unpack_from("<I", data, entry + 28)
                if not 64 <= begin <= 256 or entry + begin + length > end:
                    break  # no entry as we know them: left as it is
                if for_arch != arch:
                    data[entry + begin : entry + begin + length] = bytes(length)
                    zeroed += length
                entry += begin + length
            at = end - 1
    return zeroed


def pack(site: Path, folder: Path) -> list[Path]:
    """An archive for each folder or file at the top (those of NVIDIA's: one level lower), tightly compressed."""
    folder.mkdir()
    tops = [path for path in site.iterdir() if path.name != "nvidia"] + [*(site / "nvidia").iterdir()]

    def packed(path: Path) -> Path:
        name = path.relative_to(site).as_posix()
        archive = folder / f"{name.replace('/', '.')}.tar.xz"
        with lzma.open(archive, "wb", preset=9) as sink, tarfile.open(fileobj=sink, mode="w") as tar:
            tar.add(path, name)
        return archive

    with ThreadPoolExecutor(cores()) as pool:
        return [*pool.map(packed, tops)]


def in_trips(parts: Iterable[Path], limit: float) -> list[list[Path]]:
    """Archives together up to `limit` bytes each, the largest first. One that is larger by itself is refused."""
    trips: list[tuple[list[Path], float]] = []
    for part in sorted(parts, key=lambda path: path.stat().st_size, reverse=True):
        size = part.stat().st_size
        if size > limit:
            raise SystemExit(f"{part.name}: {size / 2**20:.0f} MiB by itself; give a larger --trip-mib")
        for number, (own, taken) in enumerate(trips):
            if taken + size <= limit:
                trips[number] = ([*own, part], taken + size)
                break
        else:
            trips.append(([part], float(size)))
    return [own for own, _ in trips]


if __name__ == "__main__":
    main()
