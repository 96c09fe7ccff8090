"""Short runs of one recipe with several backbones: which of them is worth a long one.

All train the first stage on the same images and are scored on the same held-out ones. Each runs in a process of its
own (subprocess.py), in a folder of its own, and is done with when its row is written there.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.data.ingest import Progress
from engine.errors import EngineError, Interrupted, RecipeError
from engine.events import RunBegan, Stop, Watcher
from engine.files import write_text
from engine.metrics import METRICS
from engine.model.build import backbone_config, build_model, check_drop_path, check_sizes
from engine.ranks import join_ranks
from engine.recipe.load import parse_saved
from engine.recipe.sections import Recipe
from engine.store.claim import Claim, claim
from engine.store.log import read_log
from engine.store.occupied import only_one
from engine.store.run_folder import OCCUPIED, RunFolder
from engine.system import GIB, peak_host_bytes
from engine.training.prepare import Prepared, prepare
from engine.training.run import train
from engine.tune.subprocess import run_apart

_RESULT = "result.json"
_PEAK = "peak.json"


@dataclasses.dataclass(frozen=True)
class BackboneResult:
    """What a backbone came to, or why it came to nothing."""

    backbone: str
    error: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # of its best epoch, on the held-out images
    train_images_per_second: float = math.nan  # median over the epochs, as the next one
    valid_images_per_second: float = math.nan
    parameters: int = 0
    host_gib: float = math.nan  # the most memory its process held, with all libraries
    device_gib: float | None = None  # the most GPU memory its tensors held; None without a GPU
    seconds: float = math.nan  # of training and validation


def check_backbones(names: Sequence[str]) -> list[str]:
    """The names, each once. Raises RecipeError when timm does not know one of them, naming the nearest, or for none."""
    distinct = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not distinct:
        raise RecipeError("--backbones: expected names of timm models, separated by commas")
    unknown = []
    for name in distinct:
        try:
            backbone_config(name)
        except RecipeError as error:
            unknown.append(str(error))
    if unknown:
        raise RecipeError("--backbones: " + "\n".join(unknown))
    return distinct


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is to be compared, checked: the variants of a recipe by backbone, and why some cannot be trained."""

    folder: Path
    metric: str
    variants: dict[str, Recipe]
    refused: list[BackboneResult]


def plan(recipe: Recipe, names: Sequence[str], folder: Path, progress: Progress | None = None) -> Comparison:
    """Check the backbones and the data, and that `folder` is free for them.

    Raises RecipeError when the folder holds a comparison of another recipe or data, DataError.
    """
    if recipe.data.folds.count == 1:
        raise RecipeError("data.folds.count = 1 holds nothing out that backbones could be compared by: set 2 or more")
    variants = {name: variant(recipe, name, folder) for name in names}
    refused = [BackboneResult(name, error) for name, one in variants.items() if (error := _refusal(one))]
    for row in refused:
        del variants[row.backbone]
    if variants:
        _claim(folder, prepare(next(iter(variants.values())), progress))
    return Comparison(folder, recipe.train.select, variants, refused)


def compare(comparison: Comparison, watcher: Watcher, stop: Stop) -> list[BackboneResult]:
    """A row for each backbone, the best first and those that failed last.

    What an earlier call finished in the folder is taken from there. Writes compare.csv and compare.json. Raises
    Interrupted when `stop` says so.
    """
    with only_one(comparison.folder / OCCUPIED, "a comparison", "Or give --out DIR"):
        tried = [_finished(recipe) or _try(recipe, watcher, stop) for recipe in comparison.variants.values()]
        ranked = rank([*comparison.refused, *tried], comparison.metric)
        write_text(comparison.folder / "compare.csv", to_csv(ranked))
        tables = [dataclasses.asdict(row) for row in ranked]
        write_text(comparison.folder / "compare.json", json.dumps(tables, ensure_ascii=False, indent=1) + "\n")
    return ranked


def variant(recipe: Recipe, backbone: str, folder: Path) -> Recipe:
    """The recipe's first stage on its first fold with another backbone, in a folder of its own below `folder`."""
    tables = recipe.model_dump(mode="python", exclude_none=True)
    tables.pop("specialist", None)
    tables["stage"] = tables["stage"][:1]
    tables["output"] = str(folder / re.sub(r"[^\w.-]", "_", backbone))
    tables["model"]["backbone"] = backbone
    tables["data"]["folds"]["run"] = (recipe.data.folds.run or (0,))[:1]
    return parse_saved(tables, origin=backbone)


