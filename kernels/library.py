"""Compiled libraries beside this file, opened by ctypes: one way to find them, and to say why one cannot be used."""

from __future__ import annotations

import ctypes
import importlib.machinery
from pathlib import Path

_COMPILER = "a C++17 compiler at hand"


def load(name: str, version: int, needs: str = _COMPILER) -> ctypes.CDLL | str:
    """The setuptools extension `engine.kernels._{name}`, a plain library, where its `engine_{name}_version()` is that
    of its Python side; else why there is none, with the remedy. `needs`: what it is built with."""
    here = Path(__file__).parent
    files = [here / f"_{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((file for file in files if file.exists()), None)
    if path is None:
        return (
            f"it was not built: install again with {needs}, or, in a checkout, "
            "run `python setup.py build_ext --inplace`"
        )
    try:
        library = ctypes.CDLL(str(path))
        found = library[f"engine_{name}_version"]()
    except (OSError, AttributeError) as error:
        return f"{path.name} cannot be loaded ({error}): build it again on this machine"
    if found != version:
        return f"{path.name} was built from other sources (version {found}, not {version}): build it again"
    return library
