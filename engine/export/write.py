"""Writes a run as one file: ONNX, or torch's .pt2, with what it says of itself and the proof that it answers as the run
does. A file that does not is not written."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import DataError, RecipeError
from engine.export.about import ABOUT, DRAWN, PROOF, TRAINING, about, to_json
from engine.export.from_bytes import taking_bytes
from engine.export.graph import Answer
from engine.export.proof import Between, Proof
from engine.export.proof_photos import photos_of
from engine.export.prove import asked_of, prove
from engine.export.stages import ModuleStages, stages_of
from engine.export.stitch import as_it_is, example, quietly, sizes, to_onnx
from engine.export.tensorrt import without_doubles
from engine.export.verify import unproven
from engine.export.whole_numbers import Quantised
from engine.predict.models import Models, Wishes, load_models

if TYPE_CHECKING:
    import onnx

Kind = Literal["onnx", "torch", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Pixels = NDArray[np.uint8]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "tensorrt": ".onnx"}

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}  # of backbones; all else stays float32
_INLINE = 1_900_000_000  # bytes of weights; protobuf ends at 2 GiB


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be exported of a run. fold: the name of one fold alone, "" for all. views: other ones than the run's.
    batch: photos at a time, None for any number. bytes: it takes photos' files in place of pixels. drawn: it proves
    itself by drawn photos, and carries none of those that it was trained on. Raises RecipeError for what no runtime
    would run.
    """

    kind: Kind = "onnx"
    fold: str = ""
    views: tuple[str, ...] = ()
    batch: int | None = None
    precision: Precision = "fp32"
    bytes: bool = False
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.bytes and (self.kind != "onnx" or self.batch not in (None, 1)):
            raise RecipeError(
                "--bytes: photos are decoded by onnxruntime-extensions, one at a time; use --to onnx, without --batch"
            )
        if self.precision == "int8" and self.kind == "torch":
            raise RecipeError("--precision int8: whole numbers are written as ONNX; choose --to onnx, or fp16 or bf16")
        if self.precision == "bf16" and self.kind != "torch":
            raise RecipeError(
                "--precision bf16: onnxruntime has no bfloat16 convolutions on the CPU, so the file could not be "
                "proven here; choose fp16, or --to torch"
            )


def models_of(run: Path, wanted: Wanted) -> tuple[Models, Path]:
    """The models that are to be exported, and the folder by which a `Predictor` opens the same ones. Raises
    CheckpointError, RecipeError or DataError."""
    folder = run / wanted.fold if wanted.fold else run
    if wanted.fold and not folder.is_dir():
        there = sorted(path.parent.name for path in run.glob("*/checkpoint.json"))
        raise RecipeError(f"--fold {wanted.fold}: {run} has no such fold; it has {', '.join(there) or 'none'}")
    return load_models(folder, Wishes(named=wanted.views)), folder


def write(models: Models, path: Path, wanted: Wanted, photos: Sequence[Pixels] = ()) -> dict[str, Any]:
    """Write these models to `path`, atomically, with a proof; returns what the file says of itself.

    photos: upright RGB pixels of the kind that it will be asked about, by which whole numbers are measured. Raises
    RecipeError for what a graph cannot say, DataError when int8 is asked for without photos, EngineError when the file
    does not answer as the models do; then nothing is written.
    """
    if path.suffix != SUFFIX[wanted.kind]:
        raise RecipeError(f"--out {path}: a file of --to {wanted.kind} has a name that ends in {SUFFIX[wanted.kind]}")
    if wanted.bytes and find_spec("onnxruntime_extensions") is None:
        raise RecipeError(
            "--bytes: the file could not be proven here, because onnxruntime-extensions is not installed: pip install "
            "onnxruntime-extensions"
        )
    if wanted.precision == "int8" and not photos:
        raise DataError(
            "--precision int8: how large activations get is measured on photos of the run's training data, and none of "
            "them is where it was; name a folder of such photos with --photos"
        )
    answer = Answer(models, _DTYPES.get(wanted.precision, torch.float32)).eval()
    batch, takes = (1, "bytes") if wanted.bytes else (wanted.batch, "pixels")
    sources = [] if wanted.drawn else photos_of(models.recipe.data, models.recipe.decode.background)
    proof_of = TRAINING if sources else DRAWN
    told = about(models, answer, precision=wanted.precision, batch=batch, takes=takes, proof=proof_of)
    run = asked_of(models)
    with unproven(path) as file:
        if wanted.kind == "torch":
            proof = prove(ModuleStages(answer, Between.of(told)), models, run, wanted.precision, sources)
            _write_torch(answer, file, told, batch, proof)
        else:
            model = to_onnx(answer, batch, Quantised(answer, photos, batch) if wanted.precision == "int8" else as_it_is)
            model = without_doubles(model) if wanted.kind == "tensorrt" else model
            put_metadata(model, {ABOUT: to_json(told)})
            _save(model, file)
            proof = prove(stages_of(file, told), models, run, wanted.precision, sources)
            model = taking_bytes(model) if wanted.bytes else model
            put_metadata(model, {PROOF: proof.to_json()})
            _save(model, file)
    return told


def put_metadata(model: onnx.ModelProto, said: dict[str, str]) -> None:
    """Put these into the model's metadata, in place of what stood there under their names."""
    kept = {each.key: each.value for each in model.metadata_props} | said
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)


def _save(model: onnx.ModelProto, path: Path) -> None:
    import onnx

    if sum(len(each.raw_data) for each in model.graph.initializer) > _INLINE:
        raise RecipeError(
            f"{path}: its weights take more than the 2 GB that one ONNX file can hold; export one fold (--fold 0), a "
            "lower precision (--precision fp16), or --to torch"
        )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _write_torch(answer: Answer, path: Path, told: dict[str, Any], batch: int | None, proof: Proof) -> None:
    with quietly(), torch.no_grad():
        program = torch.export.export(answer, (example(batch),), dynamic_shapes=(sizes(batch),))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: to_json(told), PROOF: proof.to_json()})
    path.write_bytes(file.getvalue())
