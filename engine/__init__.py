"""The public door: what a library user may rely on. docs/library.md shows it at work; what lies deeper may move.

Names are loaded when they are first used (PEP 562): `import engine` costs next to nothing, and the command line, which
imports it on the way, can answer before torch is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.advice.suggest import suggest
    from engine.ensemble.vote import vote
    from engine.errors import DataError, EngineError, Interrupted, RecipeError
    from engine.events import EpochEnded, Event, Watcher
    from engine.export.runner import Exported
    from engine.export.verify import verify
    from engine.jobs import train
    from engine.kernels import Plan, Ragged, one_pass
    from engine.metrics import evaluate
    from engine.predict.overlay import overlay
    from engine.predict.predictor import Predictor
    from engine.predictions import LabelledPredictions, Predictions
    from engine.recipe.load import load_recipe
    from engine.report.result import write_report
    from engine.store.run_folder import RunFolder

    __version__: str

__all__ = [
    "DataError",
    "EngineError",
    "EpochEnded",
    "Event",
    "Exported",
    "Interrupted",
    "LabelledPredictions",
    "Plan",
    "Predictions",
    "Predictor",
    "Ragged",
    "RecipeError",
    "RunFolder",
    "Watcher",
    "__version__",
    "evaluate",
    "load_recipe",
    "one_pass",
    "overlay",
    "suggest",
    "train",
    "verify",
    "vote",
    "write_report",
]

_WHERE = {
    "engine.advice.suggest": ("suggest",),
    "engine.ensemble.vote": ("vote",),
    "engine.errors": ("DataError", "EngineError", "Interrupted", "RecipeError"),
    "engine.events": ("EpochEnded", "Event", "Watcher"),
    "engine.export.runner": ("Exported",),
    "engine.export.verify": ("verify",),
    "engine.jobs": ("train",),
    "engine.kernels": ("Plan", "Ragged", "one_pass"),
    "engine.metrics": ("evaluate",),
    "engine.predict.overlay": ("overlay",),
    "engine.predict.predictor": ("Predictor",),
    "engine.predictions": ("LabelledPredictions", "Predictions"),
    "engine.recipe.load": ("load_recipe",),
    "engine.report.result": ("write_report",),
    "engine.store.run_folder": ("RunFolder",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("engine")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'engine' has no attribute {name!r}; its names are {', '.join(__all__)}")
    found = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = found  # asked once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