def rank(rows: Sequence[BackboneResult], metric: str) -> list[BackboneResult]:
    """The rows from the best to the worst by the metric, those without it last."""
    sign = -1 if METRICS[metric].higher_is_better else 1

    def place(row: BackboneResult) -> float:
        value = row.metrics.get(metric, math.nan)
        return math.inf if math.isnan(value) else sign * value

    return sorted(rows, key=place)


def to_csv(rows: Sequence[BackboneResult]) -> str:
    """The rows as CSV, a column for each metric."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    others = [field.name for field in dataclasses.fields(BackboneResult) if field.name != "metrics"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["backbone", *metrics, *others[1:]])
    for row in rows:
        values = [getattr(row, name) for name in others[1:]]
        writer.writerow([row.backbone, *(row.metrics.get(name, "") for name in metrics), *map(_cell, values)])
    return text.getvalue()


def _cell(value: object) -> object:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _refusal(recipe: Recipe) -> str:
    """Why the backbone cannot be trained by the recipe, found without its weights; "" when it can."""
    try:
        check_sizes(recipe.model, [recipe.stage[0].size])
        check_drop_path(recipe.model, recipe.stage[0].size, [recipe.stage[0].drop_path])
    except RecipeError as error:
        return str(error)
    return ""


def _claim(folder: Path, prepared: Prepared) -> None:
    tables: dict[str, Any] = prepared.recipe.model_dump(mode="json")
    del tables["model"]["backbone"]  # more of them may join later
    content = {"recipe": tables, "data_fingerprint": prepared.fingerprint}
    claim(Claim(folder / "recipe.json", "a comparison", content, "Choose another folder with --out DIR, or remove it"))


def _finished(recipe: Recipe) -> BackboneResult | None:
    path = Path(recipe.output) / _RESULT
    return BackboneResult(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def _try(recipe: Recipe, watcher: Watcher, stop: Stop) -> BackboneResult:
    folder = Path(recipe.output)
    watcher.hear(RunBegan(recipe.model.backbone))
    try:
        return run_apart(measure, (recipe,), folder, watcher, stop)
    except Interrupted:
        raise
    except EngineError as error:
        return BackboneResult(recipe.model.backbone, str(error))


def measure(recipe: Recipe, watcher: Watcher, stop: Stop) -> BackboneResult:
    """Train `recipe` in this process, which does nothing else, and say what it took. Raises EngineError."""
    folder = Path(recipe.output)
    with join_ranks() as ranks:
        prepared = prepare(recipe)
        try:
            result = train(prepared, ranks, watcher, stop)
        finally:
            peak = _peak(folder, ranks.device)
    (fold,) = prepared.folds
    held = len(prepared.fold_data(fold).held_rows_N)
    epochs = read_log(RunFolder(folder).log)
    with torch.device("meta"):
        shapes_only = recipe.model.model_copy(update={"pretrained": False, "weights": ""})
        model = build_model(shapes_only, len(prepared.classes), recipe.stage[0].size)
    row = BackboneResult(
        backbone=recipe.model.backbone,
        metrics=result.metrics,
        # The first epoch compiles and warms up, and the median passes over it when there are three.
        train_images_per_second=statistics.median(epoch.images_per_second for epoch in epochs),
        valid_images_per_second=statistics.median(held / epoch.valid_seconds for epoch in epochs),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        host_gib=peak["host_gib"] or math.nan,
        device_gib=peak["device_gib"],
        seconds=sum(epoch.train_seconds + epoch.valid_seconds for epoch in epochs),
    )
    write_text(folder / _RESULT, json.dumps(dataclasses.asdict(row), indent=1) + "\n")
    return row


def _peak(folder: Path, device: torch.device) -> dict[str, float | None]:
    """The most memory held so far, by this process and by earlier ones that trained in the folder."""
    on_gpu = device.type == "cuda"
    peak = {
        "host_gib": peak_host_bytes() / GIB,
        "device_gib": torch.cuda.max_memory_allocated(device) / GIB if on_gpu else None,
    }
    path = folder / _PEAK
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    highest = {name: max(value, before.get(name) or 0.0) if value is not None else None for name, value in peak.items()}
    write_text(path, json.dumps(highest) + "\n")
    return highest
