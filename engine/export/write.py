"""Writes a run as one file: ONNX, or torch's .pt2, with what it says of itself.

ONNX comes from torch.onnx.export by way of torch.export. What lies between photo and answer (prepared pixels, logits)
is given out while exporting and then taken from the outputs again: the tensors keep their names, so that whoever looks
for where an answer went wrong can ask for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from engine.errors import RecipeError
from engine.export.about import ABOUT, PROOF, about, to_json
from engine.export.graph import Answer
from engine.export.proof import Between, Proof
from engine.export.prove import asked_of, prove
from engine.export.stages import ModuleStages, stages_of
from engine.export.verify import unproven
from engine.files import atomic_write
from engine.predict.models import Models, Wishes, load_models

if TYPE_CHECKING:
    import onnx

Kind = Literal["onnx", "torch"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
OPSET = 21

_EXAMPLE = (2, 50, 70)  # photos, and their height and width, that the graph is traced with; no two alike
_MOST = 1 << 40  # pixels a side: no limit, said as torch.export wants it
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
    """Write these models to `path`, atomically, with a proof; returns what the file says of itself. Raises RecipeError
    for what a graph cannot say, EngineError when the file does not answer as the models do; then nothing is written."""
    answer = Answer(models).eval()
    told = about(models, answer, precision="fp32", batch=wanted.batch, takes="pixels")
    with unproven(path) as file:
        if wanted.kind == "onnx":
            _write_onnx(answer, file, told, wanted.batch)
            _put_proof(file, prove(stages_of(file, told), models, asked_of(models), told["precision"]))
        else:
            proof = prove(ModuleStages(answer, Between.of(told)), models, asked_of(models), told["precision"])
            _write_torch(answer, file, told, wanted.batch, proof)
    return told


def _put_proof(path: Path, proof: Proof) -> None:
    import onnx

    model = onnx.load(path)
    put_metadata(model, {PROOF: proof.to_json()})
    path.write_bytes(model.SerializeToString())


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


def to_onnx(answer: Answer, batch: int | None = None) -> onnx.ModelProto:
    """The graph, whose inner tensors bear the names of `Answer.names`, and whose only output is `probabilities`."""
    whole = _Between(answer).eval()
    names = answer.names
    with _quietly():
        program = torch.onnx.export(
            whole,
            (_example(batch),),
            dynamo=True,
            dynamic_shapes=(_sizes(batch),),
            input_names=["images"],
            output_names=names,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    del model.graph.output[1:]
    return model


def put_metadata(model: onnx.ModelProto, said: dict[str, str]) -> None:
    """Put these into the model's metadata, in place of what stood there under their names."""
    kept = {each.key: each.value for each in model.metadata_props} | said
    del model.metadata_props[:]
    for key, value in kept.items():
        model.metadata_props.add(key=key, value=value)


def _write_torch(answer: Answer, path: Path, told: dict[str, Any], batch: int | None, proof: Proof) -> None:
    with _quietly(), torch.no_grad():
        program = torch.export.export(answer, (_example(batch),), dynamic_shapes=(_sizes(batch),))
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: to_json(told), PROOF: proof.to_json()})
    with atomic_write(path) as temporary:
        temporary.write_bytes(file.getvalue())


class _Between(nn.Module):
    """`Answer.between` as what is traced."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.answer.between(images)


def _example(batch: int | None) -> Tensor:
    photos, height, width = _EXAMPLE
    return torch.zeros(batch or photos, height, width, 3, dtype=torch.uint8)


def _sizes(batch: int | None) -> dict[int, Any]:
    sizes: dict[int, Any] = {
        1: torch.export.Dim("height", min=1, max=_MOST),
        2: torch.export.Dim("width", min=1, max=_MOST),
    }
    return sizes if batch else {0: torch.export.Dim("batch", min=1, max=_MOST), **sizes}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
