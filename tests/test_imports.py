"""The flow is one way: a room imports only rooms before it, and the kernels import nothing of the engine.

Read from the source and not from what happens to be imported, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Rooms in the order of the flow. Those on one line are siblings that do not know each other. `kernels` stands first:
# it imports nothing, and decoding already hands on its type of ragged images.
GROUND = ["errors", "text", "files", "system", "quarantine", "events", "predictions", "metrics"]
FLOW = [
    *([module] for module in GROUND),  # what all rooms but the kernels stand on
    ["kernels"],
    ["recipe"],
    ["data"],
    ["order", "ranks"],
    ["decode"],
    ["augment"],
    ["loader"],
    ["model"],
    ["store"],
    ["inference"],
    ["ensemble"],
    ["train", "predict"],
    ["tune", "track", "synth"],
    ["report", "export", "serve"],
    ["bench"],
    ["cli"],
]
STEP = {room: step for step, rooms in enumerate(FLOW) for room in rooms}
NATIVE = {"triton", "ctypes", "cffi", "pybind11", "torch.utils.cpp_extension"}  # ways to code that is no Python
NATIVE_CALLS = {"CDLL", "PyDLL", "load_library", "load_inline", "ExtensionFileLoader"}
OUTSIDE_THE_RECIPE = {"torch", "nvidia", "numpy", "pyarrow", "timm", "kornia"}  # a recipe is text


def faults(root: Path) -> list[str]:
    """Every import under `root`/engine and `root`/kernels that goes the wrong way, as "file:line: what is wrong"."""
    found = []
    for path in sorted([*(root / "engine").rglob("*.py"), *(root / "kernels").rglob("*.py")]):
        relative = path.relative_to(root)
        if relative.parts[:2] == ("engine", "kernels"):  # the link to kernels/
            continue
        # kernels/plan.py is the module engine.kernels.plan, as installed.
        module = (("engine",) if relative.parts[0] == "kernels" else ()) + relative.with_suffix("").parts
        room = module[1] if len(module) > 1 else ""
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        found += [f"{relative}:{line}: {fault}" for line, fault in _faults(tree, module, room)]
    return found


def _faults(tree: ast.Module, module: tuple[str, ...], room: str) -> Iterator[tuple[int, str]]:
    if room not in STEP and room != "__init__":
        yield 1, f"engine.{room} is in no place of the flow: add it to FLOW in {Path(__file__).name}"
        return
    for line, name, relative in _imports(tree, module):
        package, _, inside = name.partition(".")
        target = inside.partition(".")[0]
        if package == "engine":
            if room == "kernels" and not relative:
                yield line, f"imports {name}; kernels import each other relatively and nothing of the engine"
            elif target == room:
                continue
            elif target not in STEP:
                yield line, f"imports {name}, which is no room"
            elif room == "__init__" or STEP[target] >= STEP[room]:
                yield line, f"{room} imports {name}, which comes after it or stands beside it"
        elif package == "kernels":
            yield line, f"imports {name}; it is installed as engine.kernels"
        elif room != "kernels" and any(name == way or name.startswith(f"{way}.") for way in NATIVE):
            yield line, f"imports {name}; only kernels reach native code"
        elif room == "recipe" and package in OUTSIDE_THE_RECIPE:
            yield line, f"imports {name}; a recipe knows no tensors, decoders or tables"
    for node in ast.walk(tree):
        if room != "kernels" and isinstance(node, ast.Attribute) and node.attr in NATIVE_CALLS:
            yield node.lineno, f"{node.attr}: only kernels load native code"


def _imports(tree: ast.Module, module: tuple[str, ...]) -> Iterator[tuple[int, str, bool]]:
    """(line, full name of what is imported, whether it was named relatively)."""
    package = module[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module or "") if part)
            # `from engine import data` imports a room as well
            names = [f"{source}.{alias.name}" for alias in node.names] if source == "engine" else [source]
            yield from ((node.lineno, name, node.level > 0) for name in names)


def test_every_import_points_up_the_flow() -> None:
    wrong = faults(ROOT)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "line", "word"),
    [
        ("engine/data/a.py", "from engine.train.trainer import x", "train"),
        ("engine/data/a.py", "import engine.cli.main", "cli"),
        ("engine/data/a.py", "def f() -> None:\n    from engine import model", "model"),
        ("engine/data/a.py", "from ..augment import draw", "augment"),
        ("engine/train/a.py", "from engine.predict import run", "predict"),
        ("engine/predict/a.py", "from engine.train import optim", "train"),
        ("engine/metrics.py", "from engine import store", "store"),
        ("engine/errors.py", "from engine.recipe import load", "recipe"),
        ("engine/novel/a.py", "x = 1", "novel"),
        ("engine/augment/a.py", "import triton.language as tl", "triton"),
        ("engine/decode/a.py", "import torch\ntorch.ops.load_library('x.so')", "load_library"),
        ("engine/decode/a.py", "from torch.utils.cpp_extension import load", "cpp_extension"),
        ("engine/augment/a.py", "import kernels.plan", "engine.kernels"),
        ("engine/recipe/a.py", "import torch", "torch"),
        ("kernels/a.py", "from engine.errors import EngineError", "engine.errors"),
        ("kernels/a.py", "import engine.kernels.plan", "engine.kernels.plan"),
        ("kernels/a.py", "from ..data import manifest", "data"),
    ],
)
def test_an_import_that_goes_the_wrong_way_is_caught(tmp_path: Path, file: str, line: str, word: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line, encoding="utf-8")
    (only,) = faults(tmp_path)
    assert only.startswith(f"{file}:") and word in only


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("engine/train/a.py", "from engine.errors import EngineError\nfrom engine.data import manifest"),
        ("engine/train/a.py", "from engine.train import optim\nfrom . import stage"),
        ("engine/decode/a.py", "from engine.kernels import Ragged"),
        ("engine/cli/a.py", "from engine.predict import run\nfrom engine.train import run"),
        ("kernels/a.py", "import ctypes\nimport triton\nfrom .plan import Plan"),
    ],
)
def test_an_import_up_the_flow_is_allowed(tmp_path: Path, file: str, line: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line, encoding="utf-8")
    assert faults(tmp_path) == []


def test_a_wheel_is_made_without_a_compiler_and_holds_engine_alone(
    tmp_path: Path,
) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    for name in ("engine", "kernels"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", "dist"]
    # Without a compiler: the kernel's library is optional, and building it here would take half a minute.
    environment = os.environ | {"CC": "false", "CXX": "false"}
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, env=environment)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"engine"}
    assert {f"engine/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")} <= set(names)
