"""Writes a run as one file: ONNX, or torch's .pt2, with what it says of itself.

ONNX comes from torch.onnx.export by way of torch.export. What lies between photo and answer (prepared pixels, logits)
is given out while exporting and then taken from the outputs again: the tensors keep their names, so that whoever looks
for where an answer went wrong can ask for them.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from engine.errors import RecipeError
from engine.export.about import ABOUT, about, to_json
from engine.export.graph import Answer
from engine.export.stitch import example, quietly, sizes, to_onnx
from engine.files import atomic_write
from engine.predict.models import Models, Wishes, load_models

if TYPE_CHECKING:
    import onnx

Kind = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}

_INLINE = 1_900_000_000  # bytes of weights; protobuf ends at 2 GiB


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be exported of a run. fold: the name of one fold alone, "" for all. views: other ones than the run's.
    batch: photos at a time, None for any number."""

    kind: Kind = "onnx"
    fold: str = ""
    views: tuple[str, ...] = ()
    batch: int | None = None


def models_of(run: Path, wanted: Wanted) -> tuple[Models, Path]:
    """The models that are to be exported, and the folder by which a `Predictor` opens the same ones. Raises
    CheckpointError, RecipeError or DataError."""
    folder = run / wanted.fold if wanted.fold else run
    if wanted.fold and not folder.is_dir():
        there = sorted(path.parent.name for path in run.glob("*/checkpoint.json"))
        raise RecipeError(f"--fold {wanted.fold}: {run} has no such fold; it has {', '.join(there) or 'none'}")
    return load_models(folder, Wishes(named=wanted.views)), folder


def write(models: Models, path: Path, wanted: Wanted) -> dict[str, Any]:
    """Write these models to `path`, atomically; returns what the file says of itself. Raises RecipeError for what a
    graph cannot say."""
    answer = Answer(models).eval()
    told = about(models, answer, precision="fp32", batch=wanted.batch, takes="pixels")
    (_write_onnx if wanted.kind == "onnx" else _write_torch)(answer, path, told, wanted.batch)
    return told


def _write_onnx(answer: Answer, path: Path, told: dict[str, Any], batch: int | None) -> None:
    import onnx

    model = to_onnx(answer, batch)
    put_metadata(model, {ABOUT: to_json(told)})
    if sum(len(each.raw_data) for each in model.graph.initializer) > _INLINE:
        raise RecipeError(
            f"{path}: its weights take more than the 2 GB that one ONNX file can hold; export one fold (--fold 0), a "
            "lower precision (--precision fp16), or --to torch"
        )
    onnx.checker.check_model(model, full_check=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def put_metadata(model: onnx.ModelProto, said: dict[str, str]) -> None:
    """Put these into the model's metadata, in place of what stood there under their names."""
    kept = {each.key: each.value for each in model.metadata_props} | said
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)


def _write_torch(answer: Answer, path: Path, told: dict[str, Any], batch: int | None) -> None:
    with quietly(), torch.no_grad():
        program = torch.export.export(answer, (example(batch),), dynamic_shapes=(sizes(batch),))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: to_json(told)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(file.getvalue())
