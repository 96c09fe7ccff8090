"""The flow of docs/architecture.py is one way: a room imports only rooms before it, the kernels nothing of the engine.

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
sys.path.insert(0, str(ROOT / "docs"))

from architecture import STEP, House, Module  # noqa: E402

NATIVE = {"triton", "ctypes", "cffi", "pybind11", "torch.utils.cpp_extension"}  # ways to code that is no Python
NATIVE_CALLS = {"CDLL", "PyDLL", "load_library", "load_inline", "ExtensionFileLoader"}
OUTSIDE_THE_RECIPE = {"torch", "nvidia", "numpy", "pyarrow", "timm", "kornia"}  # a recipe is text


def faults(root: Path) -> list[str]:
    """Every import under `root`/engine and `root`/kernels that goes the wrong way, as "file:line: what is wrong"."""
    return [
        f"{module.path.relative_to(root)}:{line}: {fault}"
        for module in House(root).modules
        for line, fault in (_faults(module) if module.room else _faults_of_the_door(module))
    ]


def _faults(module: Module) -> Iterator[tuple[int, str]]:
    room = module.room
    if room not in STEP:
        yield 1, f"engine.{room} is in no place of the flow: add it to STRETCHES in docs/architecture.py"
        return
    for line, source, name, relative in module.imports:
        full = f"{source}.{name}" if source == "engine" else source  # `from engine import data` imports a room as well
        package, _, inside = full.partition(".")
        target = inside.partition(".")[0]
        if package == "engine":
            if room == "kernels" and not relative:
                yield line, f"imports {full}; kernels import each other relatively and nothing of the engine"
            elif target == room:
                continue
            elif target not in STEP:
                yield line, f"imports {full}, which is no room"
            elif STEP[target] >= STEP[room]:
                yield line, f"{room} imports {full}, which comes after it or stands beside it"
        elif package == "kernels":
            yield line, f"imports {full}; it is installed as engine.kernels"
        elif room != "kernels" and any(full == way or full.startswith(f"{way}.") for way in NATIVE):
            yield line, f"imports {full}; only kernels reach native code"
        elif room == "recipe" and package in OUTSIDE_THE_RECIPE:
            yield line, f"imports {full}; a recipe knows no tensors, decoders or tables"
    for node in ast.walk(module.tree):
        if room != "kernels" and isinstance(node, ast.Attribute) and node.attr in NATIVE_CALLS:
            yield node.lineno, f"{node.attr}: only kernels load native code"


def _faults_of_the_door(module: Module) -> Iterator[tuple[int, str]]:
    """engine/__init__.py may name what it likes, and imports it only when it is asked for: whoever imports one room
    comes through the door and must not get all of them."""
    lazy = {
        line
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for line, source, _, _ in module.imports:
        if line not in lazy and source.partition(".")[0] == "engine":
            yield line, f"imports {source} at once; the door opens a room when somebody asks for it"


def test_every_import_points_up_the_flow() -> None:
    wrong = faults(ROOT)
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("file", "line", "word"),
    [
        ("engine/data/a.py", "from engine.training.trainer import x", "training"),
        ("engine/data/a.py", "import engine.cli.main", "cli"),
        ("engine/data/a.py", "def f() -> None:\n    from engine import model", "model"),
        ("engine/data/a.py", "from ..augment import draw", "augment"),
        ("engine/training/a.py", "from engine.predict import run", "predict"),
        ("engine/predict/a.py", "from engine.training import optim", "training"),
        ("engine/metrics.py", "from engine import store", "store"),
        ("engine/errors.py", "from engine.recipe import load", "recipe"),
        ("engine/novel/a.py", "x = 1", "novel"),
        ("engine/__init__.py", "from engine.training.run import train", "at once"),
        ("engine/data/a.py", "from engine import Predictor", "no room"),
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
        ("engine/training/a.py", "from engine.errors import EngineError\nfrom engine.data import manifest"),
        ("engine/training/a.py", "from engine.training import optim\nfrom . import step"),
        ("engine/decode/a.py", "from engine.kernels import Ragged"),
        ("engine/cli/a.py", "from engine.predict import run\nfrom engine.training import run"),
        ("engine/__init__.py", "if TYPE_CHECKING:\n    from engine.training.run import train"),
        ("engine/__init__.py", "def __getattr__(name):\n    from engine.training.run import train"),
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
